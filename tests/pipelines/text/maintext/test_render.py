"""How blocks stand in the text."""

import pytest
from resiliparse.parse.html import HTMLTree

from castor.pipelines.text.maintext import render, stream

LONG = "A column of a layout holds more text than a cell of data would. " * 4


def whole(html):
    page = stream.read(stream.canonical(HTMLTree.parse(html)))
    return render.render(page, range(len(page.text)))


@pytest.mark.parametrize(
    "html, text",
    [
        ("<h1>T</h1><p>a<p>b<br>c", "T\n\na\n\nb\nc"),
        ("<p>a<ul><li>b<li><p>c<p>d</ul><p>e", "a\n\n- b\n- c\nd\n\ne"),
        ("<ol><li>a<ul><li>b</ul><li>c</ol>", "- a\n- b\n- c"),
        ("<table><caption>k<tr><th>a<th>b<tr><td>c<br>d<td><p>e<p>f</table>", "k\n\na | b\nc d | e f"),
        (f"<table><tr><td>menu<td><p>{LONG}<p>x<br>y</table>", f"menu\n\n{LONG.strip()}\n\nx\ny"),
        ("<table><tr><td><h2>a</h2><p>b<p>c<p>d</table>", "a\n\nb\n\nc\n\nd"),
        ("<dl><dt>a<dd>b<dt>c<dd>d</dl>", "a\nb\nc\nd"),
        ("<p>a<pre>b\n  c</pre>", "a\n\nb\n  c"),
        ("", ""),
    ],
)
def test_render(html, text):
    assert whole(html) == text


def test_what_is_not_chosen_leaves_no_trace():
    page = stream.read(stream.canonical(HTMLTree.parse("<ul><li>a<li>b<li>c</ul><p>d")))
    assert (
        render.render(page, [0, 2]) == "- a\n- c" and render.render(page, [3]) == "d" and render.render(page, []) == ""
    )

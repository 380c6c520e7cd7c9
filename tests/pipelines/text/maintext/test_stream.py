"""Canonical HTML to nodes and blocks."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from resiliparse.parse.html import HTMLTree

from castor.pipelines.text.maintext import stream


def read(html, **options):
    return stream.read(stream.canonical(HTMLTree.parse(html)), **options)


def test_blocks_nodes_and_links():
    page = read("<p>One <b>two</b>\n three<div>four <a href=/x>link &amp; more</a></div><ul><li>a<li>b</ul>tail")
    assert page.text == ["One two three", "four link & more", "a", "b", "tail"]
    assert page.link == [0, len("link &amp; more"), 0, 0, 0]
    assert [page.tag[node] for node in page.node] == ["p", "div", "li", "li", "body"]
    listing = page.tag.index("ul")
    assert (page.first[listing], page.last[listing]) == (2, 4)


def test_what_is_not_shown_is_no_text():
    hidden = "<!-- <p>no</p> --><noscript>no</noscript><select><option>no</select>"
    assert read(f"<body><script>if (a<b) x('<p>no</p>')</script><style>p{{}}</style><p>yes{hidden}").text == ["yes"]
    assert read("<p>a<span class='x sr-only'>no</span>b").text == ["ab"]
    assert read(
        "<p>a<span class='sr-only'>no</span>b<sup class='sr-only'>c</sup><span class='sr-only'>no</span>d"
    ).text == ["abcd"]
    assert read(
        "<p>a<sup class='reference'>no</sup>b<span class='reference'>c</span><sup class='reference'>no</sup>d"
    ).text == ["abcd"]


@pytest.mark.parametrize("blank", [" ", "  ", "\n", "\t ", "\x1c", "\x85", "\u2003", "\u2028", "\u3000"])
def test_blanks_of_any_kind_are_one_space(blank):
    assert read(f"<p>{blank}one{blank}two three{blank}</p>").text == ["one two three"]


def test_what_is_behind_hidden_elements_and_stray_quotes_is_read():
    assert read(
        "<p>a <object><object>no</object>no</object>b <span class='sr-only'>no<span>no</span></span>c"
    ).text == ["a b c"]
    assert read('<p>one <a href="/x" ""="">two</a> three').text == ["one two three"]
    assert read("<p>a <script>x = '<!--'</script>b <!-- <script> -->c").text == ["a b c"]


def test_attribute_values_with_brackets_and_entities():
    page = read("""<p title='a > b "q" <i>'>1 &lt; 2 &amp;&amp; 3 &gt; 2&nbsp;!<p>&amp;lt; stays""")
    assert page.text == ["1 < 2 && 3 > 2 !", "&lt; stays"]


def test_breaks_and_preformatted_text():
    assert read("<p>a<br>b<br> <br>c<br>").text == ["a\nb", "c"]
    assert read("<pre>\ndef f():\n    return 1\n\n    # x &lt; y</pre>").text == [
        "def f():\n    return 1\n\n    # x < y"
    ]


def test_soft_hyphens_go_and_links_within_the_page_are_none():
    page = read("<h2>Donau\xaddampf <a href='#top'>up</a> <a name=x>anchor</a></h2>")
    assert page.text == ["Donaudampf up anchor"] and page.link == [0]


def test_addresses_and_alternative_texts_on_request():
    html = "<p>See <a href='/a?b=1&amp;c=2'>here</a><img src=x alt='A dog'></p>"
    assert read(html, links=True, alt_texts=True).text == ["See here (/a?b=1&c=2) A dog"]
    assert read(html).text == ["See here"]


ANNOTATION = "<annotation encoding='application/x-tex'>"


@pytest.mark.parametrize(
    "html, text",
    [
        (
            r'<span style="display:none"><math alttext="{\displaystyle x^{2}}"><mi>x</mi></math></span><img alt=x>',
            "a $x^{2}$ b",
        ),
        (
            rf"<math display=block><semantics><mi>y</mi>{ANNOTATION}\frac{{y}}{{2}}</annotation></semantics></math>",
            r"a $$\frac{y}{2}$$ b",
        ),
        (
            f"<span><span class=katex-mathml><math>{ANNOTATION}z</annotation></math></span><span class=katex-html>z</span></span>",
            "a $z$ b",
        ),
        ('<script type="math/tex; mode=display">a &lt; b < c</script>', "a $$a &lt; b < c$$ b"),
        ("<math><mi>q</mi></math><script type=text/javascript>q</script>", "a b"),
        ("<template><math alttext=t></math></template><svg><math alttext=s></math></svg>", "a b"),
    ],
)
def test_formulas_are_kept_as_tex(html, text):
    assert read(f"<p>a {html} b</p>").text == [text]


TAGS = (
    "p|/p|div class='share'|/div|a href='x'|/a|h1|/h2|table|tr|td|/table|li|ul|/ul|pre|/pre|br|hr|b|/i|!--|script|/script|svg|frameset|plaintext|"
    "textarea|main|article|footer|/body|math alttext=x|/math|template"
)
PIECES = st.sampled_from(
    [f"<{tag}>" for tag in TAGS.split("|")]
    + [
        "-->",
        "<",
        ">",
        '"',
        "'",
        "&",
        "&nbsp;",
        "\n",
        "\v",
        "\xad",
        "\0",
        "A sentence of some length, ended as usual.",
        "字。",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=40))
def test_any_markup_gives_nested_nodes_over_ordered_blocks(pieces):
    page = read("".join(pieces))
    count = len(page.text)
    assert len(page.link) == len(page.node) == count and len(page.tag) == len(page.parent) == len(page.first) == len(
        page.last
    )
    assert all(text.strip() and 0 <= link <= len(text) for text, link in zip(page.text, page.link))
    for node in range(1, len(page.tag)):
        parent = page.parent[node]
        assert parent < node and page.first[parent] <= page.first[node] <= page.last[node] <= page.last[parent] <= count
    assert all(page.first[node] <= block < page.last[node] for block, node in enumerate(page.node))

"""The main text of small pages."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from resiliparse.parse.html import HTMLTree

from castor.pipelines.text.maintext import main_text as maintext

A = "The library keeps every book that was ever lent to it, and lends each of them to whoever asks for it. "
B = "Its oldest shelves hold the ledgers of the guild, written by hands that nobody living would recognise. "
C = "On the upper floor the maps are kept, and from there the whole harbour can be seen on a clear morning. "
TEXTS = {
    "en": (A, B, C),
    "ru": ("Библиотека хранит каждую книгу, которую ей когда-либо давали, и выдаёт её всякому, кто попросит. ",) * 3,
    "zh": ("图书馆保存着曾经借给它的每一本书，并把每一本书借给任何想要它的人，无论他来自哪里。",) * 3,
    "ar": ("تحتفظ المكتبة بكل كتاب أعير لها في يوم من الأيام وتعير كل كتاب لمن يطلبه من الناس. ",) * 3,
}


def extract(html, **options):
    return maintext.extract(HTMLTree.parse(html), **options)


def article(paragraphs):
    return "".join(f"<p>{text * 3}</p>" for text in paragraphs)


@pytest.mark.parametrize("language", TEXTS)
def test_an_article_among_the_furniture_of_a_site(language):
    text = article(TEXTS[language])
    found = extract(
        f"""<body><header><a href=/>Site</a><nav><ul><li><a href=/1>News</a><li><a href=/2>Sport</a></ul></nav></header>
        <div id=main><h1>Title</h1><div class=byline>By A. Writer, 3 May</div><div class=body>{text}</div>
        <div class=share>Share this with all of your friends, today.</div>
        <div class="related-posts"><h3>Related</h3><p>{TEXTS[language][0]}</p></div></div>
        <div id=comments><h3>Comments</h3><p>{TEXTS[language][0] * 9}</p></div><div class=sidebar><p>{TEXTS[language][1]}</p></div>
        <footer><p>© 2024 The Site. All rights reserved, in all countries.</p></footer>"""
    )
    assert found == "Title\n\n" + "\n\n".join((t * 3).strip() for t in TEXTS[language])


def test_readers_comments_on_request():
    page = f"<body><article>{article((A, B, C))}</article><div id=comments><p>{B}</p></div>"
    assert extract(page).count(B.strip()) == 3 and extract(page, comments=True).count(B.strip()) == 4


def test_teasers_of_other_articles_go_and_a_linked_title_stays():
    card = "<div class=card><h3><a href=/{0}>Headline {0}</a></h3><p>" + B + "</p></div>"
    page = f"<body><div><h2><a href=/self>The title</a></h2>{article((A, B, C))}</div><div>{card.format(1)}{card.format(2)}{card.format(3)}</div>"
    found = extract(page)
    assert found.startswith("The title\n\n") and "Headline" not in found and found.count("Its oldest shelves") == 3


def test_a_name_is_not_believed_if_it_holds_the_text():
    assert A.strip() in extract(f"<body><div class='sidebar widget'>{article((A, B, C))}</div><p>{B}</p>")
    assert A.strip() in extract(
        f"<body><div class='promo'><h1>Title</h1>{article((A, B, C))}</div><div class=other>{article((C,) * 30)}</div>"
    )


def test_pieces_of_a_text_in_several_elements_of_one_class():
    ad = "<div class=ad>Buy this, buy it now.</div>"
    pieces = "".join(f"<div class='article-body'>{article((text,))}</div>{ad}" for text in (A, B, C))
    found = extract(f"<body><div class=x>{pieces}</div>")
    assert all(t.strip() in found for t in (A, B, C)) and "Buy" not in found


def test_headings_lists_tables_and_code():
    found = extract(
        f"""<body><article><h1>Title</h1><p>{A * 2}</p><h2>List</h2><ul><li>first item<li>second <b>item</b><ul><li>nested</ul></ul>
        <h2>Table</h2><table><tr><th>a<th>b<tr><td>1<td>2</table><h3>Code</h3><pre>if x:\n    y()</pre><dl><dt>term<dd>meaning</dl><p>{B * 2}</p>
        <h2>See also</h2><ul><li><a href=/x>Another page</a></ul></article>"""
    )
    parts = [
        "Title",
        (A * 2).strip(),
        "List",
        "- first item\n- second item\n- nested",
        "Table",
        "a | b\n1 | 2",
        "Code",
        "if x:\n    y()",
    ]
    assert found == "\n\n".join([*parts, "term\nmeaning", (B * 2).strip()])


def test_the_lead_between_title_and_text_stays():
    lead = "A lead that says in one sentence what the article is going to say in very many of them"
    page = f"<body><div><h1>Title</h1><h2>{lead}</h2><span>3 May</span></div><div class=article-body>{article((A, B, C))}</div>"
    assert extract(page).startswith(f"Title\n\n{lead}\n\nThe library")


def test_short_pages_are_judged_by_all_their_text():
    page = "<body><nav><a href=/>Home</a></nav><div><h3>Cameras</h3><p>Anna: a Leica.<p>Ben: a Zorki.</div>"
    assert extract(page) == "Cameras\n\nAnna: a Leica.\n\nBen: a Zorki."


def test_pages_without_text():
    assert (
        extract("")
        == extract("<frameset><frame src=x></frameset>")
        == extract("<body><nav><a href=/>Home</a></nav>")
        == ""
    )
    assert extract("<body><nav>Home</nav><footer>Imprint</footer>") == ""


def test_whole_page():
    page = f"<body><nav><a href=/>Home</a></nav>{article((A,))}<footer>Imprint</footer>"
    assert extract(page, main_content=False) == f"Home\n\n{(A * 3).strip()}\n\nImprint"


TAGS = "p|div class=share|div class=article-body|/div|a href=x|/a|h1|h2|/h2|table|tr|td|/table|li|ul|/ul|pre|/pre|br|main|article|footer|dl|dt|dd"
PIECES = st.sampled_from([f"<{tag}>" for tag in TAGS.split("|")] + ["Word", A, "字字字。", "&nbsp;", "\0"])


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=60))
def test_any_markup_has_a_main_text_that_is_part_of_the_whole(pieces):
    html = "<body>" + "".join(pieces)
    main, whole = extract(html), extract(html, main_content=False)
    assert main == extract(html) and set(main.split()) <= set(whole.split()) | {"-", "|"}

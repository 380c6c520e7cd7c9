"""Each rule of the web's rule sets: what it turns away, what it lets pass, and other languages."""

import pytest

from pipelines import words
from pipelines.document import Document, document_id
from pipelines.filters import c4, fineweb, gopher_quality

SENTENCE = "The library keeps every book that was ever lent to it, and readers have been grateful."
GOOD = "\n".join(f"{SENTENCE} Number {i} of the shelf is with them." for i in range(8))
CHINESE = "\n".join(f"这是一个关于图书馆的故事，第{i}章讲述了读者和书籍之间的关系。每个人都可以在这里找到自己喜欢的书。" for i in range(6))
THAI = "\n".join(f"ห้องสมุดแห่งนี้เก็บหนังสือทุกเล่มที่เคยยืมไป บทที่ {i} เล่าเรื่องของผู้อ่าน." for i in range(6))
GERMAN = "\n".join(f"Die Bücherei bewahrt jedes Buch auf, das ihr geliehen wurde, und Regal {i} ist voll." for i in range(8))


def document(text, language="en"):
    return Document(document_id("t", text[:50]), "s", "text", text, None, {"language": language})


@pytest.mark.parametrize("text, language", [(GOOD, "en"), (CHINESE, "zh"), (THAI, "th"), (GERMAN, "de")])
@pytest.mark.parametrize("rules", [gopher_quality.Filter(), fineweb.Filter()], ids=lambda r: r.name)
def test_prose_of_any_language_passes(rules, text, language):
    assert rules.check(document(text, language)) is None


@pytest.mark.parametrize(
    "reason, text",
    [
        ("few_words", "Too short to say."),
        ("many_words", "the and word " * 34_000),
        ("short_words", "a of the be " * 20 + "b c d " * 40),
        ("long_words", "the of " + "unreasonablylongword " * 60),
        ("hashes", GOOD + " #tag" * 40),
        ("ellipses", GOOD.replace(".", "...") + " so ..." * 20),
        ("bullet_lines", "\n".join("- " + line for line in GOOD.split("\n"))),
        ("ellipsis_lines", "\n".join(line + " and then some more words of it..." for line in GOOD.split("\n"))),
        ("words_without_letters", GOOD + " 12 34 56 789 -- ==" * 20),
        ("stop_words", "Library book shelf reader lending catalogue. " * 12),
    ],
)
def test_gopher_quality(reason, text):
    assert gopher_quality.Filter().check(document(text)) == f"gopher_quality.{reason}"


def test_stop_words_bind_only_their_language():
    text = "Library book shelf reader lending catalogue. " * 12
    assert gopher_quality.Filter().check(document(text, "la")) is None
    assert gopher_quality.Filter(stop_words={"la": ("et", "in")}).check(document(text, "la")) == "gopher_quality.stop_words"
    assert gopher_quality.Filter(stop_words={}).check(document(text)) is None


@pytest.mark.parametrize(
    "reason, text",
    [
        ("empty", " \n "),
        ("terminal_lines", "\n".join(f"{SENTENCE[:-1]} {i}" for i in range(10))),
        ("short_lines", "\n".join([SENTENCE] + [f"Item {i}." for i in range(9)])),
        ("repeated_lines", GOOD + "\n" + GOOD.split("\n")[0]),
        ("newlines", "\n".join(f"Supercalifragilistic expialidocious{i}." for i in range(10))),
    ],
)
def test_fineweb(reason, text):
    assert fineweb.Filter(short_line=30 if reason != "newlines" else 5).check(document(text)) == f"fineweb.{reason}"


def test_c4():
    cleaned = c4.Clean()(
        document(
            f"Menu\n{SENTENCE} [12]\nThis line has no end mark at all\nPlease enable Javascript to see this page.\nToo short.\nSee our privacy policy about cookies here.\nIt goes on and on and on..."
        )
    )
    assert cleaned.text == SENTENCE
    assert c4.Clean()(document("Menu\nHome")).reason == "c4.no_lines"
    assert c4.Filter().check(document(GOOD)) is None and c4.Filter().check(document(CHINESE, "zh")) is None
    assert c4.Filter().check(document(GOOD + "Lorem ipsum dolor.")) == "c4.lorem_ipsum"
    assert c4.Filter().check(document(GOOD + "{ code }")) == "c4.curly_bracket"
    assert c4.Filter().check(document("One sentence. Version 1.2.3 and no more")) == "c4.few_sentences"


@pytest.mark.parametrize("rules", [gopher_quality.Filter(), fineweb.Filter(), c4.Filter()], ids=lambda r: r.name)
def test_rules_are_linear(rules):
    import time

    for text in ("x" * 4_000_000, "a " * 2_000_000, "\n" * 4_000_000, "。" * 2_000_000, "...." * 1_000_000, "[" * 2_000_000):
        started = time.process_time()
        rules.check(document(text))
        assert time.process_time() - started < 5


def test_words():
    assert words.words("two words, 日本 語\u0301") == ["two", "words,", "日", "本", "語", "\u0301"]
    assert words.words("ดี") == ["ดี"] and words.unspaced_share("ab 日本") == 0.5 and words.unspaced_share("") == 0

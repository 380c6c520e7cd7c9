"""The web job on real archives, and on every broken or hostile web input: what becomes of each is written down here."""

import pytest

from castor.pipelines import web
from castor.pipelines.core import dead_letters
from castor.pipelines.core.sandbox import Sandbox
from castor.pipelines.corpus.reader import read_corpus
from castor.pipelines.document import Document, Rejection
from castor.pipelines.execution import launcher
from castor.pipelines.readers.web_source import WebSource

pytestmark = pytest.mark.real

# For each file: the set of errors of its dead letters, and the number of valid records (those that the source turns
# into documents).
BAD = {
    "empty.warc.gz": ({"empty"}, 0),
    "gzip_bomb_1GB.jsonl.gz": ({"too_large"}, 0),
    "html_cp949_undeclared.html": (set(), 1),
    "html_deep_100k.html.gz": (set(), 1),
    "html_invalid_utf8.html": ({"charset"}, 0),
    "html_million_attrs.html.gz": ({"too_many_attributes"}, 0),
    "html_one_word_20MB.html.gz": ({"too_large"}, 0),
    "html_sjis_declared_utf8.html": (set(), 1),
    "html_utf16le_nobom.html": (set(), 1),
    "invalid_tokens.jsonl": ({"no_text"}, 0),
    "jsonl_deep_nesting.jsonl": ({"deep_nesting"}, 0),
    "jsonl_mixed.jsonl": (
        {"bad_json", "blank_line", "not_an_object", "wrong_type", "no_text", "lone_surrogate", "nul", "bad_utf8"},
        4,
    ),
    "not_a_warc.warc.gz": ({"not_warc"}, 0),
    "warc_bad_uri_and_date.warc.gz": ({"bad_header"}, 0),
    "warc_corrupt_member.warc.gz": ({"corrupt_gzip"}, 4),
    "warc_deep_html.warc.gz": (set(), 1),
    "warc_garbage_between.warc.gz": ({"not_gzip"}, 2),
    "warc_http_gzip_bomb.warc.gz": ({"too_large"}, 0),
    "warc_huge_header.warc.gz": ({"huge_header"}, 0),
    "warc_negative_content_length.warc.gz": ({"bad_length"}, 2),
    "warc_one_gzip_stream.warc.gz": (set(), 3),
    "warc_truncated.warc.gz": ({"truncated_gzip"}, 4),
    "warc_wrong_content_length.warc.gz": ({"too_large"}, 2),
    "zstd_bitflip.jsonl.zst": ({"corrupt_zstd"}, 12),
    "zstd_truncated.jsonl.zst": ({"truncated_zstd"}, 17),
}


@pytest.fixture(scope="module")
def refined(real_data, tmp_path_factory):
    """The job, with every rule off, on the bad files and two crawls; (manifest, documents, dead letters)."""
    output = str(tmp_path_factory.mktemp("web"))
    made = web.Job(
        name="real",
        input_root=str(real_data),
        inputs=tuple(f"bad/{name}" for name in BAD)
        + ("web/crawl/newspaper4k*", "web/real/dolma-sample-0000.warc.gz", "web/text/ko-rust-book.jsonl.zst"),
        output=output,
        admission=(),
        filters=(),
        dead_letter_threshold=0.5,
        sandbox=Sandbox(cpu_seconds=1.0, memory_bytes=1 << 30),
    )
    manifest = launcher.run(made, quiet=True)
    return manifest, list(read_corpus(output)), list(dead_letters.read(output))


def test_every_bad_file_has_its_outcome(refined):
    manifest, documents, letters = refined
    for name, (errors, _) in BAD.items():
        prefix = f"bad/{name}"
        assert {x.error for x in letters if x.source.partition("#")[0] == prefix} == errors, name
    funnel = manifest["funnel"]
    assert funnel["read"] == funnel["kept"] + sum(
        sum(funnel[k].values()) for k in ("rejected", "duplicates", "dead_letters")
    )


def test_sound_records_of_bad_files_come_through(real_data):
    for name, (_, sound) in BAD.items():
        if not sound or name.startswith("html"):
            continue
        elements = list(WebSource("real", str(real_data), (f"bad/{name}",)).read(f"{real_data}/bad/{name}"))
        assert sum(isinstance(e, Document) for e in elements) == sound, name


@pytest.mark.parametrize(
    "name, language, words",
    [
        ("html_cp949_undeclared.html", "ko", "대통령"),
        ("html_utf16le_nobom.html", "ko", "대통령"),
        ("html_sjis_declared_utf8.html", "ja", "フジテレビ"),
    ],
)
def test_pages_in_odd_encodings_are_read_right(refined, name, language, words):
    sources = {d.source: d for d in refined[1]}
    document = sources.get(f"bad/{name}")
    if document is None:  # the two Korean files hold the same page: one is the other's duplicate
        document = (
            sources["bad/html_cp949_undeclared.html"] if "utf16" in name else sources["bad/html_utf16le_nobom.html"]
        )
    assert document.metadata["language"] == language and words in document.text and "\ufffd" not in document.text


def test_crawls_come_through_whole(refined):
    manifest, documents, letters = refined
    pages = [d for d in documents if "/crawl/newspaper4k" in d.source]
    assert len(pages) >= 15 and not [x for x in letters if "/crawl/" in x.source]
    assert len([d for d in documents if "/text/ko-rust-book" in d.source]) >= 160
    assert manifest["funnel"]["rejected"]["page.record_type"] >= 25


def test_all_1443_pages_of_the_crawl_are_read(real_data):
    source = WebSource("real", str(real_data), ("web/crawl/*",))
    elements = [e for uri in source.files() for e in source.read(uri)]
    pages = [e for e in elements if isinstance(e, Document)]
    assert len(pages) == 1443 and {e.reason for e in elements if isinstance(e, Rejection)} == {"page.record_type"}
    assert len({e.id for e in pages}) == 1443

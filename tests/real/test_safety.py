"""Lists, wishes of publishers and personal data on the real pages: what is found there, and that nothing else is."""

import collections

import pytest

from castor.pipelines.document import Document
from castor.pipelines.filters import robots, url_lists
from castor.pipelines.readers.web_source import WebSource
from castor.pipelines.text import pii

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def fetched(real_data):
    source = WebSource("web", str(real_data / "web" / "crawl"), ("*.warc.gz",))
    return [element for uri in source.files() for element in source.read(uri) if isinstance(element, Document)]


def test_what_publishers_ask(fetched):
    reasons = collections.Counter(filter(None, map(robots.Filter().check, fetched)))
    assert reasons == {"robots.tdm-reservation": 6, "robots.noai": 2}
    assert sum(robots.Filter(directives=("noindex", "none")).check(page) is not None for page in fetched) == 8


def test_our_own_lists_turn_no_ordinary_address_away(fetched):
    assert [page.metadata["url"] for page in fetched if url_lists.Filter().check(page)] == []


def test_personal_data_in_real_text(real_data):
    """30 pages and a book on programming in 170 parts have three phone numbers and three e-mail addresses.

    Each one is real; no version or example is among them.
    """
    source = WebSource("web", str(real_data / "web" / "text"), ("*.jsonl.gz", "*.json.gz", "*.jsonl.zst"))
    counts, pages = collections.Counter(), 0
    for uri in source.files():
        for document in source.read(uri):
            if isinstance(document, Document):
                counts.update(pii.Replace()(document).metadata.get("pii", {}))
                pages += 1
    assert pages == 200 and counts == {"phone": 3, "email": 3}

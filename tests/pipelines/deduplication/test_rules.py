"""Rules of deduplication: keys of URLs, orders of survivors, nodes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from castor.pipelines.deduplication import rules
from castor.pipelines.deduplication.rules import (
    ByBytes,
    ByText,
    ByUrl,
    Highest,
    Longest,
    Newest,
    SmallestId,
    node,
    star,
)
from castor.pipelines.document import Document, document_id
from castor.pipelines.text.urls import normalise_url


def document(number=0, text="text", data=None, **metadata):
    return Document(document_id("test", str(number)), "source", "text", text, data, metadata)


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("http://www.Example.org/Path/", "example.org/Path"),
        ("https://example.org/Path", "example.org/Path"),
        ("https://example.org/Path?utm_source=x&y=1", "example.org/Path"),
        ("https://example.org/Path?ref=front", "example.org/Path"),
        ("https://example.org/Path/?feed=rss", "example.org/Path"),
        ("https://example.org/Path?id=7", "example.org/Path?id=7"),
        (
            "https://example.org/?id=7&utm_source=x",
            "example.org/?id=7&utm_source=x",
        ),  # as C4: only a tail that begins the query
        ("example.org", "example.org"),
        ("http://www.www.org//", "www.org"),
        ("", ""),
    ],
)
def test_addresses_as_c4_compares_them(url, normal):
    assert normalise_url(url) == normal


def test_keys():
    assert ByUrl().keys(document(url="http://a.org/")) == ByUrl().keys(document(url="https://www.a.org"))
    assert ByUrl().keys(document()) == ByUrl().keys(document(url="")) == ByUrl().keys(document(url=5)) == []
    assert (
        ByText().keys(document(text=" a\n b "))
        == ByText().keys(document(text="a b"))
        != ByText().keys(document(text="A b"))
    )
    assert (
        ByText().keys(document(text=" "))
        == ByText().keys(document(text=None))
        == ByBytes().keys(document(data=b""))
        == []
    )
    assert len(ByBytes().keys(document(data=b"x"))[0]) == rules.KEY_BYTES
    assert len(ByUrl().keys(document(url="http://\udce9.org"))) == len(ByText().keys(document(text="\ud800"))) == 1


numbers = st.one_of(st.floats(allow_nan=False), st.integers(-(10**6), 10**6))


@given(numbers, numbers)
def test_the_highest_number_stays(a, b):
    ranks = [Highest("score").rank(document(score=value)) for value in (a, b)]
    assert (ranks[0] < ranks[1]) == (float(a) < float(b)) and 0 < min(ranks) and max(ranks) < 1 << 64
    assert Highest("score").rank(document()) == 0


@pytest.mark.parametrize("value", [None, "1", float("nan"), True, 10**400])
def test_what_is_no_number_has_no_rank(value):
    assert Highest("score").rank(document(score=value)) == 0


def test_orders():
    ranks = [
        Newest().rank(document(date=d))
        for d in ("20230501000000", "2023-05-01T00:00:01Z", "2023-05-01T00:00:01.5Z", "2023-05-02", "soon", 7)
    ]
    assert ranks[0] < ranks[1] == ranks[2] < ranks[3] and ranks[4:] == [0, 0]
    assert Longest().rank(document(text="abc")) == 3 and Longest().rank(document(text=None, data=b"12345")) == 5
    assert SmallestId().rank(document()) == 0


def test_the_better_document_is_the_smaller_node_and_then_the_smaller_id():
    rule = ByText(keep=Longest())
    short, long = sorted((node(rule, document(0, "a" * 10)), node(rule, document(1, "a"))), reverse=True)
    assert rules.identifier(long) == document(0).id and rules.identifier(short) == document(1).id
    same = [node(ByText(), document(i)) for i in range(20)]
    assert rules.identifier(min(same)) == min(document(i).id for i in range(20)) and len(same[0]) == rules.NODE_BYTES


@given(st.lists(st.binary(min_size=2, max_size=2), min_size=1))
def test_star(members):
    links = list(star(members))
    assert sorted({a for a, _ in links} | {min(members)}) == sorted(set(members)) and {b for _, b in links} <= {
        min(members)
    }

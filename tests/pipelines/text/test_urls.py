"""Addresses in parts."""

from castor.pipelines.text.urls import domain_suffixes, split_url


def test_domain_suffixes():
    assert domain_suffixes("www.a.b.org") == ["a.b.org", "b.org", "org"]
    assert split_url("HTTP://U:P@A.org:80/P?q=1#f") == ("a.org", "/p?q=1")

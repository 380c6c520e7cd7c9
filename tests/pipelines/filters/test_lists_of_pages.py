"""The rules that ask lists and headers: addresses, words, directives of publishers, known pictures."""

import hashlib

import numpy as np
import pytest

from castor.pipelines.core import lists
from castor.pipelines.document import Document
from castor.pipelines.filters import bad_words, image_lists, robots, url_lists
from castor.pipelines.media import fingerprints
from castor.tasks.errors import ConfigurationError


def page(text="", data=None, **metadata):
    return Document("0" * 32, "s", "text", text, data, metadata)


@pytest.fixture
def listed(tmp_path):
    """(name, entries) -> path of a list."""

    def write(name, *entries):
        path = tmp_path / name
        path.write_text("\n".join(entries))
        return str(path)

    return write


def test_addresses(listed):
    rules = url_lists.Filter(
        domains=(listed("d", "bad.org", "www.worse.com", "co.uk", "10.1.2.3"),),
        urls=(listed("u", "fine.org/bad/page"),),
    )

    def why(url):
        reason = rules.check(page(url=url))
        return reason and f"{reason}: {reason.measure}"

    assert why("https://user:pw@WWW.Bad.org:8080/x") == "url_lists.domain: bad.org"
    assert why("http://a.b.bad.org") == "url_lists.domain: bad.org" and why("http://notbad.org/") is None
    assert (
        why("//worse.com?x") == "url_lists.domain: worse.com" and why("http://any.co.uk/") == "url_lists.domain: co.uk"
    )
    assert why("http://10.1.2.3/") == "url_lists.domain: 10.1.2.3" and why("http://110.1.2.3/") is None
    assert (
        why("http://www.fine.org/bad/page/") == "url_lists.url: fine.org/bad/page"
        and why("http://fine.org/bad") is None
    )
    assert why("http://e.org/online-casino/x") == "url_lists.strict: onlinecasino"
    assert why("http://e.org/%6fnline%2Dcasino") == "url_lists.strict: onlinecasino"
    assert why("http://e.org/all/xxx.html") == "url_lists.hard_word: xxx" and why("http://e.org/xxxl-shirts") is None
    assert why("http://e.org/sex-education") is None and why("http://essex.org/sussex/free") is None
    assert why("http://e.org/free-sex-and-poker") == "url_lists.soft_words: free poker sex"
    assert why("http://e.org/sex/sex/sex") is None
    for odd in ("", "http://", "http://[::1]/", "http://..", "\x00", "http://" + "a." * 5000, "http://bücher.de/ü", 5):
        rules.check(page(url=odd))
    assert rules.check(page()) is None


def test_an_international_domain_is_known_under_both_names(listed):
    rules = url_lists.Filter(domains=(listed("d", "xn--bcher-kva.de"),))
    assert rules.check(page(url="http://www.bücher.de/")) == "url_lists.domain"


def test_words(listed):
    own = {"en": listed("en", "bad", "very bad thing", "café"), "zh": listed("zh", "坏词"), "*": listed("all", "worst")}
    rules = bad_words.Filter(words=own)

    def why(text, language="en"):
        reason = rules.check(page(text, language=language))
        return reason and reason.measure

    assert why("This is BAD.") == "bad (1)" and why("badly embad bad-ish") == "bad (1)" and why("badly") is None
    assert why("a very, bad\nthing") == "bad, very bad thing (2)"
    assert why("cafe") is None and why("Café!") == "café (1)"
    assert why("这是坏词吗", "zh") == "坏词 (1)" and why("这是坏的词吗", "zh") is None
    assert why("bad", "de") is None and why("worst", "de") == "worst (1)" and why("", "en") is None
    assert bad_words.Filter(words=own, max_words=1).check(page("bad", language="en")) is None
    assert bad_words.Filter(words=own, max_words=1).check(page("bad bad", language="en")) == "bad_words.word"
    bad_words.Filter().prepare()
    assert bad_words.Filter().check(page("Fine words about a fine day.", language="en")) is None


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("noai, noimageai", [("", "noai"), ("", "noimageai")]),
        ("NoAI", [("", "noai")]),
        ("googlebot: noindex, nofollow\nnoai", [("googlebot", "noindex"), ("googlebot", "nofollow"), ("", "noai")]),
        (
            "max-snippet: 20, unavailable_after: 25 Jun 2030 15:00:00 GMT, noai",
            [("", "max-snippet"), ("", "unavailable_after"), ("", "noai")],
        ),
        ("*: noai", [("", "noai")]),
        (" , ", []),
        ("", []),
    ],
)
def test_x_robots_tag(value, said):
    assert list(robots.parse(value)) == said


def test_robots():
    rules = robots.Filter()

    def why(rules=rules, data=None, **metadata):
        reason = rules.check(page("", data, **metadata))
        return reason and f"{reason}: {reason.measure}"

    assert why(x_robots_tag="noindex, noai") == "robots.noai: X-Robots-Tag: noai"
    assert why(x_robots_tag="noindex, none, noimageai") is None
    assert (
        why(x_robots_tag="otherbot: noai") is None
        and why(x_robots_tag="CCBot: noai") == "robots.noai: X-Robots-Tag: ccbot: noai"
    )
    assert (
        why(tdm_reservation="1") == "robots.tdm-reservation: TDM-Reservation: tdm-reservation"
        and why(tdm_reservation="0") is None
    )
    assert why(data=b'<html><META CONTENT="index, NOAI" name=robots>') == "robots.noai: meta: noai"
    assert why(data=b"<meta name='tdm-reservation' content='1'/>") == "robots.tdm-reservation: meta: tdm-reservation"
    assert why(data=b"<meta name=tdm-reservation content=0><meta name=description content='about noai, noai'>") is None
    assert why(data='<meta name="robots" content="noai">'.encode("utf-16")) == "robots.noai: meta: noai"
    assert why(data=b'<meta name="robots" content="noindex">') is None
    strict = robots.Filter(directives=("noindex", "none"))
    assert (
        why(strict, b'<meta name="robots" content="noindex">') == "robots.noindex: meta: noindex"
        and why(strict, x_robots_tag="noai") is None
    )
    assert why(data=b" " * (1 << 18) + b"<meta name=robots content=noai>") is None


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "unit", [b"<meta ", b"<meta name='", b'<meta a="', b"<meta " + b"a-" * 900, b"<meta " + b" " * 1900]
)
def test_hostile_heads_end(unit):
    robots.Filter(head_bytes=1 << 20).check(page("", b"noai" + unit * ((1 << 20) // len(unit))))


def test_pictures(listed):
    data = b"some file"
    rules = image_lists.Filter(
        files=(listed("f", hashlib.sha256(data).hexdigest().upper(), hashlib.md5(b"other").hexdigest()),)
    )
    assert rules.check(page(data=data)) == "image_lists.file" and rules.check(page(data=b"other")) == "image_lists.file"
    assert rules.check(page(data=b"third")) is None
    rng = np.random.default_rng(0)
    pixels = np.kron(rng.integers(0, 255, (8, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    brighter = np.minimum(pixels.astype(int) + 3, 255).astype(np.uint8)
    known = fingerprints.to_hex(fingerprints.perceptual_hash(pixels))
    rules = image_lists.Filter(perceptual=(listed("p", known, "0" * 16),))

    def seen(array, detail=50.0):
        return page(data=data, perceptual_hash=fingerprints.to_hex(fingerprints.perceptual_hash(array)), detail=detail)

    assert rules.check(seen(brighter)) == "image_lists.perceptual" and "known" in rules.check(seen(brighter)).measure
    assert rules.check(seen(brighter, detail=1.0)) is None and rules.check(seen(pixels[::-1].copy())) is None
    assert rules.check(page(data=data)) is None and image_lists.Filter().check(seen(pixels)) is None
    with pytest.raises(ConfigurationError, match="'xyz' in the list .* is not an MD5, SHA-1 or SHA-256 hash"):
        image_lists.Filter(files=(listed("bad", "xyz"),)).prepare()
    with pytest.raises(ConfigurationError, match="'.*' in the list .* is not a perceptual hash"):
        image_lists.Filter(perceptual=(listed("bad2", "12"),)).prepare()


def test_rules_tell_what_they_read(listed):
    name = listed("p", "0" * 16)
    assert lists.of_parts([image_lists.Filter(perceptual=(name,))]) == {name: name}

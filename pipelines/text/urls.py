"""Splits and normalizes URLs for comparison. Never raises, whatever the input."""

import re
import urllib.parse

_MAX_URL = 2000
_MAX_LABELS = 32
_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*://(?:www\.)?", re.IGNORECASE)
_TAIL = re.compile(r"\?(?:utm_|ref|feed).*", re.DOTALL)


def split_url(url: str) -> tuple[str, str]:
    """(host, path and query) of a URL, in lower case, percent-decoded, without user, port and fragment. Never raises.

    Example: `http://User@WWW.Example.org:80/a?b#c` gives (`www.example.org`, `/a?b`).
    """
    text = urllib.parse.unquote(url[:_MAX_URL], errors="replace").strip().lower()
    text = text.partition("#")[0]
    text = (text.partition("://")[2] or text).lstrip("/")
    end = next((i for i, c in enumerate(text) if c in "/?\\"), len(text))
    host = text[:end].rpartition("@")[2]
    host = host if host.startswith("[") else host.partition(":")[0]
    return _ascii(host.strip(".")), text[end:]


def domain_suffixes(host: str) -> list[str]:
    """A host and its parent domains, longest first. A numeric host has no parent domains.

    Example: `a.b.org` gives [`a.b.org`, `b.org`, `org`].
    """
    labels = host.removeprefix("www.").split(".")[-_MAX_LABELS:]
    if labels[-1].isdigit():
        return [host]
    return [".".join(labels[i:]) for i in range(len(labels))]


def _ascii(host: str) -> str:
    if host.isascii():
        return host
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError:
        return host


def normalise_url(url: str) -> str:
    """A URL without scheme, `www.`, tracking tail and trailing slashes, as C4's code compares URLs.

    Source: tensorflow_datasets, text/c4_utils.py. Unlike C4, the host is in lower case.
    """
    host, slash, path = _TAIL.sub("", _SCHEME.sub("", url.strip())).partition("/")
    return (host.lower() + slash + path).rstrip("/")

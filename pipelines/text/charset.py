"""Detects the character encoding of untrusted pages and source files and decodes them.

The encoding is determined by the first of these that succeeds:

1. a byte order mark
2. UTF-16 recognized by its zero bytes
3. UTF-8, if strict decoding succeeds; longer text in another encoding is practically never valid UTF-8
4. the encoding that HTTP or the page declares, if strict decoding succeeds
5. UTF-8 with few errors: a page cut inside a character, a stray byte of an advertisement
6. a guess by charset-normalizer, accepted only if it decodes strictly and the result looks like a language

Wrongly decoded text teaches a model nonsense, so an ambiguous encoding raises BadInput("charset").

Labels have the meaning that the WHATWG Encoding Standard gives them for browsers (encoding.spec.whatwg.org): latin-1 is
windows-1252, gb2312 is GB18030.
"""

import codecs
import re

import webencodings

from castor.pipelines.document import BadInput

_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Python's codecs for encodings of the WHATWG standard that have another name in Python, or a smaller character set than
# in browsers.
_CODECS = {
    "big5": "big5hkscs",
    "euc-kr": "cp949",
    "gbk": "gb18030",
    "iso-8859-8-i": "iso8859-8",
    "macintosh": "mac_roman",
    "shift_jis": "cp932",
    "utf-16le": "utf-16-le",
    "windows-874": "cp874",
    "x-mac-cyrillic": "mac_cyrillic",
}
# Labels of real pages that the standard's table lacks.
_OTHER_LABELS = {
    "ks_c_5601": "euc-kr",
    "latin-1": "windows-1252",
    "uhc": "euc-kr",
    "unicode": "utf-16le",
    "windows-31j": "shift_jis",
    "x-windows-949": "euc-kr",
}
# Encodings to try if charset-normalizer has no suggestion. Those least likely to decode by chance come first.
_CANDIDATES = ("cp949", "cp932", "euc_jp", "gb18030", "big5hkscs")
_META = re.compile(rb"""<meta[^>]{0,500}?charset\s*=\s*["']?\s*([A-Za-z0-9_.:-]{2,40})""", re.IGNORECASE)
_XML = re.compile(rb"""^\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([A-Za-z0-9_.:-]{2,40})""")
_META_BYTES = 4096
_SAMPLE_BYTES = 1 << 16
_STRAY_SHARE = 0.001
_MARKUP = re.compile(
    rb"(?is)<script\b.*?</script\s*>|<style\b.*?</style\s*>|<[^>]{0,4000}>|[\x00-\x40\x5b-\x60\x7b-\x7f]{20,}"
)


def decode_html(data: bytes, declared: str = "") -> tuple[str, str]:
    """(text, encoding) of a page.

    declared: charset of the Content-Type header, or empty.

    Raises BadInput("charset").
    """
    meta = _XML.match(data[:_META_BYTES]) or _META.search(data[:_META_BYTES])
    labels = [declared, meta.group(1).decode("ascii") if meta else ""]
    return decode(data, [label for label in labels if label])


def decode(data: bytes, labels: list[str] = ()) -> tuple[str, str]:
    """(text, encoding) of bytes.

    labels: declared encodings, the most trusted first.

    Raises BadInput("charset").
    """
    for bom, name in _BOMS:
        if data.startswith(bom):
            text = _strict(data[len(bom) :], name)
            if text is None:
                text = data[len(bom) :].decode(name, "replace")
                _check_strays(text, name)
            return text, name
    wide = _zero_bytes(data)
    if wide:
        text = _strict(data[: len(data) // 2 * 2], wide)
        if text is not None and _plausible(text):
            return text, wide
    if b"\0" in data and data.count(0) > _STRAY_SHARE * len(data):
        raise BadInput("charset", f"zero bytes{f' as in {wide}' if wide else ''}, but not valid UTF-16")
    if data.find(b"\x1b", 0, _SAMPLE_BYTES) >= 0 and (
        b"\x1b$" in data[:_SAMPLE_BYTES] or b"\x1b(" in data[:_SAMPLE_BYTES]
    ):
        text = _strict(data, "iso2022_jp_2")
        if text is not None:
            return text, "iso-2022-jp"
    text = _strict(data, "utf-8")
    if text is not None:
        return text, "utf-8"
    for label in labels:
        name = python_name(label)
        if name and name != "utf-8" and not name.startswith("utf-16"):
            text = _strict(data, name)
            if text is not None and _plausible(text):
                return text, name
    text = data.decode("utf-8", "replace")
    if text.count("\ufffd") <= _STRAY_SHARE * len(text) and _has_valid_multibyte(text):
        return text, "utf-8"
    return _guess(data, labels)


def python_name(label: str) -> str | None:
    """The Python codec for an encoding label of the web; None for an unknown label."""
    label = label.strip().lower()
    found = webencodings.lookup(label)
    name = found.name if found is not None else _OTHER_LABELS.get(label, label)
    try:
        # The standard rejects iso-2022-kr and hz-gb-2312 ("replacement"); Python decodes them.
        return codecs.lookup(label if name == "replacement" else _CODECS.get(name, name)).name
    except (LookupError, ValueError):
        return None


def looks_utf16(data: bytes) -> bool:
    """Whether the zero bytes are distributed as in UTF-16 without a byte order mark."""
    return _zero_bytes(data) is not None


def _guess(data: bytes, labels: list[str]) -> tuple[str, str]:
    sample = b" ".join(_MARKUP.sub(b" ", data).split())[:_SAMPLE_BYTES] or data[:_SAMPLE_BYTES]
    tried = set()
    for name in (*_ranked(sample), *_CANDIDATES):
        if name in tried:
            continue
        tried.add(name)
        if name not in _SCRIPTS:
            continue
        text = _strict(data, name)
        if text is None:
            text = _nearly(data, name)
        if text is not None and _plausible(text) and _like_a_language(sample.decode(name, "ignore"), name):
            return text, name
    for name in _LATIN:
        text = _strict(data, name)
        if text is not None and _plausible(text) and _latin(sample.decode(name, "ignore"), name):
            return text, name
    declared = f"; declared {', '.join(labels)}" if labels else ""
    raise BadInput("charset", f"no encoding gives valid text{declared}")


def _ranked(sample: bytes) -> list[str]:
    import charset_normalizer

    found = charset_normalizer.from_bytes(sample, steps=5, chunk_size=1024, threshold=0.2, enable_fallback=False)
    names = []
    for match in found:
        name = python_name(match.encoding) or match.encoding
        if match.chaos <= 0.1 and name not in names:
            names.append(name)
    return names


def _strict(data: bytes, name: str) -> str | None:
    try:
        return data.decode(name)
    except (UnicodeDecodeError, LookupError):
        return None


def _nearly(data: bytes, name: str) -> str | None:
    """The text decoded with a few errors, as real pages have them, or None."""
    text = data.decode(name, "replace")
    return text if text.count("\ufffd") <= _STRAY_SHARE * len(text) else None


def _check_strays(text: str, name: str) -> None:
    if text.count("\ufffd") > max(1, _STRAY_SHARE * len(text)):
        raise BadInput("charset", f"a byte order mark of {name}, but the data is not {name}")


def _has_valid_multibyte(text: str) -> bool:
    strays = text.count("\ufffd")
    return sum(1 for c in text if c > "\x7f") - strays > 4 * strays


def _zero_bytes(data: bytes) -> str | None:
    """The variant of UTF-16 without a byte order mark, or None.

    Markup is ASCII, so in UTF-16 every second byte of it is zero.
    """
    head = data[:4096]
    if len(head) < 4 or b"\0" not in head:
        return None
    even, odd = head[0::2].count(0), head[1::2].count(0)
    half = len(head) // 2
    if odd > 0.05 * half and odd > 5 * even:
        return "utf-16-le"
    if even > 0.05 * half and even > 5 * odd:
        return "utf-16-be"
    return None


def _plausible(text: str) -> bool:
    """Whether control characters, private-use and unassigned code points are as rare as on real pages."""
    odd = _ODD.findall(text)
    return len(odd) <= _STRAY_SHARE * len(text)


_ODD = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f-\x84\x86-\x9f\ue000-\uf8ff\ufff0-\ufffc]")


def _like_a_language(text: str, name: str) -> bool:
    """Whether the text reads like a language written in encoding `name`.

    The characters beyond ASCII are mostly of the scripts that the encoding is used for, and few are inside Latin words.
    """
    beyond = [c for c in text if c > "\x7f"]
    if not beyond:
        return True
    expected = sum(1 for c in beyond if _SCRIPTS[name].match(c))
    inside_latin_words = len(_BETWEEN_LETTERS.findall(text))
    return expected >= 0.8 * len(beyond) and inside_latin_words <= 0.1 * len(beyond)


# Encodings of Latin letters, the most frequent on the web first. Byte statistics of short texts cannot tell them apart,
# but their words can (see _latin).
_LATIN = ("cp1252", "cp1250", "iso8859-2", "cp1254")
_SIGN_IN_WORD = re.compile(
    r"(?<=[^\W\d_])[^\w\s\x00-\x7f\u2010-\u2027\xad\xb7\xb4]|[\xa1-\xa9\xac\xae-\xb3\xb5\xb6\xb8-\xbf](?=[^\W\d_])"
)
_IN_WORD = re.compile(r"[A-Za-z][^\W\d_a-zA-Z]|[^\W\d_a-zA-Z][A-Za-z]")
_OPENING = re.compile("[\u00bf\u00a1\u00ab]")


def _latin(text: str, name: str) -> bool:
    """Whether `text`, decoded by `name`, reads as words of a Latin script.

    Accented letters must be next to plain letters. Signs must not occur inside words, as they do in Central European
    text decoded as Western.

    Two sets of letters reveal a wrong decoding. Turkish decoded as Western has thorn and eth without the Icelandic
    vowels. Hungarian decoded as Western has o with tilde or u with circumflex, together with e acute and o diaeresis,
    and without the letters of Portuguese or French.
    """
    text = _OPENING.sub(" ", text)
    beyond = {c for c in text.lower() if c > "\x7f" and c.isalpha()}
    letters = sum(1 for c in text if c > "\x7f" and c.isalpha())
    if letters < 3 or len(_SIGN_IN_WORD.findall(text)) > 0.02 * letters or len(_IN_WORD.findall(text)) < 0.5 * letters:
        return False
    western = text if name == "cp1252" else text.encode(name, "ignore").decode("cp1252", "ignore")
    eth_or_thorn = sum(1 for c in western.lower() if c in "\xf0\xfe\xfd")
    turkish = eth_or_thorn > 0.1 * letters and not any(c in western.lower() for c in "\xe1\xfa\xe6\xf3")
    if turkish or name == "cp1254":
        return turkish and name == "cp1254"
    hungarian = (
        beyond & set("\xf5\xfb") and beyond >= set("\xe9\xf6") and not beyond & set("\xe3\xe7\xea\xe0\xe8\xf1\xe4")
    )
    return not (name == "cp1252" and hungarian)


_CJK_MARKS = "\u3000-\u303f\uff00-\uff65\u2010-\u2027\u2190-\u21ff\u2460-\u24ff\u2500-\u27bf\u00b7\u00d7\u00a9\u00b0"
_BETWEEN_LETTERS = re.compile("(?<=[a-z])[^\x00-\x7f]{1,2}(?=[a-z])")
_CYRILLIC = re.compile("[\u0400-\u045f\u0490\u0491\u2010-\u2027\xa0\xa9\xab\xb0\xb7\xbb\u2116\u2122]")
_GREEK = re.compile("[\u0370-\u03ff\u2010-\u2027\xa0\xa9\xab\xb0\xb7\xbb\u2122]")
_SCRIPTS = {
    "cp949": re.compile(f"[\uac00-\ud7a3\u3130-\u318f{_CJK_MARKS}]"),
    "cp932": re.compile(f"[\u3040-\u30ff\u4e00-\u9fff\uff66-\uff9f{_CJK_MARKS}]"),
    "euc_jp": re.compile(f"[\u3040-\u30ff\u4e00-\u9fff{_CJK_MARKS}]"),
    "euc_jis_2004": re.compile(f"[\u3040-\u30ff\u4e00-\u9fff{_CJK_MARKS}]"),
    "gb18030": re.compile(f"[\u4e00-\u9fff{_CJK_MARKS}]"),
    "big5hkscs": re.compile(f"[\u4e00-\u9fff{_CJK_MARKS}]"),
    "cp1251": _CYRILLIC,
    "koi8-r": _CYRILLIC,
    "koi8-u": _CYRILLIC,
    "cp866": _CYRILLIC,
    "iso8859-5": _CYRILLIC,
    "cp1253": _GREEK,
    "iso8859-7": _GREEK,
    "cp1255": re.compile("[\u0590-\u05ff\u2010-\u2027\xa0-\xbf]"),
    "cp1256": re.compile("[\u0600-\u06ff\u200c-\u2027\xa0-\xbf]"),
    "cp874": re.compile("[\u0e00-\u0e7f\u2010-\u2027\xa0]"),
}

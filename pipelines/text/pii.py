"""Replaces personal data: e-mail and IP addresses as in FineWeb, and phone, card and account numbers that pass a check.

Only data that the text alone identifies with good precision counts, by form and by check digits:

    email   a name, `@`, a domain with a plausible last label; not the reserved domains of RFC 2606, not `git@`, not
            `logo@2x.png`
    ip      publicly routed addresses: four numbers below 256, or an IPv6 address of 2000::/3. Private, reserved and
            documentation ranges stay, since they identify nobody; so do numbers after a word such as `version`
    iban    country, length for that country (SWIFT IBAN registry, ISO 13616) and check digits modulo 97
    card    issuer range, length and groups of the networks (ISO/IEC 7812), and Luhn's sum
    phone   `+` and an assigned country code (ITU-T E.164), the North American 3-3-4 form, or digits after a word such
            as `Tel.`

Names and postal addresses are not searched for: that needs a model, with its errors. Keys and tokens in source code are
handled by pipelines/sourcecode/secrets.py.

All values of a kind get the same placeholder, so that a model learns the form and nobody's data. Placeholders for
addresses are reserved for documentation (RFC 2606, 5737, 3849); the others name the kind. Replacing is idempotent and
changes nothing else.

Each character is read a bounded number of times, whatever the text: numpy finds where digit runs could start a number,
and a regular expression of bounded length is tried only there. This file knows no Beam.
"""

import dataclasses
import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np

import gin
from castor.pipelines.document import Document
from castor.pipelines.text.tokenized_text import tokenize

KINDS = ("email", "ip", "iban", "card", "phone")
PLACEHOLDERS = {
    "email": "email@example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "iban": "[IBAN]",
    "card": "[card number]",
    "phone": "[phone number]",
}

_MOST_TURNS = 8  # in practice two suffice

Span = tuple[int, int, str]
"""Start, end, key of the placeholder. An empty key reserves the span and leaves its text unchanged."""


@gin.configurable(module="pii")
@dataclasses.dataclass(frozen=True)
class Replace:
    """Document -> Document with personal data replaced.

    Metadata `pii` counts the replacements by kind, such as {"email": 2}; absent without replacements.

    kinds: subset of KINDS, in order of precedence.

    placeholders: replacement text by key of PLACEHOLDERS.
    """

    kinds: Sequence[str] = KINDS
    placeholders: Mapping[str, str] = dataclasses.field(default_factory=lambda: dict(PLACEHOLDERS))

    name: ClassVar[str] = "pii"

    def __call__(self, document: Document) -> Document:
        if not document.text:
            return document
        text, counts = replace(document.text, self.kinds, self.placeholders)
        return document.replace(text=text).with_metadata(pii=counts) if counts else document


def replace(
    text: str, kinds: Sequence[str] = KINDS, placeholders: Mapping[str, str] = PLACEHOLDERS
) -> tuple[str, dict[str, int]]:
    """(text with placeholders, number of replacements by kind).

    A changed text is searched again, since a placeholder changes what is next to a number.
    """
    counts: Counter = Counter()
    for _ in range(_MOST_TURNS):
        found = [span for span in spans(text, kinds) if span[2] and text[span[0] : span[1]] != placeholders[span[2]]]
        if not found:
            break
        counts.update("ip" if key.startswith("ip") else key for _, _, key in found)
        text = put(text, found, placeholders)
    return text, dict(sorted(counts.items()))


def put(text: str, found: Sequence[Span], placeholders: Mapping[str, str] = PLACEHOLDERS) -> str:
    """The text with each span replaced by its placeholder, otherwise unchanged."""
    out, position = [], 0
    for begin, end, key in found:
        out += text[position:begin], placeholders[key]
        position = end
    return "".join(out) + text[position:]


def spans(text: str, kinds: Sequence[str] = KINDS) -> list[Span]:
    """The personal data found, in order, without overlaps. Where two kinds overlap, the earlier kind wins."""
    taken: list[Span] = []
    runs = _Runs.of(text)
    for kind in kinds:
        new = list(_FINDERS[kind](runs))
        if new:
            taken = sorted(taken + _free(new, taken))
    return taken


@dataclasses.dataclass(frozen=True, eq=False)
class _Runs:
    """The runs of ASCII digits in a text.

    text: the text.

    codes: its code points followed by eight zeros, [characters + 8] uint32.

    starts, lengths: start and length of each run, [runs] int64.
    """

    text: str
    codes: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray

    @staticmethod
    def of(text: str) -> "_Runs":
        codes = tokenize(text).codes
        digits = (codes - np.uint32(48)) < 10
        edges = np.flatnonzero(np.diff(digits.view(np.int8), prepend=0, append=0))
        return _Runs(text, np.append(codes, np.zeros(8, np.uint32)), edges[::2], edges[1::2] - edges[::2])

    def gaps(self) -> np.ndarray:
        """Characters between each run and the next, [runs - 1]."""
        return self.starts[1:] - self.starts[:-1] - self.lengths[:-1]


def _free(new: list[Span], taken: list[Span]) -> list[Span]:
    """The spans of `new`, in order, that overlap neither `taken` nor each other."""
    free, i, last = [], 0, 0
    for span in sorted(new):
        while i < len(taken) and taken[i][1] <= span[0]:
            i += 1
        if span[0] >= last and (i == len(taken) or taken[i][0] >= span[1]):
            free.append(span)
            last = span[1]
    return free


# E-mail: a bounded search to both sides of each `@` (RFC 5321: 64 and 255 characters).

_LOCAL_REVERSED = re.compile(r"[A-Za-z0-9_+-](?:[A-Za-z0-9._%+'-]{0,62}[A-Za-z0-9_+])?(?![A-Za-z0-9._%+@])")
_DOMAIN = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}(?:[A-Za-z]{2,24}"
    r"|xn--[A-Za-z0-9-]{2,40})(?![A-Za-z0-9@_-]|\.[A-Za-z0-9])"
)
_NOT_DOMAINS = frozenset(
    "avif bmp css csv eps gif htm html ico jpeg jpg js json jsx mp3 mp4 pdf php png psd scss svg tif tiff ts txt webm "
    "webp woff xml".split()
)
_RESERVED_LABELS = ("example", "invalid", "test", "localhost", "local")
_RESERVED_DOMAINS = ("example.com", "example.org", "example.net")


def _emails(runs: _Runs) -> Iterator[Span]:
    text = runs.text
    at = text.find("@")
    while at >= 0:
        local = _LOCAL_REVERSED.match(text[max(0, at - 65) : at][::-1])
        domain = _DOMAIN.match(text, at + 1, at + 256) if local else None
        if domain:
            name, host = text[at - local.end() : at], domain.group().lower()
            last = host.rpartition(".")[2]
            if last not in _NOT_DOMAINS and name.lower() != "git":
                reserved = (
                    last in _RESERVED_LABELS
                    or host in _RESERVED_DOMAINS
                    or host.endswith(tuple("." + d for d in _RESERVED_DOMAINS))
                )
                yield at - local.end(), domain.end(), "" if reserved else "email"
        at = text.find("@", at + 1)


# IP addresses.

_IPV4 = re.compile(r"(?<![\w.+-])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![\w-]|\.\w)", re.ASCII)
_IPV6 = re.compile(r"(?<![\w:.])[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,34}(?![\w:])", re.ASCII)
_VERSION = re.compile(
    r"(?:\b(?:version|versie|versi\u00f3n|ver|v|release|rev|build|firmware|section|chapter|kapitel|abschnitt|art|no"
    r"|nr)\.?|\u00a7)\s{0,3}\Z",
    re.IGNORECASE,
)


def _ips(runs: _Runs) -> Iterator[Span]:
    text, dotted = runs.text, (runs.gaps() == 1) & (runs.codes[runs.starts + runs.lengths][:-1] == ord("."))
    for start in runs.starts[:-3][dotted[:-2] & dotted[1:-1] & dotted[2:]].tolist() if len(dotted) > 2 else ():
        match = _IPV4.match(text, start)
        try:
            address = ipaddress.IPv4Address(match.group()) if match else None
        except ValueError:
            continue
        if address is not None:
            public = (
                address.is_global and not address.is_multicast and not _VERSION.search(text, max(0, start - 16), start)
            )
            yield start, match.end(), "ipv4" if public else ""
    for start in runs.starts[runs.codes[runs.starts + 4] == ord(":")].tolist():
        match = _IPV6.match(text, start)
        try:
            address = ipaddress.IPv6Address(match.group()) if match else None
        except ValueError:
            continue
        if address is not None and address in _UNICAST_V6:
            yield start, match.end(), "" if address in _DOCUMENTATION_V6 else "ipv6"


_UNICAST_V6 = ipaddress.IPv6Network("2000::/3")
_DOCUMENTATION_V6 = ipaddress.IPv6Network("2001:db8::/32")


# Account and card numbers.

_IBAN = re.compile(
    r"(?<![\w-])[A-Z]{2}[0-9]{2}(?:[ \u00a0]?[A-Z0-9]{4}){2,7}(?:[ \u00a0]?[A-Z0-9]{1,3})?(?![\w-])", re.ASCII
)
_IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FI FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK", 21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL", 24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST",
        26: "IS TR", 27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HU LB NI PL SV", 29: "BR EG PS QA UA",
        30: "JO KW MU",
        31: "MT SC", 32: "LC", 33: "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip
_CARD = re.compile(r"(?<![\w.,:/+-])[2-6][0-9]{3}(?:[ \u00a0-]?[0-9]){10,15}(?![\w]|[ .,:/-][0-9])", re.ASCII)
_GROUPS = frozenset({(4, 4, 4, 4), (4, 6, 5), (4, 6, 4), (4, 4, 4, 4, 3), (14,), (15,), (16,), (17,), (18,), (19,)})
_ISSUERS = (  # first digits from, to; lengths
    ("4", "4", (16, 19)),
    ("51", "55", (16,)),
    ("2221", "2720", (16,)),
    ("34", "34", (15,)),
    ("37", "37", (15,)),
    ("300", "305", (14, 16)),
    ("36", "36", (14,)),
    ("38", "39", (14, 16)),
    ("6011", "6011", (16, 19)),
    ("644", "659", (16, 19)),
    ("3528", "3589", (16, 19)),
    ("62", "62", (16, 17, 18, 19)),
)


def _ibans(runs: _Runs) -> Iterator[Span]:
    text, before = runs.text, runs.codes[np.maximum(runs.starts[:, None] - (1, 2), -1)] - np.uint32(ord("A"))
    for start in runs.starts[(before < 26).all(axis=1) & (runs.lengths > 1)].tolist():
        match = _IBAN.match(text, start - 2)
        if not match:
            continue
        written = re.sub(r"[ \u00a0]", "", match.group())
        length = _IBAN_LENGTHS.get(written[:2], 0)
        if not length or len(written) < length:
            continue
        end, left = match.start(), length
        while left:  # the last group may include text after the number
            left -= text[end] not in " \u00a0"
            end += 1
        if (end == match.end() or text[end] in " \u00a0") and iban_holds(written[:length]):
            yield match.start(), end, "iban"


def iban_holds(number: str) -> bool:
    """Whether the check digits of an IBAN without spaces are valid, ISO 7064 MOD 97-10.

    Example: GB82WEST12345698765432 is valid. Its first four characters move to the end, letters become numbers (A =
    10), and the remainder modulo 97 is 1.
    """
    return int("".join(str(int(c, 36)) for c in number[4:] + number[:4])) % 97 == 1


def _cards(runs: _Runs) -> Iterator[Span]:
    for start in runs.starts[(runs.lengths == 4) | (runs.lengths >= 14)].tolist():
        match = _CARD.match(runs.text, start)
        if not match:
            continue
        groups = re.split(r"[ \u00a0-]", match.group())
        digits = "".join(groups)
        if tuple(map(len, groups)) in _GROUPS and _issued(digits) and luhn(digits):
            yield match.start(), match.end(), "card"


def _issued(digits: str) -> bool:
    return any(low <= digits[: len(low)] <= high and len(digits) in lengths for low, high, lengths in _ISSUERS)


def luhn(digits: str) -> bool:
    """Whether a digit string has a valid Luhn checksum, ISO/IEC 7812-1 annex B.

    Example: 18 is valid. From the right: 8, and twice 1 is 2; 8 + 2 = 10 is a multiple of 10.
    """
    values = [int(c) for c in reversed(digits)]
    return (sum(values[::2]) + sum(sum(divmod(2 * v, 10)) for v in values[1::2])) % 10 == 0


# Phone numbers.

_GAP = r"(?:[ \u00a0]?[-./\u2010\u2011\u2013][ \u00a0]?|[ \u00a0])?"
# An area code, or the zero that is omitted when calling from abroad.
_BRACKETED = r"[ \u00a0]?\([ \u00a0]?[0-9]{1,5}[ \u00a0]?\)[-/]?"
_INTERNATIONAL = re.compile(
    rf"(?<![\w+./=-])\+[ \u00a0]?[1-9][0-9]{{0,2}}(?:{_BRACKETED})?(?:{_GAP}[0-9]){{4,13}}(?!\w|[.,][0-9])", re.ASCII
)
_NORTH_AMERICAN = re.compile(
    r"(?<![\w+./#=-])(?:1[-. ])?(?:\([2-9][0-9]{2}\)[ \u00a0]?|[2-9][0-9]{2}([-.]))[2-9][0-9]{2}(?(1)\1|-)[0-9]{4}(?!\w"
    r"|[-.][0-9])",
    re.ASCII,
)
_AFTER_LABEL = re.compile(
    rf"(?:{_BRACKETED}|[0-9]{{1,5}}{_BRACKETED})?(?:{_GAP}[0-9]){{4,14}}(?!\w|[.,:/-][0-9])", re.ASCII
)
_LABEL = re.compile(
    r"(?:(?<![^\W\d_])(?:tel|tele?phone?|telefon|tel\u00e9fono|t\u00e9l\u00e9phone|telefax|fax|mobil|mobile|handy|phone"
    r"|call|ph|t\u00e9l"
    r"|\u0442\u0435\u043b|\u0442\u0435\u043b\u0435\u0444\u043e\u043d)"
    r"|(?:\u7535\u8bdd|\u96fb\u8a71|\u624b\u673a|\u4f20\u771f)(?:\u53f7\u7801?)?|\uc804\ud654|\u260e|\U0001f4de)"
    r"[.:\uff1a)\]]{0,2}\s?[:\uff1a]?\s?\Z",
    re.IGNORECASE,
)
_DATE = re.compile(
    r"(?:19|20)[0-9]{2}[-./ ]|[0-3]?[0-9][./-][01]?[0-9][./-](?:19|20)[0-9]{2}\b|(?:19|20)[0-9]{2}[-\u2013](?:19"
    r"|20)[0-9]{2}\Z"
)
_DECIMAL = re.compile(r"\+[0-9]+\.[0-9]+")
_COUNTRY_CODES = re.compile(
    r"1|7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]|21[1-368]|22[0-9]|23[0-9]|24[0-9]|25[0-8]|26[0-9]"
    r"|29[0179]|35[0-9]"
    r"|37[0-9]|38[0-35-79]"
    r"|42[013]|50[0-9]|59[0-9]|67[0-9]|68[0-35-9]|69[0-2]|8(?:00|5[02356]|8[0-368])|96[0-8]|97[0-79]|99[2-68]"
)


def _phones(runs: _Runs) -> Iterator[Span]:
    text, starts, lengths, gaps = runs.text, runs.starts, runs.lengths, runs.gaps()
    for start in np.flatnonzero(runs.codes == ord("+")).tolist():
        match = _INTERNATIONAL.match(text, start)
        length = _international(match.group()) if match else 0
        if length:
            yield start, start + length, "phone"
    in_threes = (
        (lengths[:-2] == 3) & (lengths[1:-1] == 3) & (lengths[2:] == 4) & (gaps[:-1] <= 2) & (gaps[1:] == 1)
        if len(gaps) > 1
        else []
    )
    for start in starts[:-2][in_threes].tolist() if len(gaps) > 1 else ():
        start -= text[start - 1 : start] == "(" and text[start + 3 : start + 4] == ")"
        prefix = 2 if text[max(0, start - 2) : start] in ("1-", "1.", "1 ") else 0
        match = _NORTH_AMERICAN.match(text, start - prefix) or _NORTH_AMERICAN.match(text, start)
        if match:
            yield match.start(), match.end(), "phone"
    totals = np.concatenate(([0], np.cumsum(lengths)))
    many = totals[np.searchsorted(starts, starts + 20)] - totals[:-1] >= 6
    for start in starts[many].tolist():
        # A bracket around the area code or the number separates the label from the digits.
        start -= text[start - 1 : start] == "("
        if not _LABEL.search(text, max(0, start - 24), start):
            continue
        match = _AFTER_LABEL.match(text, start)
        if match and sum(map(str.isdigit, match.group())) >= 6 and not _DATE.match(match.group()):
            yield start, match.end(), "phone"


def _international(written: str) -> int:
    """Number of characters at the start of `written`, which starts with `+`, that form a phone number; 0 if none do."""
    if _DECIMAL.fullmatch(written):
        return 0
    digits = re.sub(r"[^0-9]", "", written)
    if digits[0] in "17" and len(digits) > 11:  # these countries use eleven digits; the rest is the next number
        digits, written = digits[:11], re.match(r"(?:[^0-9]*[0-9]){11}", written).group()
    enough = 11 if digits[0] in "17" else 8 if re.search(r"[0-9][^0-9]", written) else 9
    return len(written) if _COUNTRY_CODES.match(digits) and enough <= len(digits) <= 15 else 0


_FINDERS: Mapping[str, Callable[[_Runs], Iterator[Span]]] = {
    "email": _emails,
    "ip": _ips,
    "iban": _ibans,
    "card": _cards,
    "phone": _phones,
}

"""Finds secrets in source files by format and name, and replaces them by typed placeholders that keep the code
parseable.

    find(text)                 [Span(start, end, kind), ...] in order, not overlapping
    replace(text)              (text with placeholders, {kind: count})
    Remove()(document)         the same for a Document; counts in metadata `secrets`

Secrets are found in three ways, each after a cheap search for a necessary substring:

formats       tokens with a typed prefix, in the public formats documented by GitHub, detect-secrets and the issuers.
One expression finds all prefixes; the token's own expression runs only there blocks        private keys between their
BEGIN and END lines. The characters of the key are removed; line ends, quotes and escapes stay assignments   a name such
as `api_key` or `password` with a value that looks random: long, of mixed characters, of high entropy. The value is
quoted, or alone on its line (.env, YAML), or between the semicolons of a connection string. Values after `Bearer` count
too

A placeholder such as `REDACTED_GITHUB_TOKEN` is an identifier, so it is valid in a string, a YAML value, a URL or an
unquoted shell variable. Values that only mark the place of a secret (`changeme`, `<token>`, `${TOKEN}`,
`user:password@host`) stay. pipelines/text/pii.py handles e-mail and IP addresses. This file knows no Beam, and every
expression in it is linear in the text.
"""

import dataclasses
import functools
import math
import re
from collections import Counter
from collections.abc import Iterable

from castor.pipelines.document import Document

_END = r"(?![A-Za-z0-9_])"
# kind: (prefixes, expression of the whole token)
_FORMATS = {
    "aws_access_key": (("AKIA", "ASIA", "ABIA", "ACCA"), rf"(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{{16}}{_END}"),
    "google_api_key": (("AIza",), rf"AIza[A-Za-z0-9_-]{{35}}{_END}"),
    "google_oauth_token": (("ya29.", "GOCSPX-"), rf"(?:ya29\.[A-Za-z0-9_-]{{30,}}|GOCSPX-[A-Za-z0-9_-]{{28}}){_END}"),
    "github_token": (
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
        rf"(?:gh[pousr]_[A-Za-z0-9]{{36,255}}|github_pat_[A-Za-z0-9_]{{60,255}}){_END}",
    ),
    "gitlab_token": (("glpat-", "gldt-", "glrt-"), rf"gl(?:pat|dt|rt)-[A-Za-z0-9_-]{{20,}}{_END}"),
    "slack_token": (
        ("xoxb-", "xoxp-", "xoxa-", "xoxr-", "xoxs-", "xoxe-", "xapp-"),
        r"x(?:ox[abeprs]|app)-[A-Za-z0-9-]{12,}",
    ),
    "slack_webhook": (
        ("hooks.slack.com/services/T",),
        r"hooks\.slack\.com/services/T[A-Za-z0-9_]{6,}/B[A-Za-z0-9_]{6,}/[A-Za-z0-9_]{16,}",
    ),
    "stripe_key": (
        ("sk_live_", "rk_live_", "sk_test_", "rk_test_", "whsec_"),
        rf"(?:[sr]k_(?:live|test)_[A-Za-z0-9]{{16,}}|whsec_[A-Za-z0-9+/]{{24,}}){_END}",
    ),
    "jwt": (("eyJ",), r"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"),
    "npm_token": (("npm_",), rf"npm_[A-Za-z0-9]{{36}}{_END}"),
    "pypi_token": (("pypi-AgE",), r"pypi-AgE[A-Za-z0-9_-]{50,}"),
    "sendgrid_key": (("SG.",), rf"SG\.[A-Za-z0-9_-]{{20,24}}\.[A-Za-z0-9_-]{{39,50}}{_END}"),
    "openai_key": (("sk-",), rf"sk-(?:(?:proj|svcacct|admin)-[A-Za-z0-9_-]{{40,}}|[A-Za-z0-9]{{48}}){_END}"),
    "anthropic_key": (("sk-ant-",), rf"sk-ant-[A-Za-z0-9_-]{{32,}}{_END}"),
    "huggingface_token": (("hf_",), rf"hf_[A-Za-z]{{34}}{_END}"),
    "digitalocean_token": (("dop_v1_", "doo_v1_", "dor_v1_"), rf"do[opr]_v1_[a-f0-9]{{64}}{_END}"),
    "shopify_token": (("shpat_", "shpss_", "shpca_", "shppa_"), rf"shp(?:at|ss|ca|pa)_[a-fA-F0-9]{{32}}{_END}"),
    "square_token": (("sq0atp-", "sq0csp-"), rf"sq0(?:atp-[A-Za-z0-9_-]{{22}}|csp-[A-Za-z0-9_-]{{43}}){_END}"),
    "docker_token": (("dckr_pat_",), rf"dckr_pat_[A-Za-z0-9_-]{{27}}{_END}"),
    "databricks_token": (("dapi",), rf"dapi[a-f0-9]{{32}}{_END}"),
    "azure_key": (("AccountKey=", "SharedAccessKey="), r"(?<=Key=)[A-Za-z0-9+/]{40,86}={0,2}"),
    "age_key": (("AGE-SECRET-KEY-1",), r"AGE-SECRET-KEY-1[A-Z0-9]{58}"),
    "telegram_token": ((":AA",), rf"[0-9]{{8,10}}:AA[A-Za-z0-9_-]{{33}}{_END}"),
}
KINDS = (*_FORMATS, "private_key", "url_password", "aws_secret_key", "password", "secret")
"""Kinds that are looked for by default."""
PLACEHOLDERS = {kind: f"REDACTED_{kind.upper()}" for kind in KINDS}

_BEGIN_KEY = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}?PRIVATE KEY(?: BLOCK)?-----")
_KEY_PIECE = re.compile(r"\\[nrt]|([A-Za-z0-9+/=]{16,}+)")
_MAX_KEY = 16_000
_URL_PASSWORD = re.compile(
    r"(?<=[a-z0-9+])://[^\s/:@\"'`<>{}()$%\\,]{0,64}+:([^\s/@\"'`<>{}()$\\,]{3,128}+)@(?=[A-Za-z0-9\[])"
)
_QUOTED = re.compile(r"""[:=]>?[ \t]*+(?:[rbuRBU]|new )?(["'`])([^\s"'`\\<>{}()$,;]{8,200}+)\1""")
_BARE = re.compile(
    r"(?m)^[ \t]*+(?:export[ \t]++|-[ \t]++|set[ \t]++)?([A-Za-z][A-Za-z0-9_.-]{1,60}+)[ \t]*+[=:][ "
    r"\t]*+([A-Za-z0-9+/_=~-]{16,200}+)[ \t]*+$"
)
_BARE_PASSWORD = re.compile(
    r"(?m)^[ \t]*+(?:export[ \t]++|-[ \t]++|set[ \t]++)?([A-Za-z][A-Za-z0-9_.-]{1,60}+)[ \t]*+[=:][ "
    r"\t]*+([A-Za-z0-9!@#%^&*?+/_=~-]{8,64}+)[ \t]*+$"
)
_CONNECTION = re.compile(r"(?i);[ ]?(password|pwd)[ ]?=[ ]?([^;\"'`\s<>{}()$%,\\]{8,128}+)(?=[;\"'`])")
_BEARER = re.compile(r"\bBearer ([A-Za-z0-9._~+/-]{20,500}+=*)")
_SIGNS = frozenset("!@#%^&*?")  # never part of a name; an unquoted password must contain one
_NAME = re.compile(r"""["'`\])]*[ \t]*$""")
_PASSWORD_NAME = re.compile(r"(?i)(?:pass(?:word|wd|phrase|code)?|pwd|passwort)(?:[_-]?\d)?$")
_SECRET_NAME = re.compile(
    r"(?i)(?:secret|token|credential|(?:api|access|auth|private|encryption|signing|master|service|account|storage"
    r"|client|app|shared|session"
    r"|license)[_-]?key"
    r"|apikey|secret[_-]?(?:access[_-]?)?key|auth)(?:[_-]?(?:id|key(?:[_-]?base)?|value|base64|b64|hex|string|\d))?$"
)
_KEYWORDS = (
    "secret",
    "token",
    "credential",
    "key",
    "auth",
    "pass",
    "pwd",
    "SECRET",
    "TOKEN",
    "KEY",
    "AUTH",
    "PASS",
    "PWD",
    "Secret",
    "Token",
    "Key",
    "Pass",
    "Auth",
)
_PLACEHOLDER = re.compile(
    r"(?i)^(?:.*(?:example|sample|dummy|placeholder|changeme|change_me|your[_-]|redacted|insert|replace|xxxx|\*\*\*"
    r"|\.\.\.|1234567|abcdefg"
    r"|deadbeef|todo).*"
    r"|x+|\*+|\.+|_+|-+|0+|user(?:name)?|pass(?:word|wd|phrase|code)?\d{0,4}|pwd\d{0,4}|p[a@]ss(?:w[o0]rd)?\d{0,4}!?"
    r"|secret|test(?:ing"
    r"|pass(?:word)?)?\d{0,4}|guest|root"
    r"|admin\d{0,4}|foo(?:bar)?|bar|baz|token|key|postgres|mysql|redis|rabbitmq|mongo|minio|localhost|hunter2|s3cr[e3]t"
    r"|none|null|true"
    r"|false|port|host|[a-z]{1,3}|[a-z0-9_]+_password)$"
)
_WORDS = re.compile(r"^[a-zA-Z]+(?:[._:/-][a-zA-Z]+)+\d*$|^(?:[a-z]|[A-Z][a-z])+\d{0,3}$|^[A-Z_]+\d*$")
_LOCATION = re.compile(
    r"^(?:[a-z+]+:)?//|^[./~]|^[a-z]+:[a-z]|\.(?:py|js|ts|json|ya?ml|txt|pem|crt|key|html?|go|java|com|org|net|io|svc"
    r"|local)\b"
)
_HEX = re.compile(r"^(?:0x)?[0-9a-fA-F]+$")


@dataclasses.dataclass(frozen=True, order=True)
class Span:
    """text[start:end] is a secret of `kind`."""

    start: int
    end: int
    kind: str


@dataclasses.dataclass(frozen=True)
class Remove:
    """Document -> Document without secrets. Metadata `secrets` counts them by kind and is absent if there were none.

    kinds: subset of KINDS.

    min_length: minimum length of a value assigned to the name of a secret, in characters.

    min_entropy: minimum entropy of such a value, in bits per character. detect-secrets requires 4.5 for base64 strings
        of any name, which takes more than 20 characters, and 3 for hexadecimal ones, as here.
    """

    kinds: tuple[str, ...] = KINDS
    min_length: int = 16
    min_entropy: float = 3.5

    def __call__(self, document: Document) -> Document:
        text, counts = replace(document.text, self.kinds, self.min_length, self.min_entropy)
        return document.replace(text=text).with_metadata(secrets=counts) if counts else document


def replace(
    text: str, kinds: Iterable[str] = KINDS, min_length: int = 16, min_entropy: float = 3.5
) -> tuple[str, dict[str, int]]:
    """(text with a placeholder for each secret, {kind: count}). Idempotent: a second call finds nothing.

    kinds, min_length, min_entropy: as in `Remove`.
    """
    spans = find(text, kinds, min_length, min_entropy)
    if not spans:
        return text, {}
    parts, position, counts = [], 0, Counter()
    for span in spans:
        parts += (text[position : span.start], _placeholder(text, span))
        position = span.end
        counts[span.kind] += 1
    return "".join((*parts, text[position:])), dict(sorted(counts.items()))


def find(text: str, kinds: Iterable[str] = KINDS, min_length: int = 16, min_entropy: float = 3.5) -> list[Span]:
    """The secrets of a text, in order.

    Of two overlapping secrets the one that starts first is taken, then the longer one.
    """
    wanted = frozenset(kinds)
    spans = _formats(text, wanted)
    if "private_key" in wanted and "PRIVATE KEY" in text:
        spans += _private_keys(text)
    if "url_password" in wanted and "://" in text and "@" in text:
        spans += [
            Span(*m.span(1), "url_password") for m in _URL_PASSWORD.finditer(text) if not _is_placeholder(m.group(1))
        ]
    if not wanted.isdisjoint(("password", "secret", "aws_secret_key")) and any(word in text for word in _KEYWORDS):
        spans += [span for span in _assignments(text, min_length, min_entropy) if span.kind in wanted]
    kept: list[Span] = []
    for span in sorted(spans, key=_first_and_longest):
        if not kept or span.start >= kept[-1].end:
            kept.append(span)
    return kept


def _placeholder(text: str, span: Span) -> str:
    """The replacement of a secret.

    In a private key the first stretch becomes the placeholder; of the others only line ends and quotes remain.
    """
    name = PLACEHOLDERS[span.kind]
    if span.kind != "private_key":
        return name
    body = text[span.start : span.end]
    # Bare lines: one placeholder for all.
    if not re.search(r"""["'`\\+,;]""", re.sub(r"[A-Za-z0-9+/=]{16,}", "", body)):
        return f"\n{name}\n"
    parts, position, named = [], 0, False
    for piece in _KEY_PIECE.finditer(body):
        if piece.group(1):
            parts += (body[position : piece.start()], "" if named else name)
            position, named = piece.end(), True
    return "".join((*parts, body[position:]))


def _formats(text: str, wanted: frozenset[str]) -> list[Span]:
    spans = []
    for anchor in _anchors().finditer(text):
        start = anchor.start()
        for kind in _kinds_of(anchor.group()):
            if kind in wanted:
                if kind == "azure_key":
                    found = _pattern(kind).match(text, anchor.end())
                elif kind == "telegram_token":
                    found = _pattern(kind).search(text, max(0, start - 10), start + 40)
                elif start and (text[start - 1].isalnum() or text[start - 1] == "_"):
                    found = None
                else:
                    found = _pattern(kind).match(text, start)
                if found:
                    spans.append(Span(*found.span(), kind))
    return spans


@functools.cache
def _anchors() -> re.Pattern:
    prefixes = sorted({p for prefixes, _ in _FORMATS.values() for p in prefixes}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, prefixes)))


@functools.cache
def _kinds_of(prefix: str) -> tuple[str, ...]:
    return tuple(kind for kind, (prefixes, _) in _FORMATS.items() if any(prefix.startswith(p) for p in prefixes))


@functools.cache
def _pattern(kind: str) -> re.Pattern:
    return re.compile(_FORMATS[kind][1])


def _private_keys(text: str) -> list[Span]:
    spans = []
    for begin in _BEGIN_KEY.finditer(text):
        start = begin.end()
        end = text.find("-----", start, start + _MAX_KEY)
        least = 16 if end >= 0 else 40  # without an END line (a truncated key) only long stretches count
        stop = end if end >= 0 else min(len(text), start + _MAX_KEY)
        pieces = [p for p in _KEY_PIECE.finditer(text, start, stop) if p.group(1) and len(p.group(1)) >= least]
        if pieces:
            spans.append(
                Span(start if end >= 0 else pieces[0].start(), end if end >= 0 else pieces[-1].end(), "private_key")
            )
    return spans


def _assignments(text: str, min_length: int, min_entropy: float) -> list[Span]:
    spans = []
    for found in _QUOTED.finditer(text):
        before = text[max(0, found.start() - 60) : found.start()]
        kind = _kind_of(_last_name(before), found.group(2), min_length, min_entropy)
        if kind:
            spans.append(Span(*found.span(2), kind))
    for found in _BARE.finditer(text):
        kind = _kind_of(found.group(1), found.group(2), min_length, min_entropy)
        if kind and kind != "password":
            spans.append(Span(*found.span(2), kind))
    for expression in (_BARE_PASSWORD, _CONNECTION):
        for found in expression.finditer(text):
            if expression is _BARE_PASSWORD and _SIGNS.isdisjoint(found.group(2)):
                continue
            if _kind_of(found.group(1), found.group(2), min_length, min_entropy) == "password":
                spans.append(Span(*found.span(2), "password"))
    for found in _BEARER.finditer(text):
        if _kind_of("token", found.group(1), min_length, min_entropy):
            spans.append(Span(*found.span(1), "secret"))
    return spans


def _last_name(before: str) -> str:
    """The name that a value is assigned to: the last word before the sign, skipping a type annotation.

    Example: `config["api_key"]` gives `api_key`.
    """
    before = _NAME.sub("", before.rstrip())
    typed = re.search(r"([A-Za-z_][\w.-]*)[\"'`]?\s*:\s*[A-Za-z_][\w.\[\]| ]*$", before)
    word = re.search(r"[A-Za-z_][\w.-]*$", before)
    return typed.group(1) if typed else word.group() if word else ""


def _kind_of(name: str, value: str, min_length: int, min_entropy: float) -> str | None:
    """The kind of an assigned value: `password`, `aws_secret_key`, `secret`; None if the value does not look random."""
    is_password = _PASSWORD_NAME.search(name)
    if not is_password and (not _SECRET_NAME.search(name) or "public" in name.lower()):
        return None
    aws = len(value) == 40 and "aws" in name.lower() and re.fullmatch(r"[A-Za-z0-9/+=]{40}", value)
    if aws and entropy(value) >= min_entropy:
        return "aws_secret_key"
    if _is_placeholder(value) or _LOCATION.search(value) or _WORDS.match(value):
        return None
    if is_password:
        classes = (
            any(c.islower() for c in value),
            any(c.isupper() for c in value),
            any(c.isdigit() for c in value),
            not value.isalnum(),
        )
        return "password" if sum(classes) >= 3 else None
    digits = sum(c.isdigit() for c in value)
    if len(value) < min_length or not digits or digits == len(value):
        return None
    return "secret" if entropy(value) >= (3.0 if _HEX.match(value) else min_entropy) else None


def _is_placeholder(value: str) -> bool:
    """Whether a value only marks the place of a secret: `changeme`, `<token>`, `%s`, the same character throughout."""
    return (
        bool(_PLACEHOLDER.match(value)) or len(set(value)) < 4 or value[0] in "<${%[" or "%s" in value or "%(" in value
    )


def entropy(text: str) -> float:
    """Shannon entropy of the characters of a text, in bits per character; 0 for an empty text.

    Example: entropy("aabb") is 1.
    """
    return sum(-n / len(text) * math.log2(n / len(text)) for n in Counter(text).values())


def _first_and_longest(span: Span) -> tuple[int, int, str]:
    return span.start, -span.end, span.kind

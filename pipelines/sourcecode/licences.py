"""Identifies the licence of a text, by edit distance to 35 licence texts (identify, choosealicense.com), then by key
sentences.

The second step is for texts that the first cannot identify: several licences in one file, licences with preambles, and
the Python and historical licences. Otherwise the result is UNKNOWN, which no allow-list contains. This file knows no
Beam.
"""

import functools
import posixpath
import re
import tempfile

UNKNOWN = "unknown"
MAX_BYTES = 1 << 16

# Rated bronze or better by the Blue Oak Council (blueoakcouncil.org/list), as in The Stack (arXiv 2211.15533), and
# public domain dedications.
PERMISSIVE = (
    "0BSD",
    "AFL-3.0",
    "Apache-2.0",
    "Artistic-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSD-3-Clause-Clear",
    "BSL-1.0",
    "CC0-1.0",
    "ECL-2.0",
    "HPND",
    "ISC",
    "MIT",
    "MIT-0",
    "MS-PL",
    "NCSA",
    "PSF-2.0",
    "PostgreSQL",
    "Python-2.0",
    "UPL-1.0",
    "Unlicense",
    "WTFPL",
    "Zlib",
    "LicenseRef-public-domain",
)

_NAMES = re.compile(
    r"(?i)^(?:un)?licen[cs]es?(?:[-_.].*)?$|^copying(?:[-_.].*)?$|^mit-licen[cs]e.*$|^(?:.*[-_.])licen[cs]e(?:\.(?:txt"
    r"|md|rst))?$"
)
_NOT_NAMES = re.compile(r"(?i)\.(?:py|pyi|c|h|cc|cpp|js|ts|json|html|css|go|rs|java|sh|yml|yaml|toml|svg|png)$")
_NOT_LICENCES = re.compile(
    r"(?i)^(?:authors|contributors|contributing|notice|readme|thanks|credits|changes|changelog|metadata|record"
    r"|wheel)(?:[-_.].*)?$"
)
# Folders that hold only licences, which apply to their parent folder.
_FOLDERS = re.compile(r"(?i)^(?:licen[cs]es?|[^/]*\.dist-info|[^/]*\.egg-info)$")
_SEPARATORS = re.compile(r"[\s*#/;>|_-]+")
_SPDX = re.compile(r"SPDX-License-Identifier:[ \t]*([^\r\n]{1,200})")
_SPDX_END = re.compile(r"\s*(?:\*/|-->|#\}|\"\"\"|'''|\*\)).*$")
_TOKEN = re.compile(r"\(|\)|[^\s()]+")

_SENTENCES = (
    (
        "MIT",
        (
            "permission is hereby granted, free of charge, to any person obtaining a copy of this software and "
            "associated documentation files",
        ),
    ),
    ("Apache-2.0", ("apache license version 2.0, january 2004",)),
    ("Apache-2.0", ("licensed under the apache license, version 2.0",)),
    (
        "BSD-4-Clause",
        ("redistribution and use in source and binary forms", "all advertising materials mentioning features"),
    ),
    ("BSD-3-Clause", ("redistribution and use in source and binary forms", "neither the name")),
    (
        "BSD-2-Clause",
        ("redistribution and use in source and binary forms", "provided that the following conditions are met"),
    ),
    ("PSF-2.0", ("python software foundation license version 2",)),
    (
        "ISC",
        (
            "permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is "
            "hereby granted",
        ),
    ),
    (
        "ISC",
        (
            "permission to use, copy, modify, and distribute this software for any purpose with or without fee is "
            "hereby granted",
        ),
    ),
    ("HPND", ("permission to use, copy, modify, and distribute this software and its documentation for any purpose",)),
    (
        "Zlib",
        (
            "altered source versions must be plainly marked as such, and must not be misrepresented as being the "
            "original software",
        ),
    ),
    ("Unlicense", ("this is free and unencumbered software released into the public domain",)),
    ("CC0-1.0", ("cc0 1.0 universal",)),
    ("BSL-1.0", ("boost software license version 1.0",)),
    (
        "AGPL-3.0",
        (
            "gnu affero general public license",
            "everyone is permitted to copy and distribute verbatim copies of this license document",
        ),
    ),
    (
        "LGPL-3.0",
        (
            "gnu lesser general public license",
            "everyone is permitted to copy and distribute verbatim copies of this license document",
        ),
    ),
    (
        "GPL-3.0",
        (
            "gnu general public license",
            "everyone is permitted to copy and distribute verbatim copies of this license document",
        ),
    ),
    ("AGPL-3.0", ("terms of the gnu affero general public license",)),
    ("LGPL-3.0", ("terms of the gnu lesser general public license",)),
    ("LGPL-2.0", ("terms of the gnu library general public license",)),
    ("GPL-3.0", ("terms of the gnu general public license",)),
    ("MPL-2.0", ("mozilla public license version 2.0",)),
    ("MPL-2.0", ("terms of the mozilla public license",)),
    ("EPL-2.0", ("eclipse public license v 2.0",)),
    ("CC-BY-SA-4.0", ("creative commons attribution sharealike 4.0",)),
)
_FAMILIES = ("BSD-4-Clause", "BSD-3-Clause", "BSD-2-Clause")


def is_licence_file(path: str) -> bool:
    """Whether a repository keeps its licence in a file of this name."""
    folder, name = posixpath.split(path)
    if _NOT_NAMES.search(name) or _NOT_LICENCES.match(name):
        return False
    return bool(_NAMES.match(name)) or bool(re.match(r"(?i)^licen[cs]es?$", posixpath.basename(folder)))


def governed_folder(path: str) -> str:
    """The folder that a licence file applies to: its own, or the parent of folders that hold only licences.

    Example: `a/LICENSES/MIT.txt` applies to `a`.
    """
    folder = posixpath.dirname(path)
    while _FOLDERS.match(posixpath.basename(folder)):
        folder = posixpath.dirname(folder)
    return folder


@functools.lru_cache(maxsize=4096)
def identify_text(text: str) -> tuple[str, ...]:
    """SPDX ids of the licences in a text, sorted; (UNKNOWN,) if none is known.

    Texts beyond MAX_BYTES are not read.
    """
    if len(text) > MAX_BYTES:
        return (UNKNOWN,)
    tagged = spdx_expression(text)
    if tagged is not None:
        return tuple(sorted(set(ids(tagged)))) or (UNKNOWN,)
    from identify import identify

    with tempfile.NamedTemporaryFile("w", encoding="utf-8", errors="replace", suffix=".txt") as file:
        file.write(text)
        file.flush()
        whole = identify.license_id(file.name)
    if whole is not None:
        return (whole,)
    plain = _SEPARATORS.sub(" ", text.lower())
    found: list[str] = []
    for name, sentences in _SENTENCES:
        if name in _FAMILIES and any(other in found for other in _FAMILIES):
            continue
        if name not in found and all(_SEPARATORS.sub(" ", sentence) in plain for sentence in sentences):
            found.append(name)
    return tuple(sorted(found)) or (UNKNOWN,)


def spdx_expression(text: str) -> str | None:
    """The expression of an `SPDX-License-Identifier:` line in the first 4,000 characters; None without such a line."""
    match = _SPDX.search(text[:4000])
    return _SPDX_END.sub("", match.group(1)).strip() if match else None


def allows(expression: str, permissive: frozenset[str]) -> bool:
    """Whether the licences of `permissive` alone satisfy an SPDX expression.

    OR needs one side, AND needs both; WITH only adds permissions. Example: with {"MIT"}, `MIT OR X` passes and `MIT AND
    X` fails.
    """
    tokens = _TOKEN.findall(expression)[:64]
    verdict, rest = _either(tokens, permissive)
    return verdict and not rest


def _either(tokens: list[str], permissive: frozenset[str]) -> tuple[bool, list[str]]:
    verdict, tokens = _both(tokens, permissive)
    while tokens and tokens[0].upper() == "OR":
        other, tokens = _both(tokens[1:], permissive)
        verdict = verdict or other
    return verdict, tokens


def _both(tokens: list[str], permissive: frozenset[str]) -> tuple[bool, list[str]]:
    verdict, tokens = _one(tokens, permissive)
    while tokens and tokens[0].upper() == "AND":
        other, tokens = _one(tokens[1:], permissive)
        verdict = verdict and other
    return verdict, tokens


def _one(tokens: list[str], permissive: frozenset[str]) -> tuple[bool, list[str]]:
    if not tokens:
        return False, []
    if tokens[0] == "(":
        verdict, rest = _either(tokens[1:], permissive)
        return verdict and rest[:1] == [")"], rest[1:]
    verdict, rest = _bare(tokens[0]) in {_bare(name) for name in permissive}, tokens[1:]
    if rest and rest[0].upper() == "WITH":
        rest = rest[2:]
    return verdict, rest


def _bare(name: str) -> str:
    """An id for comparison: case (SPDX 2.3, annex D) and `or later` are ignored, since `or later` includes the version
    itself.
    """
    return name.lower().removesuffix("+").removesuffix("-or-later").removesuffix("-only")


def ids(expression: str) -> list[str]:
    """The licences that an expression names, in order. Exceptions after WITH are not licences."""
    expression = re.sub(r"(?i)\bWITH\s+\S+", "", expression)
    return [
        token
        for token in _TOKEN.findall(expression)
        if token not in "()" and token.upper() not in ("OR", "AND", "WITH")
    ]

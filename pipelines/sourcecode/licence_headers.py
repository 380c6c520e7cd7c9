"""Finds the licence that a source file's own header declares: by SPDX tags, or by sentences that grant, name or refuse
one.

    declared(text)         "Apache-2.0", "MIT OR GPL-2.0-or-later", "LicenseRef-proprietary"; None without a declaration
    Declare()(document)    the same for a Document: the file's own declaration replaces that of its repository

Only the comment at the start of a file is read, since programs about licences quote licence texts further down. Several
SPDX tags all apply (REUSE specification 3.3). Several licences named in prose all apply too, unless the header offers a
choice (`dual licensed`, `alternatively`, `either of`). A header that only points to a file (`a BSD-style license that
can be found in the LICENSE file`) declares nothing itself. This file knows no Beam.
"""

import dataclasses
import re

from castor.pipelines.document import Document
from castor.pipelines.sourcecode import licences

PROPRIETARY = "LicenseRef-proprietary"
PUBLIC_DOMAIN = "LicenseRef-public-domain"

_HEAD = 8000
_HEAD_LINES = 200
_HINT = re.compile(
    r"(?i)licen[cs]|copyright|public domain|confidential|proprietary|redistribution|permission|unauthori[sz]ed"
)
_TAG = re.compile(r"SPDX-License-Identifier:[ \t]*([^\r\n]{1,200})")
_TAG_END = re.compile(r"\s*(?:\*/|-->|#\}|\"\"\"|'''|\*\)).*$")
_LINE = re.compile(
    r"\s*(?:$|#|//|--|;|%|!|\*|'|\"|\.\.|@?rem\b|dnl\b|<\?|<!|[rbu]?\"\"\"|package\b|using\b|import\b|module\b)",
    re.IGNORECASE,
)
_OPENS = (("/*", "*/"), ('"""', '"""'), ("'''", "'''"), ("<!--", "-->"), ("(*", "*)"), ("{-", "-}"), ("=begin", "=end"))
_MARKS = re.compile(r"[\s*#/;>|_!\"'%<{}()-]+")
_CHOICE = re.compile(
    r"\balternatively\b|\bdual(?:ly)?[ -]?licen[cs]ed\b|\bunder (?:the terms of )?(?:either|one|any) of\b|\beither of "
    r"(?:the|these|those"
    r"|two|following)\b"
    r"|\byour choice\b|\beither the\b|\bat your option under\b|\b(?:mit|bsd|apache|gpl|lgpl|mpl)[^.]{0,40} or (?:the "
    r")?[^.]{0,40}(?:mit|bsd"
    r"|apache|gpl|lgpl|mpl)\b"
)
_POINTS = re.compile(
    r"licen[cs]e that can be found in|see (?:the )?(?:accompanying )?(?:file )?(?:licen[cs]e|copying|notice)|for "
    r"(?:full"
    r"|complete) licen[cs]e|licen[cs]e file"
)
_REFUSED = re.compile(
    r"\bproprietary and confidential\b|\bconfidential and proprietary\b|\btrade secrets?\b|\bunauthori[sz]ed (?:copying"
    r"|use|reproduction"
    r"|distribution|disclosure)\b"
    r"|\bstrictly (?:prohibited|confidential)\b|\bmay not be (?:copied|reproduced|distributed|used"
    r"|disclosed)\b[^.]{0,80}\bwithout\b[^.]{0,60}\b(?:permission|consent)\b"
    r"|\bcompany confidential\b|\bfor internal use only\b|\bdo not (?:re)?distribute\b"
)
_GNU = re.compile(r"\bgnu (affero |lesser |library )?general public licen[cs]e")
_VERSION = re.compile(r"\bversion ([123](?:\.[01])?)|\bv\.? ?([123](?:\.[01])?)\b")
_LATER = re.compile(r"\bany later version\b|\bor later\b|\bor newer\b|\bor higher\b")
_GNU_NAMES = {"": "GPL", "affero ": "AGPL", "lesser ": "LGPL", "library ": "LGPL"}

# Sentences of headers, in lower case, with whitespace and comment marks collapsed to one space.
_SENTENCES = (
    ("Apache-2.0", r"licensed under the apache license,? version 2\.0|under the terms of the apache license,? version "
                   r"2\.0"
                   r"|licensed to the apache software foundation asf under one or more"),
    ("MIT", r"permission is hereby granted, free of charge, to any person obtaining a copy"),
    ("PSF-2.0", r"licensed to psf under a contributor agreement|python software foundation license version 2"),
    ("ISC", r"permission to use, copy, modify, and or distribute this software for any purpose with or without fee is "
            r"hereby granted"),
    ("HPND", r"permission to use, copy, modify,(?: and)? distribute this software and its documentation for any "
             r"purpose"),
    ("Zlib", r"altered source versions must be plainly marked as such"),
    ("BSL-1.0", r"boost software license,? version 1\.0"),
    ("Unlicense", r"this is free and unencumbered software released into the public domain"),
    ("CC0-1.0", r"\bcc0 1\.0\b|creative commons zero"),
    ("MPL-2.0", r"terms of the mozilla public license,? v(?:ersion|\.)? ?2\.0"),
    ("MPL-1.1", r"mozilla public license version 1\.1"),
    ("EPL-2.0", r"eclipse public license v(?:ersion)? ?2\.0"),
    ("EPL-1.0", r"eclipse public license v(?:ersion)? ?1\.0"),
    ("CDDL-1.0", r"common development and distribution license"),
    ("CC-BY-NC-4.0", r"creative commons attribution noncommercial"),
    ("CC-BY-SA-4.0", r"creative commons attribution sharealike"),
    ("MS-PL", r"microsoft public license"),
    ("WTFPL", r"do what the fuck you want to"),
    ("SSPL-1.0", r"server side public license"),
    ("BUSL-1.1", r"business source license"),
    ("BSD-4-Clause", r"redistribution and use in source and binary forms.{0,900}all advertising materials mentioning "
                     r"features"),
    ("BSD-3-Clause", r"redistribution and use in source and binary forms.{0,1200}neither the name"),
    ("BSD-2-Clause", r"redistribution and use in source and binary forms"),
)  # fmt: skip
# Short names, if a sentence names them as the licence: `released under the MIT license`, `License: BSD 3-Clause`.
_CLAUSE = re.compile(
    r"(?:\blicen[cs]ed|\breleased|\bdistributed|\bavailable|\bpublished|\bcovered|\bprovided) (?:under|by"
    r"|with) ([^.]{2,160}(?:\.[0-9][^.]{0,60})?)|\blicen[cs]e ?: ?([^.]{2,60}(?:\.[0-9][^.]{0,40})?)"
)
_SHORT = (
    ("MIT", r"\bmit\b(?! 0)|\bexpat\b"),
    ("MIT-0", r"\bmit 0\b"),
    ("Apache-2.0", r"\bapache(?: software)?(?: licen[cs]e)?,?(?: version| v)? ?2(?:\.0)?\b|\basl ?2"),
    ("BSD-2-Clause", r"\b(?:simplified|2 clause|two clause) bsd|\bbsd 2"),
    ("BSD-3-Clause", r"\b(?:new|revised|modified|3 clause|three clause) bsd\b|\bbsd 3|\bbsd(?! (?:2|style))\b"),
    ("ISC", r"\bisc\b"),
    ("Zlib", r"\bzlib\b"),
    ("LGPL-2.1-or-later", r"\blgpl\b"),
    ("AGPL-3.0-only", r"\bagpl\b"),
    ("GPL-3.0-only", r"\bgpl ?(?:v|version )?3"),
    ("GPL-2.0-only", r"\bgpl\b(?! ?(?:v|version )?3)"),
    ("MPL-2.0", r"\bmpl\b"),
    ("Unlicense", r"\bunlicense\b"),
    ("WTFPL", r"\bwtfpl\b"),
)
_DOMAIN = re.compile(
    r"\b(?:placed|released|put|dedicated|contributed|given)?(?: hereby)? ?(?:in|into|to) the public domain\b|\bis "
    r"(?:in )?(?:the )?public domain\b"
)
_FAMILY = ("BSD-4-Clause", "BSD-3-Clause", "BSD-2-Clause")
_PROSE = ("text", "markdown", "rst", "json", "jupyter", "tex")


@dataclasses.dataclass(frozen=True)
class Declare:
    """Document -> Document with its declared licence, if the text declares one.

    Sets metadata `licence` (SPDX expression), `licences` (ids) and `licence_from` ([path]).
    """

    def __call__(self, document: Document) -> Document:
        prose = document.metadata.get("language") in _PROSE
        own = tags(document.text) if prose else declared(document.text)
        if own is None:
            return document
        found = sorted(set(licences.ids(own))) or [licences.UNKNOWN]
        return document.with_metadata(licence=own, licences=found, licence_from=[document.metadata.get("path", "")])


def declared(text: str) -> str | None:
    """The SPDX expression that the first comment of a file declares; None without a declaration."""
    if not _HINT.search(text, 0, _HEAD):
        return None
    own = tags(text)
    if own is not None:
        return own
    head = first_comment(text)
    if not _HINT.search(head):
        return None
    plain = _MARKS.sub(" ", head.lower())
    found = [name for name, sentence in _COMPILED if sentence.search(plain)]
    found = [name for name in found if name not in _FAMILY or name == next(n for n in _FAMILY if n in found)]
    found += _gnu(plain)
    if not found:
        found = _short_names(plain)
    if not found and _DOMAIN.search(plain):
        found = [PUBLIC_DOMAIN]
    if not found:
        return PROPRIETARY if _REFUSED.search(plain) and not _POINTS.search(plain) else None
    joint = " OR " if _CHOICE.search(plain) else " AND "
    return joint.join(dict.fromkeys(found))


def tags(text: str) -> str | None:
    """The expression of the `SPDX-License-Identifier:` tags in the first 4,000 characters; None without any.

    Several tags all apply. Example: tags `MIT` and `A OR B` give `MIT AND (A OR B)`.
    """
    found = list(dict.fromkeys(_TAG_END.sub("", match.group(1)).strip() for match in _TAG.finditer(text, 0, 4000)))
    found = [expression for expression in found if expression]
    if not found:
        return None
    return (
        found[0]
        if len(found) == 1
        else " AND ".join(f"({expression})" if " OR " in expression else expression for expression in found)
    )


def first_comment(text: str) -> str:
    """The first lines of a file, up to the first line of code.

    Comments, empty lines and lines that may precede a comment (`<?php`, `package x;`) are not code.
    """
    lines, closing = [], None
    for line in text[:_HEAD].split("\n")[:_HEAD_LINES]:
        if closing is not None:
            lines.append(line)
            if closing in line:
                closing = None
            continue
        opened = next(((begin, end) for begin, end in _OPENS if line.lstrip().lstrip("rRuU").startswith(begin)), None)
        if opened is None and not _LINE.match(line):
            break
        lines.append(line)
        if opened is not None and opened[1] not in line.lstrip()[len(opened[0]) :]:
            closing = opened[1]
    return "\n".join(lines)


def _gnu(plain: str) -> list[str]:
    found = []
    for match in _GNU.finditer(plain):
        around = plain[match.end() : match.end() + 220]
        version = _VERSION.search(around) or _VERSION.search(plain[max(0, match.start() - 60) : match.start()])
        number = (version.group(1) or version.group(2)) if version else ""
        number = f"{number}.0" if number in ("1", "2", "3") else number
        name = _GNU_NAMES[match.group(1) or ""]
        suffix = "-or-later" if _LATER.search(around) or not number else "-only"
        found.append((name, number, suffix))
    best: dict[str, str] = {}
    for name, number, suffix in found:
        if number:
            best.setdefault(name, f"{name}-{number}{suffix}")
    for name, _, _ in found:
        best.setdefault(
            name, {"GPL": "GPL-1.0-or-later", "LGPL": "LGPL-2.0-or-later", "AGPL": "AGPL-3.0-or-later"}[name]
        )
    return list(best.values())


def _short_names(plain: str) -> list[str]:
    clauses = " . ".join((match.group(1) or match.group(2)) for match in _CLAUSE.finditer(plain))
    return [name for name, pattern in _SHORT_COMPILED if pattern.search(clauses)] if clauses else []


_COMPILED = tuple((name, re.compile(pattern)) for name, pattern in _SENTENCES)
_SHORT_COMPILED = tuple((name, re.compile(pattern)) for name, pattern in _SHORT)

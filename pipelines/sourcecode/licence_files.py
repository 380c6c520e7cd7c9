"""Finds the licence that governs a file of a repository, and the file that declares it.

    governing = Governing()
    governing.add(path, data)       for every file that `speaks` (licence texts and other declarations), in any order
    governing.of(path)              Decision(expression, ids, files)

The file's own header (pipelines/sourcecode/licence_headers.py) takes precedence over all of these. Otherwise the first
of these that declares anything decides:

1. `NAME.license` next to the file (REUSE specification 3.3). 2. `REUSE.toml` or `.reuse/dep5`: the last entry that
matches the path, in the nearest parent folder that has one. 3. Licence texts in the nearest parent folder that has any:
a vendored folder with its own LICENSE is under that licence. Several texts all apply, unless a file next to them offers
a choice (`either of the licences found in LICENSE.APACHE or LICENSE.BSD`). Folders that hold only licences
(`LICENSES/`, `NAME.dist-info/`) speak for their parent folder. An unknown text in `LICENSES/` gets its licence from its
name. 4. The declaration in the nearest `package.json`, `Cargo.toml`, `pyproject.toml` or `setup.cfg`.

This file knows no Beam.
"""

import configparser
import dataclasses
import fnmatch
import functools
import json
import posixpath
import re
import tomllib
from collections.abc import Callable

from castor.pipelines.document import BadInput
from castor.pipelines.sourcecode import licence_headers, licences
from castor.pipelines.text import charset

MAX_FILES = 1000
"""Licence files read per repository; further ones count as unknown."""

_SIDECAR = ".license"
_MANIFESTS = ("package.json", "Cargo.toml", "pyproject.toml", "setup.cfg")
_SPDX_NAME = re.compile(
    r"^(?:LicenseRef-[\w.-]+|[A-Za-z0-9][A-Za-z0-9.]*(?:-[A-Za-z0-9.]+)+|MIT|ISC|Zlib|Unlicense|WTFPL|PostgreSQL|0BSD"
    r"|NCSA|HPND|X11)$"
)
_OFFERS = re.compile(r"(?i)\beither\b|\bdual\b|\byour (?:choice|option)\b|\bor\b")


@dataclasses.dataclass(frozen=True)
class Decision:
    """The licence of a file.

    expression: SPDX expression, empty if nothing decides.

    ids: SPDX ids in the expression, sorted.

    files: paths of the files that decided.
    """

    expression: str = ""
    ids: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


NOTHING = Decision()
_Annotation = tuple[str, Callable[[str, str], bool], Decision]  # a glob, its matcher, and the licence


def speaks(path: str) -> bool:
    """Whether a file declares the licence of other files."""
    name = posixpath.basename(path)
    return (
        name in _MANIFESTS
        or name == "REUSE.toml"
        or path.endswith((".reuse/dep5", _SIDECAR))
        or licences.is_licence_file(path)
    )


class Governing:
    """The licence declarations of one repository's files."""

    def __init__(self):
        self._texts: dict[str, dict[str, Decision]] = {}  # by the folder that they govern
        self._unknown: dict[tuple[str, str], str] = {}
        self._sidecars: dict[str, Decision] = {}
        self._annotated: dict[str, list[_Annotation]] = {}
        self._declared: dict[str, Decision] = {}
        self._count = 0
        self._of_folder = functools.cache(self._by_texts)

    def add(self, path: str, data: bytes | None) -> None:
        """Records a file that `speaks`.

        data: its content; None for an unreadable file, which makes a licence text an unknown licence.
        """
        self._count += 1
        text = _decoded(data) if self._count <= MAX_FILES else None
        name, folder = posixpath.basename(path), posixpath.dirname(path)
        tagged = licence_headers.tags(text or "")
        if path.endswith(_SIDECAR) and (tagged or not licences.is_licence_file(path)):
            if tagged:
                self._sidecars[path.removesuffix(_SIDECAR)] = _decision(tagged, path)
        elif name == "REUSE.toml":
            self._annotated.setdefault(folder, []).extend(_reuse(text or "", path))
        elif path.endswith(".reuse/dep5"):
            self._annotated.setdefault(posixpath.dirname(folder), []).extend(_dep5(text or "", path))
        elif name in _MANIFESTS:
            expression = _manifest(name, text or "")
            if expression:
                self._declared.setdefault(folder, _decision(expression, path))
        else:
            self._add_text(path, text)

    def of(self, path: str) -> Decision:
        """The licence that governs a file; NOTHING if the repository declares none."""
        own = self._sidecars.get(path)
        if own is not None:
            return own
        for folder in _above(path) if self._annotated else ():
            below = path[len(folder) + 1 :] if folder else path
            for glob, covers, decision in reversed(self._annotated.get(folder, ())):
                if covers(glob, below):
                    return decision
        return self._of_folder(posixpath.dirname(path))

    def _add_text(self, path: str, text: str | None) -> None:
        folder, name = licences.governed_folder(path), posixpath.basename(path)
        tagged = licences.spdx_expression(text) if text else None
        names = licences.identify_text(text) if text is not None else (licences.UNKNOWN,)
        stem = re.sub(r"\.(?:txt|md|rst)$", "", name)
        if (
            names == (licences.UNKNOWN,)
            and posixpath.basename(posixpath.dirname(path)) == "LICENSES"
            and _SPDX_NAME.match(stem)
        ):
            names = (stem,)
        self._texts.setdefault(folder, {})[name] = _decision(tagged or " AND ".join(names), path)
        if names == (licences.UNKNOWN,):
            self._unknown[folder, name] = text or ""

    def _by_texts(self, folder: str) -> Decision:
        for above in (folder, *_parents(folder)):
            if above in self._texts:
                return self._together(above)
        for above in (folder, *_parents(folder)):
            if above in self._declared:
                return self._declared[above]
        return NOTHING

    def _together(self, folder: str) -> Decision:
        files = self._texts[folder]
        pointers = [name for name in files if self._points(folder, name)]
        rest = [decision for name, decision in sorted(files.items()) if name not in pointers]
        offered = any(_OFFERS.search(self._unknown[folder, name]) for name in pointers)
        parts = list(dict.fromkeys(decision.expression for decision in rest))
        if len(parts) > 1:
            parts = [f"({part})" if " OR " in part or (offered and " AND " in part) else part for part in parts]
        expression = (" OR " if offered else " AND ").join(parts)
        paths = sorted({path for decision in files.values() for path in decision.files})
        return Decision(expression, tuple(sorted({i for decision in rest for i in decision.ids})), tuple(paths))

    def _points(self, folder: str, name: str) -> bool:
        """Whether an unknown text only points to the files next to it."""
        text = self._unknown.get((folder, name), "")
        return len(text) < 2000 and any(
            other in text for other in self._texts[folder] if other != name and (folder, other) not in self._unknown
        )


def _decision(expression: str, path: str) -> Decision:
    return Decision(expression, tuple(sorted(set(licences.ids(expression)))) or (licences.UNKNOWN,), (path,))


def _decoded(data: bytes | None) -> str | None:
    if data is None:
        return None
    try:
        return charset.decode(data)[0]
    except BadInput:
        return None


def _above(path: str) -> list[str]:
    folder = posixpath.dirname(path)
    return [folder, *_parents(folder)]


def _parents(folder: str) -> list[str]:
    """The folders above a folder, nearest first; the last one is the empty path."""
    parents = []
    while folder:
        folder = posixpath.dirname(folder)
        parents.append(folder)
    return parents


def _reuse(text: str, path: str) -> list[_Annotation]:
    """Annotations of a REUSE.toml: path globs and their licence expression. An unreadable file has none."""
    try:
        entries = tomllib.loads(text).get("annotations", [])
        found = []
        for entry in entries:
            globs, named = entry.get("path", []), entry.get("SPDX-License-Identifier", "")
            expression = " AND ".join([named] if isinstance(named, str) else [str(item) for item in named])
            if expression:
                found += [
                    (str(glob), _covers, _decision(expression, path))
                    for glob in ([globs] if isinstance(globs, str) else globs)
                ]
        return found
    except (tomllib.TOMLDecodeError, AttributeError, TypeError, RecursionError):
        return []


def _dep5(text: str, path: str) -> list[_Annotation]:
    """`Files:` and `License:` stanzas of a Debian copyright file (DEP 5), whose `*` crosses folders."""
    found = []
    for stanza in re.split(r"\n[ \t]*\n", text):
        fields = dict(re.findall(r"(?m)^(Files|License):[ \t]*((?:[^\n]|\n[ \t]+[^\n])*)", stanza))
        expression = fields.get("License", "").split("\n")[0].strip()
        if expression and "Files" in fields:
            expression = re.sub(r"\bor\b", "OR", re.sub(r"\band\b", "AND", expression))
            found += [(glob, _covers_across, _decision(expression, path)) for glob in fields["Files"].split()]
    return found


def _covers_across(glob: str, path: str) -> bool:
    """Matches DEP 5's globs, whose `*` crosses folders."""
    return fnmatch.fnmatchcase(path, glob)


def _covers(glob: str, path: str) -> bool:
    """Matches REUSE.toml's globs: `*` stays within a folder, a part `**` is any number of folders. Linear in the path.

    Example: `src/**/*.py` matches `src/a/b.py`; `src/*.py` does not.
    """
    parts = path.split("/")
    reached = {0}
    for wanted in glob.split("/"):
        if wanted == "**":
            reached = set(range(min(reached, default=len(parts) + 1), len(parts) + 1))
        else:
            reached = {i + 1 for i in reached if i < len(parts) and fnmatch.fnmatchcase(parts[i], wanted)}
    return len(parts) in reached


def _manifest(name: str, text: str) -> str:
    """The licence that a package manifest declares; empty if none."""
    try:
        if name == "package.json":
            declared = json.loads(text).get("license", "")
            declared = declared.get("type", "") if isinstance(declared, dict) else declared
        elif name == "setup.cfg":
            parser = configparser.ConfigParser(interpolation=None, strict=False)
            parser.read_string(text)
            declared = parser.get("metadata", "license", fallback="")
        else:
            table = tomllib.loads(text)
            declared = table.get("package" if name == "Cargo.toml" else "project", {}).get("license", "")
            declared = declared.get("text", "") if isinstance(declared, dict) else declared
    except (ValueError, AttributeError, TypeError, RecursionError, configparser.Error):
        return ""
    if not isinstance(declared, str) or not 0 < len(declared) <= 200 or "\n" in declared:
        return ""
    named = declared.replace("/", " OR ")  # Cargo's old syntax
    plain = {
        "mit license": "MIT",
        "apache 2.0": "Apache-2.0",
        "apache license 2.0": "Apache-2.0",
        "apache-2": "Apache-2.0",
        "bsd": "BSD-3-Clause",
        "isc license": "ISC",
    }
    return plain.get(named.lower().strip(), named.strip())

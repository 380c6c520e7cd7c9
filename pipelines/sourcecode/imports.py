"""Finds the files of a repository that a file imports: the edges for an order in which dependencies come first.

    dependencies({"a/b.py": ("python", text), ...}) -> {"a/b.py": ["a/c.py", ...], ...}

One light regular expression per language finds the imported names. A name is resolved among the repository's own files,
as the language would resolve it. Among several candidates the nearest to the importing file is taken: the one with the
longest common folder, then the smallest path. Names that do not resolve belong to other projects.

    Python                 import, from ... import, also relative. A module's name starts above the outermost folder
                           with an __init__.py, or up to three folders below the top (src/, lib/)
    JavaScript, TypeScript from, require, import() of ./ and ../, with the endings and index files that resolvers try
    C, C++, CUDA           #include relative to the file, else any file whose path ends with the name
    Go                     imported packages: all files of the folder whose path ends with the import path
    Java, Kotlin, Scala    imported classes, static members and whole packages, by path
    Rust                   mod, and use of crate::, self::, super::
    Ruby                   require_relative

Paths are relative, with slashes. Results are in order of mention, so they depend on the texts alone. This file knows no
Beam.
"""

import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

_PYTHON = re.compile(
    r"(?m)^[ \t]*+(?:from[ \t]++(\.*[\w.]*)[ \t]++import[ \t]*+(\([^)]{0,5000}\)|[^\n#;(]{1,1000})|c?import[ "
    r"\t]++([\w., \t]{1,1000}))"
)
_SCRIPT = re.compile(
    r"""(?:\bfrom|\bimport|\brequire[ \t]*\(|\bimport[ \t]*\()[ \t]*["'](\.{1,2}/[^"'\n]{0,300})["']"""
)
_RUBY = re.compile(r"""(?m)^[ \t]*+require_relative[ \t(]*["']([^"'\n]{1,300})["']""")
_INCLUDE = re.compile(r"(?m)^[ \t]*+#[ \t]*+(?:include|import)[ \t]*+[<\"]([^>\"\n]{1,300})[>\"]")
_GO_END = re.compile(r"(?m)^(?:func|type|var|const)\b")
_GO = re.compile(r'"([\w.~-]+(?:/[\w.~-]+)+)"')
_JVM = re.compile(r"(?m)^import[ \t]++(?:static[ \t]++)?([\w.]+?)(\.[*_])?[ \t]*+(?:;|$|\{|as\b)")
_RUST_MOD = re.compile(r"(?m)^[ \t]*+(?:pub(?:\([^)\n]{0,40}\))?[ \t]++)?mod[ \t]++(\w+)[ \t]*+;")
_RUST_USE = re.compile(r"(?m)^[ \t]*+(?:pub(?:\([^)\n]{0,40}\))?[ \t]++)?use[ \t]++(crate|self|super)((?:::\w+)+)")
_SCRIPT_ENDINGS = (
    "",
    ".ts",
    ".tsx",
    ".js",
    ".jsx",
    ".mjs",
    ".cjs",
    ".d.ts",
    ".vue",
    ".json",
    "/index.ts",
    "/index.tsx",
    "/index.js",
)
_JVM_ENDINGS = (".java", ".kt", ".scala", ".groovy")
_MAX_FAN = 64  # maximum number of files for one import of a whole package


def dependencies(files: Mapping[str, tuple[str, str]]) -> dict[str, list[str]]:
    """The files that each file imports, each once, in order of mention, without the file itself.

    files: {path: (language, text)}.
    """
    tree = _Tree(files)
    found = {}
    for path, (language, text) in files.items():
        named = _FINDERS[language](tree, path, text) if language in _FINDERS else ()
        found[path] = [other for other in dict.fromkeys(named) if other != path]
    return found


class _Tree:
    """Indexes of a repository's paths, by the parts that imports name."""

    def __init__(self, files: Mapping[str, tuple[str, str]]):
        self.paths = frozenset(files)
        self.by_name: dict[str, list[str]] = defaultdict(list)
        self.by_folder: dict[str, list[str]] = defaultdict(list)
        self.modules: dict[str, list[str]] = defaultdict(list)
        for path in sorted(files):
            self.by_name[posixpath.basename(path)].append(path)
            self.by_folder[posixpath.dirname(path)].append(path)
            if path.endswith((".py", ".pyi", ".pyx")):
                for name in self._module_names(path):
                    self.modules[name].append(path)
        self.folders: dict[str, list[str]] = defaultdict(list)
        for folder in sorted(self.by_folder):
            self.folders[posixpath.basename(folder)].append(folder)

    def nearest(self, candidates: list[str], path: str) -> str | None:
        """The candidate that shares the most folders with `path`; the first of equals."""
        return max(candidates, key=_Nearness(path), default=None)

    def ending(self, tail: str, path: str) -> str | None:
        """The nearest file whose path ends with `/tail`."""
        tail = posixpath.normpath(tail).lstrip("./")
        return self.nearest(
            [p for p in self.by_name[posixpath.basename(tail)] if p == tail or p.endswith("/" + tail)], path
        )

    def relative_to(self, path: str, relative: str, endings: tuple[str, ...] = ("",)) -> str | None:
        """The file at a path relative to the folder of `path`, with the first ending that exists."""
        whole = posixpath.normpath(posixpath.join(posixpath.dirname(path), relative))
        return next((whole + ending for ending in endings if whole + ending in self.paths), None)

    def _module_names(self, path: str) -> set[str]:
        parts = posixpath.splitext(path)[0].split("/")
        if parts[-1] == "__init__":
            parts.pop()
        top = posixpath.dirname(path)
        while top and f"{top}/__init__.py" in self.paths:
            top = posixpath.dirname(top)
        depth = len(top.split("/")) if top else 0
        return {".".join(parts[start:]) for start in {depth, *range(min(depth, 3) + 1)} if start < len(parts)}


class _Nearness:
    def __init__(self, path: str):
        self._folders = path.split("/")[:-1]

    def __call__(self, other: str) -> int:
        shared = 0
        for mine, theirs in zip(self._folders, other.split("/")[:-1]):
            if mine != theirs:
                break
            shared += 1
        return shared


def _python(tree: _Tree, path: str, text: str) -> Iterator[str]:
    for match in _PYTHON.finditer(text):
        source, names, plain = match.groups()
        if plain:
            for name in _names(plain):
                yield from _module(tree, path, name)
            continue
        base = source.lstrip(".")
        if source.startswith("."):
            folder = posixpath.dirname(path)
            for _ in range(len(source) - len(base) - 1):
                folder = posixpath.dirname(folder)
            inside = "/".join((folder, *base.split("."))) if base else folder
            for name in _names(names):
                yield from _one(_python_file(tree, f"{inside}/{name}") or _python_file(tree, inside))
        else:
            for name in _names(names):
                yield from _module(tree, path, f"{base}.{name}", 2)


def _names(listed: str) -> list[str]:
    """The names of an import list. Example: `(a, b as c, # note` gives [a, b]."""
    listed = re.sub(r"#[^\n]*", "", listed).strip("() \t\n\\")
    return [
        words[0]
        for words in (part.replace("\\", " ").split() for part in listed.split(","))
        if words and words[0] != "*"
    ] or [""]


def _module(tree: _Tree, path: str, name: str, drop: int = 1) -> Iterator[str]:
    """The file of a module, by its dotted name.

    drop: number of trailing parts, plus one, that may name something inside the module. With 2, `a.b.name` may be
        `name` of module `a.b`.
    """
    parts = name.strip(".").split(".")
    for end in range(len(parts), max(0, len(parts) - drop), -1):
        found = tree.nearest(tree.modules.get(".".join(parts[:end]), []), path)
        if found:
            yield found
            return


def _python_file(tree: _Tree, stem: str) -> str | None:
    stem = stem.lstrip("/")
    return next(
        (stem + ending for ending in (".py", "/__init__.py", ".pyx", ".pyi") if stem + ending in tree.paths), None
    )


def _script(tree: _Tree, path: str, text: str) -> Iterator[str]:
    for match in _SCRIPT.finditer(text):
        yield from _one(tree.relative_to(path, match.group(1), _SCRIPT_ENDINGS))


def _ruby(tree: _Tree, path: str, text: str) -> Iterator[str]:
    for match in _RUBY.finditer(text):
        yield from _one(tree.relative_to(path, match.group(1), ("", ".rb")))


def _c(tree: _Tree, path: str, text: str) -> Iterator[str]:
    for match in _INCLUDE.finditer(text):
        yield from _one(tree.relative_to(path, match.group(1)) or tree.ending(match.group(1), path))


def _go(tree: _Tree, path: str, text: str) -> Iterator[str]:
    end = _GO_END.search(text)
    for match in _GO.finditer(text, 0, end.start() if end else len(text)):
        parts = match.group(1).split("/")
        for start in range(1, len(parts)):  # the first part of a Go module path is not a folder of the repository
            tail = "/".join(parts[start:])
            folder = tree.nearest(
                [f + "/" for f in tree.folders[parts[-1]] if f == tail or f.endswith("/" + tail)], path
            )
            if folder:
                yield from [
                    p for p in tree.by_folder[folder.rstrip("/")] if p.endswith(".go") and not p.endswith("_test.go")
                ][:_MAX_FAN]
                break


def _jvm(tree: _Tree, path: str, text: str) -> Iterator[str]:
    for match in _JVM.finditer(text):
        name, whole = match.groups()
        parts = name.split(".")
        if whole:
            folder = tree.nearest(
                [f + "/" for f in tree.folders[parts[-1]] if ("/" + f).endswith("/" + "/".join(parts))], path
            )
            if folder:
                yield from [p for p in tree.by_folder[folder.rstrip("/")] if p.endswith(_JVM_ENDINGS)][:_MAX_FAN]
                continue
        # A nested class or a static member is in the file of its class.
        for end in range(len(parts), max(1, len(parts) - 2), -1):
            stem = "/".join(parts[:end])
            found = next((f for f in (tree.ending(stem + ending, path) for ending in _JVM_ENDINGS) if f), None)
            if found:
                yield found
                break


def _rust(tree: _Tree, path: str, text: str) -> Iterator[str]:
    folder, name = posixpath.split(path)
    own = folder if name in ("lib.rs", "main.rs", "mod.rs") else posixpath.join(folder, name.removesuffix(".rs"))
    for match in _RUST_MOD.finditer(text):
        yield from _one(_rust_file(tree, own, [match.group(1)]))
    root = folder
    while root and not tree.paths.intersection((f"{root}/lib.rs", f"{root}/main.rs")):
        root = posixpath.dirname(root)
    for match in _RUST_USE.finditer(text):
        base = {"crate": root, "self": own, "super": posixpath.dirname(own)}[match.group(1)]
        yield from _one(_rust_file(tree, base, match.group(2).strip(":").split("::")))


def _rust_file(tree: _Tree, base: str, parts: list[str]) -> str | None:
    """The file of the deepest module in a path of names."""
    for end in range(len(parts), 0, -1):
        stem = posixpath.join(base, *parts[:end])
        for ending in (".rs", "/mod.rs"):
            if stem + ending in tree.paths:
                return stem + ending
    return None


def _one(path: str | None) -> tuple[str, ...]:
    return (path,) if path else ()


_FINDERS: dict[str, Callable[[_Tree, str, str], Iterator[str]]] = {
    **dict.fromkeys(("python", "pyi", "cython"), _python),
    **dict.fromkeys(("javascript", "jsx", "ts", "tsx", "vue"), _script),
    **dict.fromkeys(("c", "c++", "cuda", "objective-c"), _c),
    "go": _go,
    **dict.fromkeys(("java", "kotlin", "scala", "groovy"), _jvm),
    "rust": _rust,
    "ruby": _ruby,
}

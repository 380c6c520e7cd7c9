"""Fingerprints: short hashes of everything an output was made from.

A manifest has the fingerprint of its inputs, its configuration and its code. A stage whose fingerprint equals the one
in its output's manifest need not run again. A reader that finds another fingerprint than expected must stop.

The code of a stage is found without running it, by following references between modules:

    import statements        at module level, in functions, under TYPE_CHECKING, in a package's lazy table of names
    strings                  literal module names passed to importlib.import_module or `python -m`
    files of a folder        templates and word lists in the folder of a module that uses `__file__`

The text of a package's `__init__.py` always counts. Its imports count only if the package itself or an exported name
is imported: `from castor.tasks import hashing` does not lead to all exports of `castor.tasks`. Modules outside Castor
count if a job or gin file names them and they belong to the user. Installed packages and the standard library never
count.
"""

import ast
import functools
import hashlib
import importlib.util
import json
import pathlib
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator

ROOMS = ("castor.tasks", "castor.pipelines", "castor.train", "castor.launch")
_HOME = pathlib.Path(__file__).resolve().parent.parent
_NAMED = re.compile(r"""(?:import_module\(|["']-m["'],)\s*["']([\w.]+)["']""")
_INSTALLED = {pathlib.Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")}


def is_own(module: str) -> bool:
    """Whether a module is in one of Castor's rooms."""
    return any(module == room or module.startswith(f"{room}.") for room in ROOMS)


def of_json(value) -> str:
    """SHA-256 (32 hex digits) of a JSON value in canonical form: sorted keys, no spaces."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def of_code(*modules: str) -> str:
    """SHA-256 (32 hex digits) of the code files of `modules` and of everything they reference; see `code_of`."""
    found = code_of(*modules)
    digest = hashlib.sha256()
    for name in sorted(found):
        digest.update(f"{name}\0{hashlib.sha256(_read(found[name])).hexdigest()}\0".encode())
    return digest.hexdigest()[:32]


def code_of(*modules: str) -> dict[str, pathlib.Path]:
    """{name: file} of `modules`, of all modules they reference, and of their data files ("module/file")."""
    found: dict[str, pathlib.Path] = {}
    followed: set[str] = set()
    stack = list(modules)
    while stack:
        name = stack.pop()
        if name in followed or (path := _path(name)) is None:
            continue
        followed.add(name)
        stack.extend(_named(name, path))
        for part in _with_packages(name):
            if (home := _path(part)) is not None:
                found[part] = home
        if is_own(name):
            found.update((f"{name}/{file.relative_to(path.parent)}", file) for file in _beside(path))
    return found


def forget() -> None:
    """Clears the caches. Until then, a process fingerprints the code as of its first look."""
    for cache in (_read, _path, _beside, _top):
        cache.cache_clear()


def _named(name: str, path: pathlib.Path) -> Iterator[str]:
    """The modules that a module references."""
    imports, named = _names(_read(path))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for module, level, alias in imports:
        if level:
            module = ".".join([*package.split(".")[: len(package.split(".")) - level + 1], *filter(None, [module])])
        within = f"{module}.{alias}"
        yield within if alias and _path(within) is not None else module
    yield from named


@functools.cache
def _names(source: bytes) -> tuple[tuple[tuple[str, int, str], ...], tuple[str, ...]]:
    """((module, level, name or "") of every import statement, modules named in strings)."""
    text = source.decode("utf-8")
    found, statements = set(), [ast.parse(text)]
    while statements:  # only statements: expressions, most of the tree, contain no imports
        node = statements.pop()
        for part in ("body", "orelse", "finalbody", "handlers", "cases"):
            statements.extend(getattr(node, part, ()))
        if isinstance(node, ast.Import):
            found.update((alias.name, 0, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.update((node.module or "", node.level, alias.name) for alias in node.names)
    return tuple(sorted(found)), tuple(sorted(set(_NAMED.findall(text))))


def _with_packages(name: str) -> Iterable[str]:
    parts = name.split(".")
    return (".".join(parts[:length]) for length in range(1, len(parts) + 1))


@functools.cache
def _read(path: pathlib.Path) -> bytes:
    return path.read_bytes()


@functools.cache
def _path(name: str) -> pathlib.Path | None:
    """The file of a module of Castor or of the user; None for any other module."""
    top, *rest = name.split(".")
    home = _HOME if top == "castor" and is_own(name) else _top(top)
    if home is None:
        return None
    base = home.joinpath(*rest)
    return next((p for p in (base.with_name(f"{base.name}.py"), base / "__init__.py") if p.is_file()), None)


@functools.cache
def _top(name: str) -> pathlib.Path | None:
    """The folder of a user's top-level package, or the path of a user's module without `.py`. Imports nothing."""
    if name in sys.stdlib_module_names or name == "castor":
        return None
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    origin = pathlib.Path(spec.origin).resolve()
    if any(folder in origin.parents for folder in _INSTALLED):
        return None
    return origin.parent if origin.name == "__init__.py" else origin.with_suffix("")


@functools.cache
def _beside(path: pathlib.Path) -> tuple[pathlib.Path, ...]:
    """The data files that a module of Castor may read from its folder: all non-code files, if it uses `__file__`."""
    if b"__file__" not in _read(path):
        return ()
    found, folders = [], [path.parent]
    while folders:
        for entry in folders.pop().iterdir():
            if entry.is_dir():
                if entry.name != "__pycache__" and not (entry / "__init__.py").is_file():
                    folders.append(entry)
            elif entry.suffix not in (".py", ".pyc") and not entry.name.startswith("."):
                found.append(entry)
    return tuple(sorted(found))

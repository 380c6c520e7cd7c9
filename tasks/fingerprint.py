"""Fingerprints: short names for exactly what something was made from.

A manifest carries the fingerprint of its inputs, its configuration and the code that made it. A stage whose fingerprint
already stands in its output's manifest need not run again; a reader that finds another fingerprint than it was promised
must stop.

The code of a stage is found without running it, by following what its modules name:

    import statements        at module level, in functions, under TYPE_CHECKING, in a package's lazy table of names
    strings                  where importlib.import_module or `python -m` takes a module's name as it stands
    files beside a module    templates, word lists: those of its folder, where the module asks where it is (`__file__`)

A package's own text always counts, but what it imports counts only for those who import the package or a name that it
hands out: `from castor.tasks import hashing` does not lead to all that `castor.tasks` offers. Modules outside Castor
count where a job or a gin file names them and they are a user's own; installed packages and Python's library never do.
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
    """True for the name of a module in one of Castor's rooms."""
    return any(module == room or module.startswith(f"{room}.") for room in ROOMS)


def of_json(value) -> str:
    """SHA-256 (32 hex digits) of a JSON-able value in canonical form: sorted keys, no blanks."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def of_code(*modules: str) -> str:
    """SHA-256 (32 hex digits) of the files of `modules` and of everything that they lead to (`code_of`)."""
    found = code_of(*modules)
    digest = hashlib.sha256()
    for name in sorted(found):
        digest.update(f"{name}\0{hashlib.sha256(_read(found[name])).hexdigest()}\0".encode())
    return digest.hexdigest()[:32]


def code_of(*modules: str) -> dict[str, pathlib.Path]:
    """{name: file} of `modules`, of all modules that they lead to, and of the files beside those ("module/file")."""
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
    """Has every file read again: a process fingerprints code as it was when it first looked, until this is called."""
    for cache in (_read, _path, _beside, _top):
        cache.cache_clear()


def _named(name: str, path: pathlib.Path) -> Iterator[str]:
    """The modules that a module names."""
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
    """((module, level, name or "") of every import statement, modules that strings name)."""
    text = source.decode("utf-8")
    found, statements = set(), [ast.parse(text)]
    while statements:  # expressions, the most of a tree by far, hold no import
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
    """The file of a module that is Castor's or a user's own; None for all others."""
    top, *rest = name.split(".")
    home = _HOME if top == "castor" and is_own(name) else _top(top)
    if home is None:
        return None
    base = home.joinpath(*rest)
    return next((p for p in (base.with_name(f"{base.name}.py"), base / "__init__.py") if p.is_file()), None)


@functools.cache
def _top(name: str) -> pathlib.Path | None:
    """Where a user's own top-level module is: its folder, or its file without `.py`. Nothing is imported."""
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
    """The files that a module of Castor may read from its own folder: all that are no code, if it asks where it is."""
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

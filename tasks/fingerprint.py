"""Fingerprints: short names for exactly what something was made from.

A manifest carries the fingerprint of its inputs, its configuration and the code that made it. A stage whose fingerprint already stands in
its output's manifest need not run again; a reader that finds another fingerprint than it was promised must stop.
"""

import ast
import functools
import hashlib
import importlib.util
import json
import pathlib
from collections.abc import Iterable

ROOMS = ("castor.tasks", "castor.pipelines", "castor.train", "castor.launch")


def is_own(module: str) -> bool:
    """True for the name of a module in one of Castor's rooms."""
    return any(module == room or module.startswith(f"{room}.") for room in ROOMS)


def of_json(value) -> str:
    """SHA-256 (32 hex digits) of a JSON-able value in canonical form: sorted keys, no blanks."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def of_code(*modules: str) -> str:
    """SHA-256 (32 hex digits) of the sources of `modules` and of every module of Castor's rooms that they import, directly or not."""
    digest = hashlib.sha256()
    for name in sorted(_reachable(modules)):
        digest.update(name.encode() + b"\0" + _source(name).encode() + b"\0")
    return digest.hexdigest()[:32]


def _reachable(modules: Iterable[str]) -> set[str]:
    seen: set[str] = set()
    stack = list(modules)
    while stack:
        name = stack.pop()
        if name not in seen and _source(name) is not None:
            seen.add(name)
            stack.extend(_imports(name))
    return seen


@functools.cache
def _source(name: str) -> str | None:
    if not is_own(name):
        return None
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    return pathlib.Path(spec.origin).read_text(encoding="utf-8")


@functools.cache
def _imports(name: str) -> frozenset[str]:
    found, statements = set(), [ast.parse(_source(name))]
    while statements:  # expressions, the most of a tree by far, hold no import
        node = statements.pop()
        for part in ("body", "orelse", "finalbody", "handlers", "cases"):
            statements.extend(getattr(node, part, ()))
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                found.add(module if _source(module) is not None else node.module)
    return frozenset(filter(is_own, found))

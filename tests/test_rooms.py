"""The architecture as a table: which rooms (packages) exist, and in which direction imports may go.

A floor (`launch`, `train`, `pipelines`, `tasks`) is listed from the top down. A module imports only from its own room,
from rooms below it on its floor, and from the floors below. There is no import cycle: not between files, not between
rooms, and not through imports inside functions or under TYPE_CHECKING. A new room must be added to the table, and its
docstring must state its purpose.
"""

import ast
import functools
import graphlib
import pathlib
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]

MAY_IMPORT = {
    "launch": ("train", "pipelines", "tasks"),
    "train": ("tasks",),
    "pipelines": ("tasks",),
    "tasks": (),
}
"""Floors that a floor may import besides itself."""

ROOMS = {
    "launch": (
        "command",
        "commands/",
        "recipes/",
        "reports/",
        "engines/",
        "inference/",
        "abstract_runs",
        "training_runs",
        "data_jobs",
        "devices",
        "exit_codes",
        "extras",
        "terminal",
    ),
    "train": (
        "loop",
        "evaluation/",
        "inference/",
        "compiler/",
        "huggingface/",
        "reporter",
        "metrics",
        "preemption",
        "run",
        "model_dir",
        "checkpoints/",
        "step",
        "optimizers",
        "model/",
        "model/attention/",
        "partitioning",
    ),
    "pipelines": (
        "web code image audio video vocabulary tokenize quality_train",
        "execution/",
        "tokenization/",
        "corpus/",
        "decontamination/",
        "deduplication/",
        "filters/",
        "quality/",
        "readers/",
        "media/",
        "sourcecode/",
        "text/",
        "text/maintext/",
        "core/",
        "document",
    ),
    "tasks": (
        "integrations/",
        "batches/",
        "cache/",
        "vocabulary/",
        "mixing/",
        "storage/",
        "configuration",
        "fingerprint",
        "former_names",
        "hashing",
        "checks",
        "errors",
    ),
}
"""Rooms of each floor, from the top down. `name/` is a folder; other words are files on the floor itself."""


def module_of(path: pathlib.Path) -> str:
    """The import name of a file: tasks/cache/layout.py is castor.tasks.cache.layout, a package is its folder's name."""
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(("castor", *(parts[:-1] if parts[-1] == "__init__" else parts)))


@functools.cache
def modules() -> dict[str, pathlib.Path]:
    """Every module of every floor, by import name."""
    return {module_of(path): path for floor in ROOMS for path in sorted((REPOSITORY / floor).rglob("*.py"))}


@functools.cache
def imports(module: str) -> frozenset[str]:
    """Modules of Castor that a module imports anywhere in its text."""
    found = set()
    for node in ast.walk(ast.parse(modules()[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in modules() else node.module)
    return frozenset(found & set(modules()))


def room_of(module: str) -> tuple[str, int] | None:
    """(floor, index in its list) of a module's room; None if the table has no such room.

    A floor's own package is above its rooms.
    """
    floor, *rest = module.split(".")[1:]
    if not rest:
        return floor, -1
    is_package = modules()[module].name == "__init__.py"
    folder = "/".join(rest if is_package else rest[:-1])
    for index, entry in enumerate(ROOMS[floor]):
        if entry.endswith("/") and folder == entry[:-1] or not folder and rest[0] in entry.split():
            return floor, index
    return None


def test_every_file_stands_in_a_room():
    homeless = [str(path.relative_to(REPOSITORY)) for module, path in modules().items() if room_of(module) is None]
    assert not homeless, f"add their rooms to ROOMS in {__file__}: {homeless}"


def test_every_room_of_the_table_is_there():
    standing = {room_of(module) for module in modules()}
    missing = [
        entry for floor, entries in ROOMS.items() for i, entry in enumerate(entries) if (floor, i) not in standing
    ]
    assert not missing


def test_a_room_imports_only_from_rooms_below_it():
    upward = []
    for module in modules():
        floor, index = room_of(module)
        for imported in sorted(imports(module)):
            other, below = room_of(imported)
            if other in MAY_IMPORT[floor] or (other == floor and below >= index) or index == -1:
                continue
            upward.append(f"{module} imports {imported}")
    assert not upward


def test_no_circle_of_imports():
    try:
        graphlib.TopologicalSorter({module: imports(module) - {module} for module in modules()}).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_modules_are_imported_by_the_one_name():
    bare = []
    for path in (
        *modules().values(),
        *(REPOSITORY / "tests").rglob("*.py"),
        *(REPOSITORY / "benchmarks").rglob("*.py"),
    ):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] in ROOMS for name in names) or isinstance(node, ast.ImportFrom) and node.level:
                bare.append(f"{path.relative_to(REPOSITORY)}:{node.lineno}")
    assert not bare, "a user's own tasks.py or train/ would be found instead"


def test_packages_hold_a_docstring_and_nothing_else():
    for path in (
        REPOSITORY / floor / rest
        for floor in ROOMS
        for rest in (p.relative_to(REPOSITORY / floor) for p in (REPOSITORY / floor).rglob("__init__.py"))
    ):
        if path != REPOSITORY / "tasks" / "__init__.py":
            tree = ast.parse(path.read_text(encoding="utf-8"))
            assert ast.get_docstring(tree) and len(tree.body) == 1, path
    for floor in ROOMS:
        for folder in {path.parent for path in (REPOSITORY / floor).rglob("*.py")}:
            assert (folder / "__init__.py").is_file(), folder


@pytest.mark.parametrize(
    ("imported", "unwanted"),
    [
        (
            "tasks, tasks.batches.batches, tasks.cache.reader, tasks.cache.writer, tasks.cache.verify, "
            "tasks.vocabulary.vocabulary, tasks.vocabulary.codecs, tasks.integrations.preview",
            "tensorflow apache_beam jax seqio google.cloud.storage",
        ),
        (
            "pipelines.document, pipelines.deduplication.rules, pipelines.deduplication.minhash, "
            "pipelines.core.sandbox, pipelines.corpus.reader, pipelines.corpus.shard_writer, pipelines.readers.web_source, "
            "pipelines.tokenization.examples",
            "tensorflow apache_beam jax seqio google.cloud.storage",
        ),
        ("train.loop, train.inference.inference", "tensorflow apache_beam seqio"),
        ("train.model_dir", "tensorflow apache_beam seqio jax"),
        (
            "launch.training_runs, launch.abstract_runs, launch.data_jobs, launch.devices",
            "tensorflow apache_beam seqio jax",
        ),
    ],
)
def test_heavy_imports_stay_where_they_are_needed(imported, unwanted):
    names = ", ".join(f"castor.{name}" for name in imported.split(", "))
    program = f"import sys, {names}; print(sorted(set('{unwanted}'.split()) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr or done.stdout


def test_gin_stays_a_plain_folder():
    assert not list((REPOSITORY / "gin").rglob("__init__.py")), "import gin must find the library"

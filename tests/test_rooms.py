"""The house's own rules: a room imports only from rooms below it, and what is heavy stays out of paths that do not need it."""

import ast
import pathlib
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "tasks": {"tasks"},
    "pipelines": {"pipelines", "tasks"},
    "train": {"train", "tasks"},
    "launch": {"launch", "train", "pipelines", "tasks"},
}


def imported(path: pathlib.Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_from_rooms_below_it(room):
    files = sorted((REPOSITORY / room).rglob("*.py"))
    assert files
    for path in files:
        assert imported(path) & set(MAY_IMPORT) <= MAY_IMPORT[room], path


@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [
        (
            "castor.tasks, castor.tasks.batches.batches, castor.tasks.cache.reader, castor.tasks.cache.writer, castor.tasks.vocabulary.vocabulary, castor.tasks.vocabulary.codecs, castor.tasks.integrations.preview, castor.tasks.cache.verify",
            "tensorflow apache_beam jax seqio google.cloud.storage",
        ),
        (
            "castor.pipelines.document, castor.pipelines.deduplication.rules, castor.pipelines.deduplication.minhash, castor.pipelines.core.sandbox, castor.pipelines.corpus.corpus, castor.pipelines.readers.web_source, castor.pipelines.tokenization.examples",
            "tensorflow apache_beam jax seqio google.cloud.storage",
        ),
        ("castor.train.loop, castor.train.inference.inference", "tensorflow apache_beam seqio"),
    ],
)
def test_heavy_imports_stay_where_they_are_needed(modules, unwanted):
    program = f"import sys, {modules}; print(sorted(set('{unwanted}'.split()) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "[]", done.stderr or done.stdout


def test_gin_stays_a_plain_folder():
    assert not list((REPOSITORY / "gin").rglob("__init__.py")), "import gin must find the library"

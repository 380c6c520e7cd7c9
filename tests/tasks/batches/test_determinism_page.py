"""docs/determinism.md matches the code: its Python runs, its tables are recomputed, its failures are reproduced."""

import doctest
import io
import math
import os
import pathlib
import re
import shutil
import tempfile
from fractions import Fraction

import numpy as np
import pytest
import small_caches as caches
from hypothesis import given, settings
from hypothesis import strategies as st

from castor import tasks
from castor.tasks import hashing
from castor.tasks.cache import layout
from castor.tasks.cache.manifest import load_manifest
from castor.tasks.errors import CacheError
from castor.tasks.mixing import mixing, packing, permutation, schedule

PAGE = pathlib.Path(__file__).parents[3] / "docs" / "determinism.md"
TEXT = PAGE.read_text(encoding="utf-8")


def table(first_cell):
    """The rows of the page's table whose header begins with `first_cell`, header first, each a list of cells."""
    (found,) = re.findall(rf"^(\| {re.escape(first_cell)} \|.*\n(?:\|.*\n)+)", TEXT, re.MULTILINE)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in found.splitlines()]
    return [rows[0], *rows[2:]]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The names that the page's Python leaves behind, after a run without a failure."""
    examples = []
    for block in re.finditer(r"```python\n(.*?)```", TEXT, re.DOTALL):
        first_line = TEXT.count("\n", 0, block.start(1))
        for example in doctest.DocTestParser().get_examples(block[1]):
            example.lineno += first_line
            examples.append(example)
    assert len(examples) > 60
    report, before = io.StringIO(), tempfile.tempdir
    tempfile.tempdir = str(tmp_path_factory.mktemp("page"))
    try:
        test = doctest.DocTest(examples, {"__name__": "page"}, PAGE.name, str(PAGE), 0, None)
        result = doctest.DocTestRunner(verbose=False).run(test, out=report.write, clear_globs=False)
    finally:
        tempfile.tempdir = before
    assert not result.failed, report.getvalue()
    return test.globs


def test_the_python_of_the_page_prints_what_the_page_says(page):
    assert page["batches"].domains == ("code", "image", "web")


def test_the_table_of_positions():
    steps, rows, first = (list(map(int, row[1:])) for row in table("step"))
    sizes = schedule.BatchSizes.of({0: 2, 4: 4})
    assert rows == [sizes.size(step) for step in steps] and first == [sizes.position(step) for step in steps]


def test_the_table_of_the_mixture():
    counts = mixing.Mixing.of({"web": 0.5, "code": 0.3, "image": 0.2}).counts
    _, *rows = table("p")
    assert [int(row[0]) for row in rows] == list(range(11))
    for p, code_due, code, q, image_due, image, web in rows:
        p, code, q, image, web = map(int, (p, code, q, image, web))
        assert (code, image, web) == counts(p) and q == p - code
        assert Fraction(code_due) == Fraction(3 * p, 10) + Fraction(1, 2) and math.floor(Fraction(code_due)) == code
        exact = Fraction(2 * q, 7) + Fraction(1, 2)
        assert abs(Fraction(image_due) - exact) <= Fraction(1, 200) and math.floor(exact) == image


def test_the_table_of_rounds():
    """The network by the page's words, beside the table and beside the code."""
    _, start, *rounds = table("round")
    states = [tuple(map(int, cell.split(", "))) for cell in start[5:]]
    assert states == [(0, 0), (3, 0)]
    mix, key = hashing.mix64, np.uint64(1)
    for row in rounds:
        number, values, halves = int(row[0]), [int(cell) for cell in row[1:5] if cell], row[5:]
        round_key = mix(key ^ mix(np.uint64(number)))
        width = 1 if number % 2 else 3
        assert values == [int(mix(np.uint64(v) ^ round_key)) & width for v in range(4 if number % 2 else 2)]
        states = [(high, low ^ values[high]) if number % 2 else (high ^ values[low], low) for high, low in states]
        assert [f"{high}, {low}" for high, low in states] == halves
    assert len(rounds) == permutation.ROUNDS
    from_0, from_6 = (2 * high + low for high, low in states)
    assert from_0 == 6 and from_6 == 2 == int(permutation.permute(0, 6, 1))


def test_the_lengths_that_are_packed(page):
    records, lengths = (list(map(int, row[1:])) for row in table("record"))
    assert records == list(range(10)) and page["lengths"] == {"targets": lengths} and sum(lengths) == 57


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.floats(1e-4, 1), min_size=2, max_size=8), st.integers(0, 9), st.integers(0, 2**40))
def test_a_component_is_within_its_bound_inside_a_block(weights, seed, block):
    """d/2 + 32 w (1 - w), at every position of a block."""
    mixed = mixing.Mixing.of({f"c{i}": w for i, w in enumerate(weights)}, seed)
    first = block * mixing.BLOCK
    components, _ = mixed.at(first, mixing.BLOCK)
    for leaf, share in enumerate(mixed.shares(first)):
        running = mixed.counts(first)[leaf] + np.concatenate([[0], np.cumsum(components == leaf)])
        bound = mixing.max_deviation(len(weights)) + mixing.BLOCK * share * (1 - share)
        assert all(abs(int(count) - share * (first + x)) <= bound for x, count in enumerate(running))


def test_the_sizes_that_the_page_names():
    assert (mixing.BLOCK, mixing._CHUNK, packing.BLOCK_RECORDS) == (32, 1024, 16384)
    mixed = mixing.Mixing.of({"a": 1, "b": 1})
    assert sum(array.nbytes for array in mixed._chunk(0, 0)) == 16 * 1024 and mixed._chunk.cache_info().maxsize == 64
    assert 70_000 * 8 == 560_000


# ---------------------------------------------------------------- section 9


@pytest.fixture
def directory(page, tmp_path, monkeypatch):
    monkeypatch.setitem(page, "root", str(tmp_path))
    page["write"]("web", [7, 3, 12, 4, 6, 2, 9, 5, 1, 8])
    return str(tmp_path / "web")


def read(directory):
    """Every batch of two epochs of a cache, and the documents in them."""
    batches = tasks.Batches(directory, 2, {"targets": 10})
    return [(batches.batch(step)["decoder_target_tokens"].tolist(), batches.lineage(step)) for step in range(6)]


def flip(directory, name, at=None):
    path = os.path.join(directory, name)
    data = bytearray(pathlib.Path(path).read_bytes())
    data[len(data) // 2 if at is None else data.index(at) + len(at)] ^= 1
    pathlib.Path(path).write_bytes(data)


def shard(directory):
    """The largest shard's file, relative to the cache."""
    return max((entry["bytes"], entry["file"]) for entry in load_manifest(directory).shards("train"))[1]


def lineage(directory):
    return shard(directory).replace("train.tfrecord", "lineage/train") + ".parquet"


def replace_while_in_use(directory):
    batches = tasks.Batches(directory, 2, {"targets": 10})
    for step in range(3):
        batches.batch(step)
    path = os.path.join(directory, shard(directory))
    shutil.copyfile(path, path + ".new")
    os.replace(path + ".new", path)
    for step in range(3):
        batches.batch(step)


def damage_a_plan(directory):
    before = read(directory)
    plans = list(pathlib.Path(directory, layout.PLANS_FOLDER).rglob("*.plan"))
    assert plans
    for plan in plans:
        flip(directory, plan)
    assert read(directory) == before


def fill_the_disk(directory):
    with caches.full_disk(16):
        read(directory)


def leave_the_vocabulary(directory, page):
    page["write"]("web", [5] * 21)
    read(directory)


def after(change, *arguments):
    def run(directory):
        change(directory, *(argument(directory) if callable(argument) else argument for argument in arguments))
        read(directory)

    return run


def cut(directory, name):
    os.truncate(os.path.join(directory, name), os.path.getsize(os.path.join(directory, name)) - 1)


def remove(directory, name):
    os.remove(os.path.join(directory, name))


DAMAGES = {
    "a manifest that says something else": after(flip, layout.MANIFEST, b'"seed": '),
    "a shard cut short, or longer": after(cut, shard),
    "a shard missing": after(remove, shard),
    "a flipped bit in a shard": after(flip, shard),
    "a flipped bit in a file of tokens": after(flip, lambda directory: shard(directory) + ".tokens"),
    "a flipped bit in a sidecar": after(flip, lambda directory: shard(directory) + ".idx"),
    "a flipped bit in a lineage file": after(flip, lineage),
    "a shard replaced under a running job": replace_while_in_use,
    "a token outside the vocabulary": leave_the_vocabulary,
    "a damaged plan": damage_a_plan,
    "a full disk while a plan is written": fill_the_disk,
}


@pytest.mark.parametrize("row", table("damage")[1:], ids=lambda row: row[0])
def test_each_damage_is_noticed_as_the_page_says(page, directory, row):
    damage, _, message = row
    act = DAMAGES[damage]
    arguments = (directory, page) if act is leave_the_vocabulary else (directory,)
    if message.startswith("nothing"):
        act(*arguments)
        return
    with pytest.raises(CacheError, match=re.escape(message.strip("`"))) as raised:
        act(*arguments)
    assert directory in str(raised.value)


def test_every_damage_of_the_page_is_made():
    assert [row[0] for row in table("damage")[1:]] == list(DAMAGES)

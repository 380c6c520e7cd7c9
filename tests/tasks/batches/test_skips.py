"""What is left out: exactly the documents and steps named, and nothing else moves."""

import numpy as np
import pytest
import small_caches as caches
from hypothesis import given, settings
from hypothesis import strategies as st

from castor import tasks
from castor.tasks.batches import skips
from castor.tasks.errors import ConfigurationError

RANGES = st.lists(
    st.tuples(st.integers(0, 60), st.integers(1, 15)).map(lambda pair: (pair[0], pair[0] + pair[1])), max_size=4
)


@pytest.fixture(scope="module")
def tasks_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tasks")
    for name, count, seed in (("web", 60, 0), ("code", 25, 1)):
        caches.make_cache(directory / name, caches.make_records(count, seed=seed), name=name, seed=seed)
    return str(directory)


def batches(tasks_dir, weights=None, **left_out):
    return tasks.Batches(
        tasks.Mixture("two", weights or {"web": 2, "code": 1}, (tasks_dir,), **left_out), 6, {"targets": 48}, seed=2
    )


@settings(derandomize=True, deadline=None)
@given(RANGES)
def test_steps_are_jumped_over_in_order(given_ranges):
    ranges = skips.step_ranges(given_ranges)
    kept = [step for step in range(200) if not any(a <= step < b for a, b in given_ranges)]
    assert [skips.data_step(step, ranges) for step in range(len(kept))] == kept
    assert [skips.training_step(step, ranges) for step in kept] == list(range(len(kept)))
    assert all(skips.training_step(step, ranges) is None for step in set(range(200)) - set(kept))
    assert all(b < c for (_, b), (c, _) in zip(ranges, ranges[1:]))


def test_skipped_steps_shift_whole_batches(tasks_dir):
    plain, skipping = batches(tasks_dir), batches(tasks_dir, skip_steps=((3, 5), (8, 9)))
    for step, data_step in enumerate([0, 1, 2, 5, 6, 7, 9, 10]):
        assert skipping.data_step(step) == data_step
        assert skipping.lineage(step) == plain.lineage(data_step)
        for name, array in plain.batch(data_step).items():
            np.testing.assert_array_equal(skipping.batch(step)[name], array)
    assert skipping.fingerprint != plain.fingerprint


@pytest.mark.parametrize("count", [1, 7, 40])
def test_skipped_documents_become_padding_and_nothing_else_moves(tasks_dir, count):
    plain = batches(tasks_dir)
    ids = sorted({span.document for step in range(3) for row in plain.lineage(step) for span in row})[:count]
    skipping = batches(tasks_dir, skip_documents=tuple(ids))
    removed = 0
    for step in range(25):
        expected, found = plain.batch(step), skipping.batch(step)
        gone = np.zeros(expected["domain"].shape, dtype=bool)
        for row, spans in enumerate(plain.lineage(step)):
            for span in spans:
                if span.document in ids:
                    gone[row, span.row_start : span.row_stop] = True
        removed += gone.sum()
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], np.where(gone, -1 if name == "domain" else 0, array))
        assert skipping.lineage(step) == [[s for s in spans if s.document not in ids] for spans in plain.lineage(step)]
        assert not any(list(skipping.occurrences(document, 25)) for document in ids[:2])
    assert removed > 0


def test_a_skipped_document_is_not_read(tmp_path):
    directory = tmp_path / "toy"
    caches.make_cache(directory, caches.make_records(30), name="toy", num_shards=1)
    plain = tasks.Batches(str(directory), 4, {"targets": 48})
    bad = plain.lineage(0)[0][0]
    shard = directory / "train.tfrecord-00000-of-00001"
    offset = int(np.load(str(shard) + ".idx")["offset"][bad.record]) + 14
    data = bytearray(shard.read_bytes())
    data[offset] ^= 1
    shard.write_bytes(data)
    with pytest.raises(tasks.errors.CacheError):
        tasks.Batches(str(directory), 4, {"targets": 48}).batch(0)
    tasks.Batches(tasks.Mixture("m", {str(directory): 1}, skip_documents=(bad.document,)), 4, {"targets": 48}).batch(0)


def test_documents_come_from_a_file_too(tmp_path, tasks_dir):
    document = batches(tasks_dir).lineage(0)[0][0].document
    (tmp_path / "skip.txt").write_text(f"# spikes\n{document}  # at step 0\n\n{document}\n")
    by_file = batches(tasks_dir, skip_documents=str(tmp_path / "skip.txt"))
    assert by_file.mixture.skip_documents == (document,)
    assert by_file.fingerprint == batches(tasks_dir, skip_documents=(document,)).fingerprint


@pytest.mark.parametrize(
    "left_out, match",
    [
        ({"skip_documents": ("xyz",)}, "not a document id"),
        ({"skip_documents": ("0" * 32,)}, "in no cache"),
        ({"skip_documents": "/nothing.txt"}, "cannot be read"),
        ({"skip_steps": (5,)}, "not a range"),
        ({"skip_steps": ((5, 5),)}, "not a range"),
        ({"skip_steps": ((-1, 5),)}, "not a range"),
        ({"skip_steps": ((1, 2, 3),)}, "not a range"),
    ],
)
def test_bad_lists_are_refused(tasks_dir, left_out, match):
    with pytest.raises(ConfigurationError, match=match):
        batches(tasks_dir, **left_out)

"""What the benchmark of deduplication plants and compares with: seeded, exact, and as good as its theory."""

import pathlib
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

sys.path.append(str(pathlib.Path(__file__).resolve().parents[3] / "benchmarks" / "deduplication"))
import planted  # noqa: E402

from castor.tasks.hashing import mix64

TEXT = " ".join(f"word{i}" for i in range(400))


def test_edits_are_seeded_and_about_as_many_as_asked_for():
    assert planted.edited(TEXT, 0.0, 1) == TEXT and planted.edited(TEXT, 0.1, 1) == planted.edited(
        TEXT, 0.1, 1
    ) != planted.edited(TEXT, 0.1, 2)
    left = set(TEXT.split()) & set(planted.edited(TEXT, 0.2, 3).split())
    assert 320 < len(left) < 390  # half of the edits take a word away


sets = st.sets(st.integers(0, 30))


@given(sets, sets)
def test_jaccard(one, other):
    expected = len(one & other) / len(one | other) if one & other else 0.0
    assert planted.jaccard(np.array(sorted(one), np.int64), np.array(sorted(other), np.int64)) == expected


def test_one_permutation_estimates_jaccard_for_long_and_short_texts():
    for union, spread in ((2000, 0.02), (40, 0.04)):
        shared, agree = union * 3 // 4, []
        for i in range(200):
            hashes = mix64(np.arange(union, dtype=np.uint64) + np.uint64(10_000 * i))
            half = (union - shared) // 2
            one, other = hashes[: shared + half], np.delete(hashes, slice(shared, shared + half))
            agree.append((planted.one_permutation(one, 112) == planted.one_permutation(other, 112)).mean())
        assert abs(np.mean(agree) - 0.75) < spread

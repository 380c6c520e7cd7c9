"""Properties of the whole stack over random mixtures.

Any number of shards gives the same global batch at any step. Positions are contiguous through every ramp, every record
appears once per epoch, stages switch exactly, and lineage works in both directions.
"""

import collections

import numpy as np
import pytest
import small_caches as caches
from hypothesis import given, settings
from hypothesis import strategies as st

from castor import tasks

COUNTS = {"web": 50, "code": 20, "image": 7}
NAMES = list(COUNTS)
STEPS = 24


@pytest.fixture(scope="module")
def tasks_dir(tmp_path_factory):
    return caches.make_caches(tmp_path_factory.mktemp("tasks"), COUNTS)


@st.composite
def runs(draw):
    """(mixture options, Batches options, numbers of shards that divide every batch size)."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))

    def weights():
        values = draw(st.lists(st.sampled_from([0, 1, 2, 0.3, 0.01]), min_size=len(names), max_size=len(names)))
        return dict(zip(names, values if any(values) else [1] * len(names)))

    components, stages, step = weights(), [], 0
    for _ in range(draw(st.integers(0, 2))):
        step += draw(st.integers(1, 10))
        ramp = draw(st.sampled_from([0, 0, 3, 7]))
        stages.append((step, weights(), ramp))
        step += ramp
    unit = draw(st.sampled_from([1, 2, 6, 12]))
    sizes = {0: unit} | {
        draw(st.integers(1, 20)): unit * draw(st.integers(1, 3)) for _ in range(draw(st.integers(0, 2)))
    }
    skips = tuple((start, start + draw(st.integers(1, 4))) for start in draw(st.lists(st.integers(0, 15), max_size=2)))
    options = {
        "batch_size": sizes if len(sizes) > 1 else unit,
        "lengths": {"targets": draw(st.sampled_from([16, 48, 64, 100]))},
        "seed": draw(st.integers(-5, 2**40)),
        "packing": draw(st.sampled_from(["best_fit", "best_fit", "first_fit", "concat_and_split"])),
    }
    mixture = {"components": components, "stages": tuple(stages), "skip_steps": skips}
    return mixture, options, [n for n in (1, 2, 3, 4, 6, 12) if unit % n == 0]


def open_all(tasks_dir, run, num_shards=1):
    mixture, options, _ = run
    mixture = tasks.Mixture("random", cache_dirs=(tasks_dir,), **mixture)
    return [tasks.Batches(mixture, shard=shard, num_shards=num_shards, **options) for shard in range(num_shards)]


@settings(derandomize=True, deadline=None, max_examples=40)
@given(runs(), st.lists(st.integers(0, 10**6), min_size=1, max_size=3), st.data())
def test_any_number_of_shards_changed_at_any_step_gives_the_same_global_batch(tasks_dir, run, steps, data):
    (whole,) = open_all(tasks_dir, run)
    for step in steps:
        num_shards = data.draw(st.sampled_from(run[2]))
        shards = open_all(tasks_dir, run, num_shards)
        expected = whole.batch(step)
        parts = [shard.batch(step) for shard in shards]
        for name, array in expected.items():
            assert len(array) == whole.batch_size_at(step)
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), array)
        assert sum((shard.lineage(step) for shard in shards), []) == whole.lineage(step)
        assert {shard.fingerprint for shard in shards} == {whole.fingerprint}


@settings(derandomize=True, deadline=None, max_examples=25)
@given(runs())
def test_no_row_is_lost_or_repeated_through_ramps_stages_and_epochs(tasks_dir, run):
    mixture, options, _ = run
    (whole,) = open_all(tasks_dir, (mixture | {"skip_steps": ()}, options, [1]))
    rows, latest = collections.defaultdict(list), collections.Counter()
    for step in range(STEPS):
        lineage = whole.lineage(step)
        assert len(lineage) == whole.batch_size_at(step)
        for spans in lineage:
            key = domain, epoch = spans[0].domain, spans[0].epoch
            assert epoch - latest[domain] in (0, 1), "an epoch ends before the next begins"
            latest[domain] = epoch
            rows[key].append(tuple((span.record, span.start, span.stop) for span in spans))
    for (domain, epoch), seen in rows.items():
        assert len(set(seen)) == len(seen), "a packed row comes once an epoch"
        component = whole.components[whole.domains.index(domain)]
        if (domain, epoch + 2) in rows:  # this epoch is over
            assert len(seen) == component.rows
            assert sum(stop - start for row in seen for _, start, stop in row) == component.tokens
    names = [spans[0].domain for step in range(STEPS) for spans in whole.lineage(step)]
    for start, later, ramp in mixture["stages"]:
        following = [s for s, _, _ in mixture["stages"] if s > start]
        first, last = whole.batch_sizes.position(start + ramp), whole.batch_sizes.position(min([*following, STEPS]))
        assert set(names[first:last]) <= {name for name, weight in later.items() if weight}, (
            "a stage's weights hold from its first row on"
        )


@settings(derandomize=True, deadline=None, max_examples=25)
@given(runs(), st.data())
def test_lineage_leads_both_ways(tasks_dir, run, data):
    (whole,) = open_all(tasks_dir, run)
    spans = [(step, span) for step in range(STEPS) for row in whole.lineage(step) for span in row]
    by_document = collections.defaultdict(list)
    for step, span in spans:
        by_document[span.document].append((step, span))
    for document in data.draw(st.lists(st.sampled_from(sorted(by_document)), min_size=1, max_size=4)):
        assert [(found.step, found.span) for found in whole.occurrences(document, STEPS)] == by_document[document]
        first = [found for found in whole.occurrences(document) if found.step < STEPS]
        assert [(found.step, found.span) for found in first] == [
            (s, span) for s, span in by_document[document] if span.epoch == 0
        ]
    assert not list(whole.occurrences("f" * 32, STEPS)) and not list(whole.occurrences("f" * 32))


def test_a_ramp_reads_on_where_the_smaller_batches_ended(tasks_dir):
    mixture = tasks.Mixture("two", {"web": 2, "code": 1}, (tasks_dir,))
    ramp = tasks.Batches(mixture, {0: 2, 3: 4, 5: 12}, {"targets": 48})
    flat = tasks.Batches(mixture, 2, {"targets": 48})
    for name in flat.batch(0):
        joined = np.concatenate([ramp.batch(step)[name] for step in range(7)])
        np.testing.assert_array_equal(joined, np.concatenate([flat.batch(step)[name] for step in range(19)]))

"""Batches are a pure function of (mixture, seed, step).

Sharding does not change them, every record appears once per epoch, and every token is traceable.
"""

import collections
import dataclasses

import numpy as np
import pytest
import small_caches as caches
from hypothesis import given, settings
from hypothesis import strategies as st

from castor import tasks
from castor.tasks import hashing
from castor.tasks.batches.batches import Batches
from castor.tasks.cache.features import Record
from castor.tasks.errors import CacheError, CastorError, ConfigurationError, VocabularyError

LENGTH = 48
COUNTS = {"web": 60, "code": 25, "image": 4}
WEIGHTS = {"web": 0.7, "code": 0.27, "image": 0.03}


@pytest.fixture(scope="module")
def tasks_dir(tmp_path_factory):
    return caches.make_caches(tmp_path_factory.mktemp("tasks"), COUNTS)


@pytest.fixture(scope="module")
def mixture(tasks_dir):
    return tasks.Mixture("three", WEIGHTS, cache_dirs=(tasks_dir,))


def make(mixture, **options):
    return Batches(mixture, **{"batch_size": 12, "lengths": {"targets": LENGTH}, "seed": 7, **options})


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name], b[name])


@settings(derandomize=True, deadline=None, max_examples=15)
@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=4), st.integers(0, 2**40))
def test_a_batch_is_a_pure_function(mixture, steps, seed):
    first = make(mixture, seed=seed)
    expected = {step: first.batch(step) for step in steps}
    for step in reversed(steps):
        fresh = make(mixture, seed=seed)
        fresh.batch(step + 1)
        same(fresh.batch(step), expected[step])
        same(first.batch(step), expected[step])


def test_golden_batch(mixture):
    """The order of training data of this toy mixture; if this fails, every run ever trained has changed."""
    batches = make(mixture, batch_size=4)
    drawn = [
        (span.domain, span.record, span.start, span.stop)
        for step in (0, 1000)
        for row in batches.lineage(step)
        for span in row
    ]
    assert drawn == GOLDEN


@pytest.mark.parametrize("num_shards", [1, 2, 3, 4, 6, 12])
@pytest.mark.parametrize("step", [0, 5, 10**7])
def test_shards_concatenate_to_the_global_batch(mixture, num_shards, step):
    whole = make(mixture)
    parts = [make(mixture, shard=shard, num_shards=num_shards) for shard in range(num_shards)]
    arrays = [part.batch(step) for part in parts]
    same({name: np.concatenate([a[name] for a in arrays]) for name in arrays[0]}, whole.batch(step))
    assert sum((part.lineage(step) for part in parts), []) == whole.lineage(step)
    assert len({part.fingerprint for part in parts} | {whole.fingerprint}) == 1


def test_every_record_exactly_once_an_epoch(mixture):
    batches = make(mixture)
    by_epoch = collections.defaultdict(list)
    orders = collections.defaultdict(list)
    steps = 0
    while min(batches.epochs(steps).values()) < 2.5:
        for row in batches.lineage(steps):
            for span in row:
                by_epoch[span.domain, span.epoch].append((span.record, span.start, span.stop))
                orders[span.domain, span.epoch].append(span.record)
        steps += 1
    for component in batches.components:
        lengths = component.reader.lengths()
        pieces = sorted((r, s, min(s + LENGTH, n)) for r, n in enumerate(lengths.tolist()) for s in range(0, n, LENGTH))
        for epoch in (0, 1):
            assert sorted(by_epoch[component.name, epoch]) == pieces
        if len(component.reader) > 20:
            assert orders[component.name, 0] != orders[component.name, 1]
        assert {r for r, _, _ in pieces} == set(range(COUNTS[component.name]))


def test_domains_come_by_their_weights(mixture):
    batches = make(mixture)
    rows = collections.Counter()
    for step in range(200):
        domain = batches.batch(step)["domain"]
        assert ((domain >= 0).sum(axis=1) > 0).all() and (domain.max(axis=1) < 3).all()
        rows.update(domain[:, 0].tolist())
    for index, name in enumerate(batches.domains):
        assert abs(rows[index] - WEIGHTS[name] * 2400) <= 2
    assert batches.domains == ("code", "image", "web")


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(0, 10**6))
def test_the_arrays_say_the_same_thing(mixture, step):
    batches = make(mixture)
    batch = batches.batch(step)
    targets, inputs, weights = (
        batch["decoder_target_tokens"],
        batch["decoder_input_tokens"],
        batch["decoder_loss_weights"],
    )
    segments, positions, domain = batch["decoder_segment_ids"], batch["decoder_positions"], batch["domain"]
    assert all(a.shape == (12, LENGTH) for a in batch.values())
    assert {name: str(a.dtype) for name, a in batch.items()} == {
        "decoder_target_tokens": "int32",
        "decoder_input_tokens": "int32",
        "decoder_loss_weights": "float32",
        "decoder_segment_ids": "int32",
        "decoder_positions": "int32",
        "domain": "int32",
    }
    for row, spans in enumerate(batches.lineage(step)):
        offset = 0
        for number, span in enumerate(spans, start=1):
            assert (span.row, span.segment, span.row_start) == (row, number, offset)
            size, offset = span.stop - span.start, span.row_stop
            here = slice(span.row_start, span.row_stop)
            record = batches.components[batches.domains.index(span.domain)].reader[span.record]["targets"][
                span.start : span.stop
            ]
            assert targets[row, here].tolist() == record.tolist() == span.targets().tolist()
            assert inputs[row, here].tolist() == [0, *record.tolist()[:-1]]
            assert segments[row, here].tolist() == [number] * size
            assert positions[row, here].tolist() == list(range(size))
            assert weights[row, here].tolist() == [1.0] * size
            assert domain[row, here].tolist() == [batches.domains.index(span.domain)] * size
            assert (
                span.document == batches.components[batches.domains.index(span.domain)].reader.document(span.record)[0]
            )
        for array, padding in ((targets, 0), (inputs, 0), (segments, 0), (positions, 0), (weights, 0), (domain, -1)):
            assert (array[row, offset:] == padding).all()


def test_order_does_not_depend_on_batch_size_but_on_seed_and_split(mixture):
    small, large = make(mixture, batch_size=4), make(mixture, batch_size=12)
    same({k: np.concatenate([small.batch(s)[k] for s in (3, 4, 5)]) for k in small.batch(0)}, large.batch(1))
    assert not np.array_equal(
        make(mixture, seed=8).batch(0)["decoder_target_tokens"], make(mixture).batch(0)["decoder_target_tokens"]
    )


def test_the_fingerprint_names_what_batches_depend_on(mixture, tasks_dir):
    prints = [
        make(mixture).fingerprint,
        make(mixture, seed=8).fingerprint,
        make(mixture, batch_size=24).fingerprint,
        make(mixture, lengths={"targets": 64}).fingerprint,
        make(mixture, packing="first_fit").fingerprint,
        make(mixture, batch_size={0: 12, 10: 24}).fingerprint,
        make(dataclasses.replace(mixture, stages=((10, {"web": 1}),))).fingerprint,
        make(dataclasses.replace(mixture, stages=((10, {"web": 1}, 5),))).fingerprint,
        make(dataclasses.replace(mixture, skip_steps=((10, 20),))).fingerprint,
        make(dataclasses.replace(mixture, components={**WEIGHTS, "image": 0.04})).fingerprint,
        make(tasks_dir + "/web").fingerprint,
    ]
    assert len(set(prints)) == len(prints)
    assert make(dataclasses.replace(mixture, name="other")).fingerprint == prints[0]


def test_a_task_name_or_directory_is_a_mixture_of_one(mixture, tasks_dir):
    by_path = make(f"{tasks_dir}/code")
    by_name = make(tasks.resolve_mixture("code", tasks_dir))
    same(by_path.batch(3), by_name.batch(3))
    assert by_path.domains == by_name.domains == ("code",)


@pytest.mark.parametrize(
    "options, match",
    [
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 1.5}, "batch_size"),
        ({"num_shards": 5}, "is not divisible by 5"),
        ({"num_shards": 0}, "is not divisible by 0"),
        ({"shard": 2, "num_shards": 2}, "shard 2"),
        ({"shard": -1, "num_shards": 2}, "shard -1"),
        ({"lengths": {"inputs": 4}}, "lengths"),
        ({"lengths": {"targets": 0}}, "lengths"),
        ({"lengths": {"targets": 8, "mel": 0}}, "lengths"),
        ({"lengths": {"targets": 8, "mel": 4}}, "no cache of mixture 'three' has a feature 'mel'"),
        ({"packing": "worst_fit"}, "worst_fit"),
        ({"batch_size": {0: 12, 5: 16}, "num_shards": 3}, "batch_size 16 is not divisible by 3"),
        ({"batch_size": {1: 12}}, "batch_size"),
        ({"lengths": 48}, "lengths"),
        ({"seed": None}, "seed"),
    ],
)
def test_bad_arguments(mixture, options, match):
    with pytest.raises(ConfigurationError, match=match):
        make(mixture, **options)


@pytest.mark.parametrize("step", [-1, 1.5, True])
def test_bad_steps(mixture, step):
    with pytest.raises(ConfigurationError, match="step"):
        make(mixture).batch(step)


def test_an_empty_split_is_refused_and_named(mixture):
    with pytest.raises(CacheError, match="code has no tokens in split 'validation'"):
        make(mixture, split="validation")
    with pytest.raises(CacheError, match="no split 'test'"):
        make(mixture, split="test")


def test_a_missing_component_is_refused_and_named(tasks_dir):
    with pytest.raises(
        CacheError, match="mixture 'm': there is no task cache 'webs' in .* mean 'web'.*castor tasks list"
    ):
        make(tasks.Mixture("m", {"code": 1, "webs": 1}, (tasks_dir,)))


def test_a_cache_that_disagrees_with_its_manifest_is_refused(tmp_path):
    caches.make_cache(tmp_path / "toy", caches.make_records(30), name="toy")
    shard = tmp_path / "toy" / "train.tfrecord-00001-of-00003"
    data = shard.read_bytes()
    shard.write_bytes(data + b"x")
    with pytest.raises(CacheError, match="train.tfrecord-00001-of-00003"):
        make(str(tmp_path / "toy"))
    shard.write_bytes(data[:30] + bytes([data[30] ^ 1]) + data[31:])
    batches = make(str(tmp_path / "toy"))
    with pytest.raises(CacheError, match="train.tfrecord-00001-of-00003.*checksum"):
        for step in range(10):
            batches.batch(step)


def test_a_sidecar_of_other_lengths_is_refused_before_it_is_planned(tmp_path):
    caches.make_cache(tmp_path / "toy", caches.make_records(30), name="toy")
    path = tmp_path / "toy" / "train.tfrecord-00001-of-00003.idx"
    index = np.load(path)
    index["targets"][0] = 2**32 - 1
    with open(path, "wb") as file:
        np.save(file, index)
    with pytest.raises(CacheError, match="00001-of-00003.idx"):
        for step in range(10):
            make(str(tmp_path / "toy")).batch(step)


def test_vocabularies_must_agree(tmp_path, tasks_dir):
    caches.make_cache(
        tmp_path / "other",
        caches.make_records(5),
        name="other",
        vocabulary={"path": "", "fingerprint": "g", "size": 1 << 21},
    )
    with pytest.raises(VocabularyError, match="web was made with vocabulary f, cache .*other has vocabulary g"):
        make(tasks.Mixture("m", {"web": 1, str(tmp_path / "other"): 1}, (tasks_dir,)))
    assert make(f"{tasks_dir}/web", vocabulary="f").vocabulary_fingerprint == "f"
    with pytest.raises(VocabularyError, match="the run has vocabulary h"):
        make(f"{tasks_dir}/web", vocabulary="h")


def test_tokens_outside_the_vocabulary_are_refused(tmp_path):
    caches.make_cache(
        tmp_path / "toy", caches.make_records(5), name="toy", vocabulary={"path": "", "fingerprint": "f", "size": 10}
    )
    with pytest.raises(CacheError, match="toy.* record .* outside its vocabulary of 10"):
        make(str(tmp_path / "toy")).batch(0)


def test_several_features_travel_together(tmp_path):
    """Tokens and frames, each with its capacity; a component without frames leaves them empty."""
    with_frames = caches.make_records(40, caches.DENSE, seed=1)
    caches.make_cache(tmp_path / "audio", with_frames, caches.DENSE, name="audio", seed=1)
    caches.make_cache(tmp_path / "web", caches.make_records(30, seed=2), name="web", seed=2)
    mixture = tasks.Mixture("m", {"audio": 1, "web": 1}, (str(tmp_path),))
    for packing in ("best_fit", "first_fit"):
        batches = make(mixture, lengths={"targets": 96, "mel": 7}, packing=packing)
        frames = 0
        for step in range(12):
            batch, lineage = batches.batch(step), batches.lineage(step)
            assert batch["mel"].shape == (12, 7, 4) and batch["mel"].dtype == np.float32
            for row, spans in enumerate(lineage):
                for span in spans:
                    tokens = batch["decoder_segment_ids"][row] == span.segment
                    assert batch["decoder_target_tokens"][row, tokens].tolist() == span.targets().tolist()
                    here = batch["mel_segment_ids"][row] == span.segment
                    if span.domain == "web":
                        assert not here.any()
                        continue
                    record = batches.components[0].reader[span.record]
                    piece = span.start // 96 if span.stop > span.start else None
                    if piece is not None and len(record["mel"]) <= 7:
                        expected = record["mel"] if piece == 0 else record["mel"][:0]
                        assert batch["mel"][row, here].tolist() == expected.tolist()
                        assert batch["mel_positions"][row, here].tolist() == list(range(len(expected)))
                        frames += len(expected)
            assert not batch["mel"][batch["mel_segment_ids"] == 0].any()
        assert frames > 50


@pytest.mark.parametrize("packing", ["best_fit", "first_fit"])
def test_every_value_of_every_feature_comes_once_an_epoch_beside_its_document(tmp_path, packing):
    """Records without tokens, without frames, and longer than a row in one feature or in all.

    Values identify their record.
    """
    features = {**caches.DENSE, "patches": {"dtype": "int32", "rank": 3, "shape": [None, 2, 3]}}
    records = []
    for number, record in enumerate(caches.make_records(70)):
        tokens, frames, patches = (
            hashing.key64("length", part, number) % most for part, most in (("t", 90), ("f", 12), ("p", 9))
        )
        arrays = {
            "targets": 1000 * number + 2 + np.arange(tokens * (number % 5 > 0)),
            "mel": (1000.0 * number + np.arange(4 * frames, dtype=np.float32)).reshape(frames, 4),
            "patches": (1000 * number + np.arange(6 * patches)).reshape(patches, 2, 3),
        }
        records.append(dataclasses.replace(record, features=arrays))
    caches.make_cache(tmp_path / "all", records, features, name="all", splits=("train",))
    batches = make(
        str(tmp_path / "all"), batch_size=1, lengths={"targets": 40, "mel": 5, "patches": 3}, packing=packing
    )
    seen = {name: [] for name in features}
    for step in range(batches.components[0].rows):
        batch = {name: array[0] for name, array in batches.batch(step).items()}
        ids = {"targets": "decoder_segment_ids", "mel": "mel_segment_ids", "patches": "patches_segment_ids"}
        for segment in range(1, 1 + max(int(batch[name].max()) for name in ids.values())):
            parts = {
                name: batch[name if name != "targets" else "decoder_target_tokens"][batch[key] == segment]
                for name, key in ids.items()
            }
            assert len({int(value) // 1000 for part in parts.values() for value in part.ravel()}) == 1, (
                "one document in all features"
            )
            for name, part in parts.items():
                seen[name] += part.ravel().tolist()
    for name, values in seen.items():
        assert sorted(values) == sorted(value for record in records for value in record.features[name].ravel().tolist())


@pytest.mark.parametrize("packing", ["first_fit", "concat_and_split"])
def test_every_packing_holds_every_token_once_an_epoch(tasks_dir, packing):
    batches = make(f"{tasks_dir}/web", packing=packing, batch_size=1)
    (component,) = batches.components
    spans = [span for step in range(component.rows) for row in batches.lineage(step) for span in row]
    seen = sorted((span.record, span.start, span.stop) for span in spans)
    for record, length in enumerate(component.reader.lengths().tolist()):
        pieces = [(start, stop) for r, start, stop in seen if r == record]
        assert pieces[0][0] == 0 and pieces[-1][1] == length and all(a[1] == b[0] for a, b in zip(pieces, pieces[1:]))
    assert all(span.epoch == 0 for span in spans) and batches.lineage(component.rows)[0][0].epoch == 1
    for step in (0, 3):
        batch = batches.batch(step)
        for span in batches.lineage(step)[0]:
            assert batch["decoder_target_tokens"][0, span.row_start : span.row_stop].tolist() == span.targets().tolist()


def test_microbatches_are_the_batch_in_parts(mixture):
    for shard, num_shards in ((0, 1), (1, 2)):
        batches = make(mixture, shard=shard, num_shards=num_shards)
        for count in (1, 2, 3, 6):
            parts = [batches.microbatch(5, index, count) for index in range(count)]
            same({name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, batches.batch(5))
    for index, count in ((0, 5), (2, 2), (-1, 2), (0, 0)):
        with pytest.raises(ConfigurationError, match="microbatch .* does not exist"):
            make(mixture).microbatch(0, index, count)


def test_records_longer_than_a_row_are_cut_only_there(tmp_path):
    record = Record("0" * 32, "long", {"targets": np.arange(2, 2 + 3 * LENGTH + 5)})
    short = Record("1" * 32, "short", {"targets": np.arange(2, 12)})
    caches.make_cache(tmp_path / "toy", [record, short], name="toy", num_shards=1)
    batches = make(str(tmp_path / "toy"), batch_size=4)
    assert batches.components[0].rows == 4
    spans = [span for row in batches.lineage(0) for span in row]
    assert {s.epoch for s in spans} == {0}
    assert sorted((s.source, s.start, s.stop) for s in spans) == [
        ("long", 0, LENGTH),
        ("long", LENGTH, 2 * LENGTH),
        ("long", 2 * LENGTH, 3 * LENGTH),
        ("long", 3 * LENGTH, 3 * LENGTH + 5),
        ("short", 0, 10),
    ]


def test_errors_are_one_line_for_users(tmp_path):
    with pytest.raises(CastorError, match="castor"):
        make(str(tmp_path / "nothing"))


GOLDEN = [
    ("code", 8, 0, 28),
    ("code", 15, 0, 10),
    ("web", 54, 0, 48),
    ("code", 9, 0, 27),
    ("image", 2, 0, 36),
    ("image", 3, 0, 10),
    ("web", 24, 0, 17),
    ("web", 39, 0, 31),
    ("code", 11, 0, 48),
    ("web", 6, 0, 29),
    ("web", 34, 0, 17),
    ("code", 3, 0, 12),
    ("code", 4, 0, 33),
    ("code", 6, 48, 51),
]

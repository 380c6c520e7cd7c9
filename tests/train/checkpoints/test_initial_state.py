"""train/checkpoints/initial_state.py: a run recovers from a damaged checkpoint; a warm start copies only parameters."""

import json
import re

import numpy as np
import pytest

from castor import tasks
from castor.train.checkpoints.initial_state import WarmStart


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def parameters_of(model_dir, step):
    from castor.train.checkpoints.checkpoints import CheckpointStore

    store = CheckpointStore(str(model_dir), read_only=True)
    tree = store._manager.restore(step, args=store._ocp.args.Composite(parameters=store._ocp.args.StandardRestore()))[
        "parameters"
    ]
    store.close()
    return tree


@pytest.fixture(scope="module")
def trained(castor, tmp_path_factory):
    directory = tmp_path_factory.mktemp("trained") / "m"
    code, _, err = castor("train", *castor.bindings(directory, TRAIN_STEPS=6, CHECKPOINT_PERIOD=2, EVAL_PERIOD=0))
    assert code == 0, err
    return directory


def test_a_run_whose_latest_checkpoint_is_damaged_goes_on_from_the_one_before(castor, trained, tmp_path):
    import shutil

    shutil.copytree(trained, tmp_path / "m")
    for part in (tmp_path / "m" / "checkpoint_6" / "optimizer").rglob("*"):
        if part.is_file():
            part.write_bytes(part.read_bytes()[:-7])
    code, _, err = castor("train", *castor.bindings(tmp_path / "m", TRAIN_STEPS=6, CHECKPOINT_PERIOD=2, EVAL_PERIOD=0))
    assert (
        code == 0
        and "checkpoint_6 cannot be read" in err
        and "the run resumes from step 4" in err
        and "replaying 2 steps" in err
    ), err
    assert "differ from those before the restart" not in err
    assert (tmp_path / "m" / "metrics.jsonl").read_bytes() == (trained / "metrics.jsonl").read_bytes()
    assert (tmp_path / "m" / "COMPLETED").read_bytes() == (trained / "COMPLETED").read_bytes()
    assert (tmp_path / "m" / "checkpoint_6.damaged").is_dir()


def test_a_warm_start_takes_the_parameters_and_nothing_else(castor, trained, tmp_path):
    run = castor.bindings(tmp_path / "w", TRAIN_STEPS=1, EVAL_PERIOD=0, LEARNING_RATE=0.0, BATCH_SIZE=8)
    code, _, err = castor("train", f"--warm_start={trained}@4", *run)
    assert code == 0 and f"parameters of {trained}@4; the optimizer state is new" in err, err
    warm, source = parameters_of(tmp_path / "w", 1), parameters_of(trained, 4)
    assert not np.array_equal(source["embedding"], parameters_of(trained, 6)["embedding"])
    np.testing.assert_array_equal(warm["embedding"], source["embedding"])
    np.testing.assert_array_equal(warm["layers"]["query"], source["layers"]["query"])
    assert [row["step"] for row in rows(tmp_path / "w" / "metrics.jsonl")] == [0]
    assert "warm_start" in next((tmp_path / "w" / "config").iterdir()).read_text()
    # A second start of the same command goes on from its own checkpoint.
    code, _, err = castor("train", f"--warm_start={trained}@4", *run, "--gin.TRAIN_STEPS=2")
    assert code == 0 and "continues from its own step 1" in err, err


def test_warm_starts_that_cannot_be(castor, trained, tmp_path):
    other_shape = r"parameter layers/down as float32\[2, 64, 32\]; this run has float32\[2, 128, 32\]. A warm start"
    for extra, macros, match in (
        ((f"--warm_start={trained}",), {"Transformer.mlp": 128}, other_shape),
        ((f"--warm_start={trained}@5",), {}, r"no checkpoint 5\. Available: 2, 4, 6"),
        ((f"--warm_start={tmp_path}/none",), {}, r"none has no checkpoint yet"),
        (("--grow_vocabulary",), {}, r"--grow_vocabulary needs --warm_start"),
    ):
        code, _, err = castor("train", *extra, *castor.bindings(tmp_path / "w", TRAIN_STEPS=1, EVAL_PERIOD=0, **macros))
        assert code == 2 and re.search(match, err), err


def test_a_grown_vocabulary_keeps_what_was_learned(castor, trained, world, tmp_path):
    wider = castor.bindings(
        tmp_path / "w", TRAIN_STEPS=1, EVAL_PERIOD=0, LEARNING_RATE=0.0, **{"Transformer.vocab_size": 1536}
    )
    code, _, err = castor("train", f"--warm_start={trained}", *wider)
    assert code == 2 and "embedding" in err, err
    code, _, err = castor("train", f"--warm_start={trained}", "--grow_vocabulary", *wider)
    assert code == 0, err
    warm, source = parameters_of(tmp_path / "w", 1)["embedding"], parameters_of(trained, 6)["embedding"]
    known = tasks.Vocabulary.load(str(world / "vocabulary")).vocab_size
    assert source.shape[0] == known < 1536 == warm.shape[0]
    np.testing.assert_array_equal(warm[:known], source)
    assert np.std(warm[known:]) > 0


def test_a_source_with_and_without_a_step():
    assert (
        WarmStart.parse("a/b@12") == WarmStart("a/b", 12)
        and WarmStart.parse("a@b/c") == WarmStart("a@b/c")
        and WarmStart.parse("m", True).grow_vocabulary
    )

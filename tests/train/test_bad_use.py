"""Misuse of castor train and evaluate: one line naming the cause and the remedy, exit code 2, no stack trace by
default.
"""

import re
import shutil

import pytest


@pytest.fixture(scope="module")
def trained(castor, tmp_path_factory):
    directory = tmp_path_factory.mktemp("trained") / "m"
    code, _, err = castor("train", *castor.bindings(directory, TRAIN_STEPS=2, EVAL_PERIOD=0))
    assert code == 0, err
    return directory


@pytest.mark.parametrize(
    "macros, match",
    [
        ({"BATHC_SIZE": 4}, r"gin macro BATHC_SIZE .*Did you mean BATCH_SIZE"),
        ({"train.loop.Run.bacth_size": 4}, r"bacth_size"),
        ({"train.model.Transfromer.embed": 4}, r"Transfromer.*Did you mean"),
        ({"TASKS_DIR": "/nowhere"}, r"no task cache 'words' in /nowhere"),
        ({"MIXTURE_OR_TASK_NAME": "wrods"}, r"no task cache 'wrods'.*Did you mean 'words'"),
        ({"VOCABULARY": "/nowhere"}, r"/nowhere is not a complete vocabulary"),
        ({"MESH": {"data": 3}}, r"MESH data=3.* does not fit the 1 device"),
        ({"MESH": {"model": 1}}, r"MESH names the axis 'model'"),
        ({"BATCH_SIZE": 0}, r"batch_size = 0"),
        ({"BATCH_SIZE": {5: 4}}, r"batch_size = \{5: 4\}.* starts at step 0.*Bind BATCH_SIZE"),
        (
            {"BATCH_SIZE": {0: 4, 3: 6}, "ACCUMULATE": 4},
            r"BATCH_SIZE = 6 cannot be split into ACCUMULATE = 4 microbatches",
        ),
        ({"ACCUMULATE": 0}, r"accumulate = 0"),
        ({"PACKING": "tight_fit"}, r"packing method 'tight_fit' is unknown"),
        (
            {"three/tasks.Mixture.stages": [(5, {"wrods": 1})]},
            r"the stage at step 5 of mixture .* has weights for 'wrods', which is not a component",
        ),
        ({"three/tasks.Mixture.skip_steps": ((5, 3),)}, r"skip_steps has \(5, 3\), which is not a range"),
        ({"TASK_FEATURE_LENGTHS": {"inputs": 4}}, r"TASK_FEATURE_LENGTHS"),
        ({"MODEL": "tiny"}, r"MODEL is 'tiny'"),
        ({"Transformer.dtype": "float8"}, r"Transformer.dtype = 'float8'.*float32, bfloat16"),
        ({"Transformer.vocab_size": 128}, r"vocab_size = 128 is smaller"),
    ],
)
def test_a_run_that_cannot_be(castor, tmp_path, macros, match):
    code, _, err = castor("train", *castor.bindings(tmp_path / "m", **macros))
    assert code == 2 and re.search(match, err), err
    assert err.startswith("castor: error: ") and err.count("\n") == 1 and not (tmp_path / "m").exists()


def test_macros_that_must_be_bound(castor, tmp_path):
    code, _, err = castor("train", f"--gin.MODEL_DIR={str(tmp_path)!r}")
    assert code == 2 and "gin macro MIXTURE_OR_TASK_NAME is not bound" in err
    code, _, err = castor("train", "--gin_file=models/tiny.gin")
    assert code == 2 and "--gin_file=runs/pretrain.gin" in err
    code, _, err = castor("train", "--gin_file=models/tniy.gin")
    assert code == 2 and "Did you mean models/tiny.gin" in err


def test_a_checkpoint_of_another_shape(castor, trained):
    code, _, err = castor("train", *castor.bindings(trained, **{"TRAIN_STEPS": 3, "Transformer.mlp": 128}))
    assert code == 2 and re.search(
        r"checkpoint_2 holds the parameter layers/down as float32\[2, 64, 32\]; this run has float32\[2, 128, 32\]", err
    ), err
    code, _, err = castor("evaluate", f"--model_dir={trained}", "--gin.MODEL/Transformer.mlp=128")
    assert code == 2 and "layers/down" in err


def test_a_checkpoint_of_other_data(castor, trained):
    code, _, err = castor("train", *castor.bindings(trained, TRAIN_STEPS=3, BATCH_SIZE=8))
    assert code == 2 and "was trained on mixture" in err and err.count("\n") == 1
    code, _, err = castor(
        "train", *castor.bindings(trained, TRAIN_STEPS=3, **{"three/tasks.Mixture.components": {"words": 1}})
    )
    assert code == 2 and "was trained on mixture" in err


def test_a_vocabulary_that_is_not_the_caches(castor, world, tmp_path):
    from castor import tasks
    from castor.tasks.vocabulary import sentencepieces

    tasks.Vocabulary(sentencepieces.train(["other words"], sentencepieces.MIN_PIECES)).save(str(tmp_path / "other"))
    code, _, err = castor("train", *castor.bindings(tmp_path / "m", VOCABULARY=str(tmp_path / "other")))
    assert code == 2 and "was made with vocabulary" in err
    assert (
        castor(
            "train",
            *castor.bindings(tmp_path / "m", TRAIN_STEPS=1, EVAL_PERIOD=0, VOCABULARY=str(world / "vocabulary")),
        )[0]
        == 0
    )


def test_a_half_written_cache(castor, world, tmp_path):
    shutil.copytree(world / "tasks", tmp_path / "tasks")
    (tmp_path / "tasks" / "counts" / "manifest.json").unlink()
    code, _, err = castor("train", *castor.bindings(tmp_path / "m", TASKS_DIR=str(tmp_path / "tasks")))
    assert code == 2 and "counts is half-written" in err


def test_evaluate_reads_the_configuration_that_the_run_kept(castor, trained, tmp_path):
    code, out, err = castor(
        "evaluate", f"--model_dir={trained}", "--gin.EVAL_STEPS=2", f"--output={tmp_path / 'e.json'}"
    )
    assert code == 0 and "loss/words" in out and (tmp_path / "e.json").is_file(), err
    code, _, err = castor("evaluate", f"--model_dir={trained}", "--step=9")
    assert code == 2 and "Available: 2" in err
    code, _, err = castor("evaluate", f"--model_dir={tmp_path}")
    assert code == 2 and "holds no run" in err


def test_a_trace_only_when_asked_for(castor, tmp_path):
    code, _, err = castor("train", "--traceback", *castor.bindings(tmp_path / "m", TASKS_DIR="/nowhere"))
    assert code == 2 and "Traceback" in err

"""train/evaluation/metric_tasks.py: SeqIO's evaluator with Castor's answers, the command, and a run that evaluates
tasks.
"""

import functools
import json
import textwrap

import numpy as np
import pytest
import seqio
import tensorflow as tf

from castor.tasks.errors import ConfigurationError, VocabularyError
from castor.tasks.integrations.seqio_vocabulary import SeqIOVocabulary
from castor.train.evaluation.metric_tasks import TaskMetrics
from castor.train.inference.grammar import Grammar
from castor.train.inference.inference import Model, Request, Sampling

INPUTS = ["the red square", "one two", "", "the " * 100]
TARGETS = ["sees", "three and two", "a house", "and then"]


@pytest.fixture(scope="module")
def model(trained):
    return Model.load(str(trained))


SEEN: dict = {}


def exact(targets, predictions):
    SEEN["targets"], SEEN["predictions"] = targets, predictions
    return {"exact": float(np.mean([t == p for t, p in zip(targets, predictions)]))}


def likelihood(targets, scores):
    SEEN["scores"] = np.asarray(scores)
    return {"log_likelihood": seqio.metrics.Scalar(float(np.mean(scores)))}


def with_aux(targets, predictions, aux_values):
    SEEN["aux"] = list(aux_values["scores"])
    return {"sureness": float(np.mean(aux_values["scores"]))}


def upper(text, example=None, is_target=False):
    return text.upper()


def numbers(split, shuffle_files=False, seed=None):
    return tf.data.Dataset.from_tensor_slices({"inputs": INPUTS, "targets": TARGETS})


def register(name, vocabulary, **options):
    feature = functools.partial(seqio.Feature, vocabulary, required=False)
    seqio.TaskRegistry.remove(name)
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(numbers, splits=["validation"], num_input_examples={"validation": len(INPUTS)}),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        output_features={"inputs": feature(add_eos=False), "targets": feature(add_eos=True)},
        **options,
    )


@pytest.fixture(scope="module")
def seqio_vocabulary(world):
    return SeqIOVocabulary.load(str(world / "vocabulary"))


def test_metrics_get_what_seqio_promises(model, seqio_vocabulary, tmp_path):
    register("echo", seqio_vocabulary, postprocess_fn=upper, metric_fns=[exact, likelihood, with_aux])
    metrics = TaskMetrics(["echo"], "validation", log_dir=str(tmp_path))
    results = metrics(model)
    v = model.vocabulary
    assert SEEN["targets"] == [text.upper() for text in TARGETS]
    longest = max(len(v.encode(text)) + 1 for text in TARGETS)
    requests = [
        Request(v.encode(text)[-(model.max_length - longest) :], Grammar.anything(), Sampling(0), longest)
        for text in INPUTS
    ]
    answers = model.generate(requests)
    assert SEEN["predictions"] == [v.decode(ids).upper() for ids in answers]
    targets = [[*v.encode(text), v.eos_id] for text in TARGETS]
    scores = model.scorer([(v.encode(i)[-(model.max_length - len(t)) :], t) for i, t in zip(INPUTS, targets)])
    np.testing.assert_allclose(SEEN["scores"], [score.total for score in scores], rtol=1e-5)
    np.testing.assert_allclose(
        SEEN["aux"], [s.total for s in model.scorer([(r.prompt, ids) for r, ids in zip(requests, answers)])], rtol=1e-5
    )
    assert results["echo"].keys() == {"exact", "log_likelihood", "sureness"} and isinstance(
        results["echo"]["log_likelihood"], float
    )
    assert metrics.prompts_cut == 4, (
        "the last prompt was cut for predictions, scores, and predictions with their scores"
    )
    assert metrics(model) == results
    assert any("prediction" in line for file in tmp_path.glob("*.jsonl") for line in file.read_text().splitlines())


def test_what_cannot_be_measured_is_refused(model, seqio_vocabulary):
    with pytest.raises(ConfigurationError, match="no SeqIO task or mixture is registered as 'nowhere'"):
        TaskMetrics(["nowhere"], "validation")
    register("silent", seqio_vocabulary)
    with pytest.raises(ConfigurationError, match="no metric functions"):
        TaskMetrics(["silent"], "validation")
    register("foreign", seqio.ByteVocabulary(), metric_fns=[exact])
    with pytest.raises(VocabularyError, match="not the model's vocabulary"):
        TaskMetrics(["foreign"], "validation")(model)
    with pytest.raises(ConfigurationError, match="is a string"):
        TaskMetrics("echo", "validation")


@pytest.fixture
def module(world, tmp_path, monkeypatch):
    """A module as a user would write it, on the path."""
    name = f"users_tasks_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(
        textwrap.dedent(f"""
            import seqio
            import tensorflow as tf
            from castor.tasks.integrations.seqio_vocabulary import SeqIOVocabulary

            def source(split, shuffle_files=False, seed=None):
                return tf.data.Dataset.from_tensor_slices({{"inputs": ["the red", "one"], "targets": ["house", "two"]}})

            def exact(targets, predictions):
                return {{"exact": float(sum(t == p for t, p in zip(targets, predictions)))}}

            feature = seqio.Feature(SeqIOVocabulary.load({str(world / "vocabulary")!r}), add_eos=False)
            seqio.TaskRegistry.remove("users")
            seqio.TaskRegistry.add("users", source=seqio.FunctionDataSource(source, splits=["validation"]),
                preprocessors=[seqio.preprocessors.tokenize], output_features={{"inputs": feature, "targets": feature}}, metric_fns=[exact])
        """)
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # for processes of their own
    return name


def test_the_command_measures_a_users_task(castor, trained, module, tmp_path):
    output = tmp_path / "metrics.jsonl"
    command = [
        "evaluate",
        f"--model_dir={trained}",
        "--tasks=users",
        "--metrics",
        f"--module_import={module}",
        f"--output={output}",
    ]
    code, out, err = castor(*command)
    assert code == 0 and "exact" in out and "users" in out, err
    (row,) = map(json.loads, output.read_text().splitlines())
    assert row["task"] == "users" and row["step"] == 40 and 0 <= row["exact"] <= 2
    code, _, err = castor(*command[:-2], "--module_import=not_there")
    assert code == 2 and "not_there cannot be imported" in err
    code, _, err = castor("evaluate", f"--model_dir={trained}", "--metrics")
    assert code == 2 and "--tasks" in err


def test_a_run_measures_tasks_while_it_trains(castor, module, tmp_path):
    (tmp_path / "tasks.gin").write_text(f"import {module}\nEvaluation.tasks = ['users']\n")
    macros = {"TRAIN_STEPS": 4, "EVAL_PERIOD": 2}
    code, _, err = castor("train", *castor.bindings(tmp_path / "m", **macros), f"--gin_file={tmp_path / 'tasks.gin'}")
    assert code == 0 and "users/exact" in err, err
    lines = [json.loads(line) for line in (tmp_path / "m" / "evaluation.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4] and all(0 <= line["users/exact"] <= 2 for line in lines)
    code, out, err = castor("evaluate", f"--model_dir={tmp_path / 'm'}")
    assert code == 0 and f"{lines[-1]['users/exact']:.4f}" in out, err


@pytest.mark.engine
def test_a_pod_answers_as_one_host_does(castor, module, tmp_path):
    (tmp_path / "tasks.gin").write_text(f"import {module}\nEvaluation.tasks = ['users']\n")
    macros, more = {"TRAIN_STEPS": 4, "EVAL_PERIOD": 2}, f"--gin_file={tmp_path / 'tasks.gin'}"
    code, _, err = castor("train", *castor.bindings(tmp_path / "m", **macros), more)
    assert code == 0, err
    command = ["launch", "local", "--hosts=2", "--devices_per_host=2", "train"]
    pod = castor.start(*command, *castor.bindings(tmp_path / "pod", MESH={"data": 2, "tensor": 2}, **macros), more)
    _, err = pod.communicate(timeout=500)
    assert pod.returncode == 0, err
    one, two = (
        [json.loads(line) for line in (tmp_path / name / "evaluation.jsonl").read_text().splitlines()]
        for name in ("m", "pod")
    )
    for here, there in zip(one, two, strict=True):
        assert here.keys() == there.keys() and there["users/exact"] == here["users/exact"]
        np.testing.assert_allclose([there[key] for key in here], list(here.values()), rtol=1e-4)

"""gin/models/*.gin and gin/runs/*.gin: claimed sizes, and golden files with every value of a run.

After an intended change, run `CASTOR_WRITE_GOLDEN=1 python -m pytest tests/train/test_family.py` and read the diff.
"""

import dataclasses
import json
import os
import pathlib
import re

import pytest

import gin
from castor.tasks import configuration
from castor.tasks.configuration import Flags
from castor.train.model.decoder import count_parameters

GOLDEN = pathlib.Path(__file__).parent / "golden"
FAMILY = ("1b", "nano1", "nano2", "pro", "ultra")
NAMED = {
    "1b": 1.0e9,
    "nano1": 1.8e9,
    "nano2": 3.25e9,
    "pro": 62.5e9,
    "ultra": 366e9,
}  # the last two are ours: docs/models.md


@pytest.fixture(autouse=True)
def clear_gin():
    yield
    gin.clear_config()


def run_of(*files):
    from castor.train.run import RunConfig

    bindings = ["MODEL_DIR='model'", "MIXTURE_OR_TASK_NAME='five'"]
    configuration.parse(Flags(files=files, bindings=tuple(bindings)))
    return RunConfig()


@pytest.mark.parametrize("name", FAMILY)
def test_parameters_counted_the_embedding_among_them_are_those_named(name):
    model = run_of(f"runs/{name}.gin").model
    assert count_parameters(model) == pytest.approx(NAMED[name], rel=0.01)
    assert model.kv_heads == 1 and model.vocab_size == 256 * 1024 and model.dtype == "bfloat16"
    # RoPE's base for rows of 32k tokens (arXiv 2405.14591, figure 1).
    assert model.rope_theta >= 0.0424 * 32768**1.628


@pytest.mark.parametrize("name", ("tiny", "small", *FAMILY))
def test_widths_fill_the_matrix_units_and_divide_by_the_meshes(name):
    model = run_of(f"models/{name}.gin", "runs/pretrain.gin").model
    assert model.embed % 128 == 0 and model.mlp % 128 == 0
    if name in FAMILY:
        assert model.embed % 512 == 0 and model.vocab_size % (128 * 16) == 0
        tensor = min(model.heads, 16)
        assert model.heads % tensor == 0 and model.mlp % (128 * tensor) == 0 and tensor >= 4
    if name == "ultra":
        assert model.embed % 4096 == 0  # fsdp over all chips of a v5p:16x16x16


SIZES = sorted(path.stem for path in (configuration.gin_root() / "models").glob("*.gin"))
SHARED = {"base", "large"}  # included by the others, no models by themselves


def test_every_model_file_is_one_of_the_family_or_included_by_it():
    assert set(SIZES) == {"tiny", "small", *FAMILY} | SHARED


@pytest.mark.parametrize("name", [name for name in SIZES if name not in SHARED])
def test_a_model_file_binds_what_differs_and_includes_the_rest(name):
    """Settings that all files of a kind share are in base.gin or large.gin; no value is bound twice."""
    own = configuration.gin_root() / "models"
    model = dataclasses.asdict(run_of(f"models/{name}.gin", "runs/pretrain.gin").model)
    text = (own / f"{name}.gin").read_text()
    bound = set(re.findall(r"^  (\w+) =", text, re.MULTILINE))
    base = dict(re.findall(r"^  (\w+) = (\S+)", (own / "base.gin").read_text(), re.MULTILINE))
    large = dict(re.findall(r"^  (\w+) = (\S+)", (own / "large.gin").read_text(), re.MULTILINE))
    included = base | (large if name in FAMILY else {})
    assert f"include 'models/{'large' if name in FAMILY else 'base'}.gin'" in text
    for field in bound & set(included):
        assert repr(model[field]) != included[field], f"{field} is bound to what the included file binds"
    assert not bound & set(large) or name not in FAMILY


@pytest.mark.parametrize("name", [name for name in SIZES if name not in SHARED])
def test_a_model_file_gives_the_shape_that_was_reviewed(name):
    """Every field written out, also those at their defaults; those of the first layout came from its own files."""
    model = run_of(f"models/{name}.gin", "runs/pretrain.gin").model
    path = GOLDEN / "models.json"
    reviewed = json.loads(path.read_text())
    sized = dataclasses.replace(model, vocab_size=model.vocab_size or 4864)  # of the demo's vocabulary
    found = json.loads(json.dumps({**dataclasses.asdict(model), "parameters": count_parameters(sized)}))
    if os.environ.get("CASTOR_WRITE_GOLDEN"):
        path.write_text(json.dumps(reviewed | {name: found}, indent=1, sort_keys=True) + "\n")
    assert found == json.loads(path.read_text())[name]


RUNS = [(name,) for name in FAMILY] + [(name, "context_32k") for name in ("nano2", "pro", "ultra")]


@pytest.mark.parametrize("files", RUNS, ids="+".join)
def test_what_a_run_sets_is_what_was_reviewed(files):
    path = GOLDEN / f"run_{'_'.join(files)}.json"
    found = (
        json.dumps(beyond_defaults(run_of(*(f"runs/{file}.gin" for file in files))), indent=1, sort_keys=True) + "\n"
    )
    if os.environ.get("CASTOR_WRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(found)
    assert found == path.read_text(), (
        f"a value of {files} changed; if this is intended, rewrite {path.name} (see the top of this file)"
    )


def beyond_defaults(value):
    """A dataclass as a dict of its type's name and the fields that differ from their defaults; so a new field with a
    default changes nothing.
    """
    if not dataclasses.is_dataclass(value):
        return dict(value) if isinstance(value, dict) else value
    result = {"": type(value).__name__}
    for field in dataclasses.fields(value):
        found, made = getattr(value, field.name), field.default_factory is not dataclasses.MISSING
        if found != (field.default_factory() if made else field.default):
            result[field.name] = beyond_defaults(found)
    return result

"""Runs whose batch size and weights change: a stopped run resumes identically, and its saved configuration is
complete.
"""

import pathlib
import re

import numpy as np
import pytest

import gin
from castor.launch import training_runs
from castor.tasks import configuration
from castor.tasks.batches.read_ahead import ReadAhead
from castor.train import loop, model_dir
from castor.train.run import RunConfig, prepare

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
SMALL = {"Transformer.embed": 16, "Transformer.layers": 1, "Transformer.mlp": 32, "EVAL_PERIOD": 0}
STAGES = [(4, {"words": 1, "counts": 3}, 6), (11, {"pictures": 1})]


@pytest.fixture(autouse=True)
def clean():
    """Gin without bindings afterwards."""
    yield
    gin.clear_config()


def made(arguments) -> RunConfig:
    """The run that a command line describes."""
    flags, rest = configuration.split_flags(arguments)
    assert not rest
    return training_runs.configure(flags)


def kept(run) -> list[str]:
    """The command line that reads the saved configuration of a prepared run."""
    folder = pathlib.Path(run.model_dir)
    folder.mkdir(exist_ok=True)
    model_dir.write_configuration(run.model_dir, configuration.operative_config(), 0)
    return [f"--gin_file={max((folder / 'config').iterdir())}"]


def test_a_run_stopped_inside_ramps_is_the_same_run(castor, tmp_path):
    """The batch grows at step 7, in microbatches; weights move from step 4 to 10 and switch at 11; dropout is on."""
    macros = SMALL | {
        "BATCH_SIZE": {0: 2, 7: 4},
        "ACCUMULATE": 2,
        "TRAIN_STEPS": 13,
        "CHECKPOINT_PERIOD": 5,
        "DROPOUT_RATE": 0.1,
    }
    macros |= {"three/tasks.Mixture.stages": STAGES, "three/tasks.Mixture.skip_steps": ((2, 5),)}
    code, _, err = castor("train", *castor.bindings(tmp_path / "whole", **macros))
    assert code == 0 and re.search("batches of 2, 4 rows, each in 2 microbatches", err), err

    flags = castor.bindings(tmp_path / "cut", **macros)
    castor.train_until_killed(9, 5, *flags)
    before = (tmp_path / "cut" / "metrics.jsonl").read_text()
    assert 7 < before.count("\n") < 13

    # Resumes at step 5, and again across the growth of the batch, with the configuration saved by the first start.
    (config,) = (tmp_path / "cut" / "config").iterdir()
    assert loop.train(made([f"--gin_file={config}"])) == 13
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def test_no_row_is_skipped_or_repeated_where_the_batch_grows(castor, tmp_path):
    macros = SMALL | {"three/tasks.Mixture.stages": STAGES}
    ramp = prepare(made(castor.bindings(tmp_path / "m", BATCH_SIZE={0: 2, 3: 4, 5: 8}, **macros)))
    with ReadAhead(ramp.device_batch, range(8), ahead=3) as ahead:
        rows = [np.asarray(batch["decoder_target_tokens"]) for _, batch in ahead]
    assert [len(part) for part in rows] == [2, 2, 2, 4, 4, 8, 8, 8]
    spans = [
        (s.domain, s.epoch, s.record, s.start) for step in range(8) for row in ramp.batches.lineage(step) for s in row
    ]
    assert len(set(spans)) == len(spans) > 34

    # Without stages, whose steps would be other positions for another batch size, the rows are those of a run with one
    # row per step.
    plain = {"three/tasks.Mixture.components": {"words": 2, "counts": 1}}
    grown = prepare(made(castor.bindings(tmp_path / "m", BATCH_SIZE={0: 2, 3: 4, 5: 8}, **plain))).batches
    single = prepare(made(castor.bindings(tmp_path / "m", BATCH_SIZE=1, **plain))).batches
    positions = [(step, row) for step in range(8) for row in range(grown.batch_size_at(step))]
    for number, (step, row) in enumerate(positions):
        spans, (expected,) = grown.lineage(step)[row], single.lineage(number)
        assert [(s.domain, s.document, s.start, s.stop) for s in spans] == [
            (s.domain, s.document, s.start, s.stop) for s in expected
        ]
        np.testing.assert_array_equal(
            grown.batch(step)["decoder_target_tokens"][row], single.batch(number)["decoder_target_tokens"][0]
        )


def test_the_sizes_that_a_run_still_needs(castor, tmp_path):
    macros = {"BATCH_SIZE": {0: 2, 3: 4, 5: 8, 6: 2}, "three/tasks.Mixture.skip_steps": ((3, 5),)}
    prepared = prepare(made(castor.bindings(tmp_path / "m", **macros)))
    sizes = [prepared.batches.batch_size_at(step) for step in range(6)]
    assert sizes == [2, 2, 2, 8, 2, 2]
    for start in range(6):
        for stop in range(start, 7):
            assert prepared.batch_sizes(start, stop) == sorted(
                {prepared.batches.batch_size_at(step) for step in range(start, stop)}
            )


@pytest.mark.parametrize(
    "macros",
    [
        {"three/tasks.Mixture.stages": STAGES},
        {
            "three/tasks.Mixture.stages": "[@early/tasks.MixtureStage(), @late/tasks.MixtureStage()]",
            "early/tasks.MixtureStage.start": 4,
            "early/tasks.MixtureStage.weights": {"words": 1, "counts": 3},
            "early/tasks.MixtureStage.ramp": 6,
            "late/tasks.MixtureStage.start": 11,
            "late/tasks.MixtureStage.weights": {"pictures": 1},
        },
        {
            "three/tasks.Mixture.weighting": "proportional",
            "three/tasks.Mixture.stages": STAGES,
            "three/tasks.Mixture.skip_steps": [(9, 12), (1, 3)],
        },
        {
            "three/tasks.Mixture.weighting": "@tasks.weights.UniMax()",
            "tasks.weights.UniMax.budget": 10_000,
            "tasks.weights.UniMax.max_epochs": 0.5,
        },
        {"BATCH_SIZE": {0: 4, 10: 8, 2: 12}, "ACCUMULATE": 2},
    ],
)
def test_the_kept_configuration_is_the_same_run(castor, tmp_path, macros):
    # References have no quotes.
    flags = [re.sub(r"='((?:@|\[@).*)'$", r"=\1", flag) for flag in castor.bindings(tmp_path / "m", **macros)]
    run = made(flags)
    prepared = prepare(run)
    again = made(kept(run))
    prepared_again = prepare(again)
    assert prepared_again.batches.fingerprint == prepared.batches.fingerprint
    assert dict(again.lengths) == dict(run.lengths) and again.accumulate == run.accumulate
    assert prepared_again.batches.mixture == prepared.batches.mixture
    assert prepare(made(castor.bindings(tmp_path / "m"))).batches.fingerprint != prepared.batches.fingerprint


def test_stages_are_the_same_however_they_are_written(castor, tmp_path):
    written = [
        [f"--gin.three/tasks.Mixture.stages={STAGES!r}"],
        [
            "--gin.three/tasks.Mixture.stages=(@a/tasks.MixtureStage(), [11, {'pictures': 5}])",
            "--gin.a/tasks.MixtureStage.start=4",
            "--gin.a/tasks.MixtureStage.ramp=6",
            "--gin.a/tasks.MixtureStage.weights={'counts': 0.75, 'words': 0.25}",
        ],
    ]
    prints = {prepare(made(castor.bindings(tmp_path / "m") + flags)).batches.fingerprint for flags in written}
    assert len(prints) == 1


def test_a_run_goes_on_with_a_skip_list_when_told_to(castor, tmp_path):
    flags = castor.bindings(tmp_path / "m", TRAIN_STEPS=2, EVAL_PERIOD=0)
    assert castor("train", *flags)[0] == 0
    plain = prepare(made(flags)).batches
    document = plain.lineage(6)[0][0].document
    skips = {"three/tasks.Mixture.skip_steps": ((2, 6),), "three/tasks.Mixture.skip_documents": (document,)}
    longer = castor.bindings(tmp_path / "m", TRAIN_STEPS=3, EVAL_PERIOD=0, **skips)
    code, _, err = castor("train", *longer)
    wanted = (
        "skip lists .*If the change is intentional, such as skipping bad doc.*--gin.Checkpoints.allow_other_data=True"
    )
    assert code == 2 and re.search(wanted, err) and err.count("\n") == 1, err
    code, _, err = castor("train", *longer, "--gin.Checkpoints.allow_other_data=True")
    assert code == 0, err
    # Step 2 got the batch of step 6, without the document.
    first = plain.lineage(6)[0][0]
    left = int(plain.batch(6)["decoder_loss_weights"].sum()) - (first.stop - first.start)
    rows = (tmp_path / "m" / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == 3 and f'"tokens": {left},' in rows[2]
    assert castor("train", *longer)[0] == 0  # the run has continued with the new data: no flag needed


@pytest.fixture
def five(world, tmp_path):
    """The world's caches under the names of the five domains."""
    (tmp_path / "tasks").mkdir()
    for name, source in {
        "web": "words",
        "code": "counts",
        "image": "pictures",
        "audio": "words",
        "video": "pictures",
    }.items():
        (tmp_path / "tasks" / name).symlink_to(world / "tasks" / source)
    return tmp_path / "tasks"


def five_run(five, mixture_file, *more):
    files = [f"--gin_file={name}" for name in ("models/tiny.gin", "runs/pretrain.gin", mixture_file)]
    folders = [f"--gin.TASKS_DIR={str(five)!r}", f"--gin.MODEL_DIR={str(five.parent / 'm')!r}"]
    return made([*files, *folders, "--gin.TASK_FEATURE_LENGTHS={'targets': 64}", *more])


def test_the_staged_mixture(five):
    run = five_run(five, "mixtures/staged.gin", "--gin.BATCH_SIZE={0: 8, 600: 16}")
    batches = prepare(run).batches
    assert batches.domains == ("audio", "code", "image", "video", "web")

    def shares(start, stop):
        """Shares of each domain in the rows of steps start to stop."""
        rows = np.concatenate([batches.batch(step)["domain"][:, 0] for step in range(start, stop)])
        return np.bincount(rows, minlength=5) / len(rows)

    np.testing.assert_allclose(shares(200, 300), [0, 0.25, 0.15, 0, 0.6], atol=0.01)
    np.testing.assert_allclose(shares(390, 410), [0.075, 0.225, 0.175, 0.05, 0.475], atol=0.02)
    np.testing.assert_allclose(shares(700, 800), [0.15, 0.2, 0.2, 0.1, 0.35], atol=0.01)
    np.testing.assert_allclose(shares(800, 900), [0.15, 0.35, 0.25, 0.1, 0.15], atol=0.01)
    assert prepare(made(kept(run))).batches.fingerprint == batches.fingerprint


def test_what_the_comments_of_the_five_domains_show_is_gin(five):
    text = (REPOSITORY / "gin/mixtures/five.gin").read_text()
    lines = re.findall(r"^#   ((?:five/)?tasks\..*)", text, re.MULTILINE)
    assert len(lines) == 8
    (five.parent / "skip.txt").write_text("# none yet\n")
    prints = set()
    for chosen in ([], lines[:1], lines[1:3], lines[3:6], lines[6:7], lines[7:]):
        text = "include 'mixtures/five.gin'\n" + "\n".join(chosen)
        text = text.replace("skip.txt", str(five.parent / "skip.txt")).replace(
            "10_000_000_000", "80_000"
        )  # so that one cache is capped
        (five.parent / "mine.gin").write_text(text)
        prints.add(prepare(five_run(five, str(five.parent / "mine.gin"))).batches.fingerprint)
    assert len(prints) == 5  # an empty list of documents equals none

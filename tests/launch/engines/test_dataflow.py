"""Submission to Dataflow, and jobs that are committed after they ran.

Beam's own validators and translation check the submission offline.
"""

import dataclasses
import pathlib
import re
import shutil

import pytest
import small_job

from castor.launch.command import main
from castor.launch.commands import launch
from castor.launch.engines import dataflow
from castor.pipelines.execution import detached, job_config, launcher
from castor.pipelines.vocabulary import MIN_PIECES
from castor.pipelines.vocabulary import Job as VocabularyJob
from castor.tasks.errors import ConfigurationError, CorpusError, LockError
from castor.tasks.storage import lock, storage

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]
GIVEN = (
    "--project=a-project",
    "--region=europe-west4",
    "--temp_location=gs://a-bucket/tmp",
    "--sdk_container_image=example/castor:1",
)


@pytest.fixture
def lines(tmp_path, monkeypatch):
    monkeypatch.setattr(job_config.fingerprint, "ROOMS", (*job_config.fingerprint.ROOMS, "small_job"))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("one\ntwo\ntwo\nreject me\n")
    return small_job.Job(
        name="lines", input_root=str(tmp_path / "in"), inputs=("*",), output=str(tmp_path / "out"), num_shards=2
    )


def test_options_are_completed_and_what_is_given_wins():
    found = dataflow.options("My web_1", [*GIVEN, "--max_num_workers=7"])
    assert {
        "--job_name=castor-my-web-1",
        "--runner=DataflowRunner",
        "--sdk_location=container",
        "--no_save_main_session",
    } <= set(found)
    assert [o for o in found if "max_num_workers" in o] == ["--max_num_workers=7"]


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("project", "--project is missing"),
        ("region", "--region"),
        ("temp_location", "gs://BUCKET/tmp"),
        ("sdk_container_image", "no environment is given for the workers"),
    ],
)
def test_what_must_be_given_is_asked_for(missing, message):
    with pytest.raises(ConfigurationError, match=message):
        dataflow.options("x", [option for option in GIVEN if missing not in option])


def test_temporary_files_go_to_a_bucket():
    with pytest.raises(ConfigurationError, match="--temp_location=/tmp/x is not a path in a bucket"):
        dataflow.options("x", [option.replace("gs://a-bucket/tmp", "/tmp/x") for option in GIVEN])


def test_the_pipeline_is_validated_and_translated_offline(lines, tmp_path):
    submission = dataflow.translate(lines, dataflow.options("lines", GIVEN))
    assert submission.images == ("example/castor:1",)
    assert [step[0] for step in submission.steps] == ["read", "shout", "short", "duplicates.exact", "write"]
    assert sum(step[2] for step in submission.steps) >= 3 and not (tmp_path / "out").exists()
    shown = "\n".join(dataflow.lines(submission))
    assert "--machine_type=n2-highmem-4" in shown and "workers: example/castor:1" in shown and "shuffles" in shown
    assert "pickled_main_session" not in submission.artifacts


def test_beams_validators_are_heard(lines):
    options = [option.replace("a-project", "12345") for option in GIVEN]
    with pytest.raises(ConfigurationError, match=r"Invalid Project ID \(12345\)"):
        dataflow.translate(lines, dataflow.options("lines", options))
    with pytest.raises(ConfigurationError, match=r"num_workers \(9\) cannot exceed max_num_workers \(2\)"):
        dataflow.translate(lines, dataflow.options("lines", [*GIVEN, "--num_workers=9", "--max_num_workers=2"]))


def test_paths_of_this_machine_are_refused(lines):
    with pytest.raises(ConfigurationError, match="OUTPUT = .*is a local path"):
        dataflow.check_paths(lines)
    with pytest.raises(ConfigurationError, match="INPUT_ROOT = "):
        dataflow.check_paths(dataclasses.replace(lines, output="gs://b/out"))
    dataflow.check_paths(dataclasses.replace(lines, output="gs://b/out", input_root="gs://b/in"))


def test_a_detached_job_is_committed_from_its_note(lines, tmp_path):
    """FnApiRunner has finished when it returns, so the second step finds the complete output.

    The bytes are those of a job that waited.
    """
    launcher.run(dataclasses.replace(lines, output=str(tmp_path / "waited")), quiet=True)
    detached.submit(lines, [])
    assert not (tmp_path / "out" / "manifest.json").exists()
    detached.commit(lines.output)
    files = [
        {p.relative_to(d): p.read_bytes() for p in d.rglob("*") if p.is_file()}
        for d in (tmp_path / "out", tmp_path / "waited")
    ]
    assert files[0] == files[1] and launcher.up_to_date(lines)
    with pytest.raises(CorpusError, match="no detached job has been submitted"):
        detached.commit(lines.output)


@pytest.mark.parametrize("reads", ("lines", "corpus"))
def test_a_commit_that_is_killed_can_be_repeated(lines, tmp_path, monkeypatch, reads):
    """Killed before each change that it makes to the disk: nothing runs afterwards, not even a `finally` block."""
    job = lines
    if reads == "corpus":
        launcher.run(lines, quiet=True)
        job = VocabularyJob(name="v", corpora=(lines.output,), output=str(tmp_path / "v"), pieces=MIN_PIECES)
    waited = tmp_path / "waited"
    launcher.run(dataclasses.replace(job, output=str(waited)), quiet=True)
    expected = {p.relative_to(waited): p.read_bytes() for p in waited.rglob("*") if p.is_file()}
    steps, die_at = [], 10**9

    def before(function):
        def call(*arguments, **options):
            steps.append(function)
            if len(steps) >= die_at:
                raise KeyboardInterrupt
            return function(*arguments, **options)

        return call

    for name in (
        "rename",
        "move",
        "copy",
        "remove",
        "remove_tree",
        "write_bytes_atomic",
        "write_json_atomic",
        "makedirs",
    ):
        monkeypatch.setattr(storage, name, before(getattr(storage, name)))
    detached.submit(job, [])
    output = pathlib.Path(job.output)
    staged = shutil.copytree(output, tmp_path / "staged")
    steps.clear()
    detached.commit(job.output)
    total = len(steps)
    assert total >= 8
    for number in range(1, total + 1):
        shutil.rmtree(output)
        shutil.copytree(staged, output)
        steps.clear()
        die_at = number
        with pytest.raises(KeyboardInterrupt):
            detached.commit(job.output)
        die_at = 10**9
        if list(output.glob(".staging-*/.pending.json")):
            detached.commit(job.output)
        else:  # it was killed after the last thing that matters
            assert launcher.up_to_date(job)
            for folder in output.glob(".staging-*"):
                shutil.rmtree(folder)
        found = {p.relative_to(output): p.read_bytes() for p in output.rglob("*") if p.is_file()}
        assert found == expected, f"killed before step {number} of {total}: {steps[number - 1]}"


def test_a_detached_job_that_may_never_be_committed_is_given_up(lines, tmp_path):
    """Too many dead letters: they are kept, and the output is free again."""
    (tmp_path / "in" / "a.txt").write_text("bad\nbad luck\none\n")
    detached.submit(lines, [])
    with pytest.raises(CorpusError, match="2 of 3 records .* are dead letters.*The dead letters are in .*failed"):
        detached.commit(lines.output)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".failed"]
    with pytest.raises(CorpusError, match="no detached job has been submitted"):
        detached.commit(lines.output)


def test_other_writers_are_told_of_a_detached_job(lines, tmp_path):
    """Its engine may be writing, so neither a job that waits nor another detached one removes its staging folder."""
    detached.submit(lines, [])
    (staging,) = (tmp_path / "out").glob(".staging-*")
    before = {p: p.read_bytes() for p in staging.rglob("*") if p.is_file()}
    for write in (lambda: launcher.run(lines, quiet=True), lambda: detached.submit(lines, [])):
        with pytest.raises(LockError, match="detached job .*sent from .* UTC.*castor launch commit .*To give it up"):
            write()
    assert {p: p.read_bytes() for p in staging.rglob("*") if p.is_file()} == before
    with lock.hold(lines.output, "OUTPUT"), pytest.raises(LockError, match="is being written by process"):
        detached.commit(lines.output)
    detached.commit(lines.output)
    assert launcher.up_to_date(lines)


def test_a_detached_job_that_is_not_done_or_not_the_same_is_not_committed(lines, tmp_path):
    detached.submit(lines, [])
    (staging,) = (tmp_path / "out").glob(".staging-*")
    entry = (staging / ".entries" / "00001.json").rename(tmp_path / "late")
    for _ in range(2):
        with pytest.raises(CorpusError, match="without writing 1 of 2 shards"):
            detached.commit(lines.output)
    entry.rename(staging / ".entries" / "00001.json")
    (tmp_path / "in" / "b.txt").write_text("three\n")
    with pytest.raises(CorpusError, match="changed since job"):
        detached.commit(lines.output)
    (tmp_path / "in" / "b.txt").unlink()
    detached.commit(lines.output)
    assert launcher.up_to_date(lines)


def test_bad_use_is_one_line(capsys, tmp_path):
    web = ["web", f"--gin.INPUT_ROOT='{tmp_path}'", f"--gin.OUTPUT='{tmp_path}/out'"]
    for arguments, message in (
        (["flik", *web], "unknown engine 'flik'"),
        (["flink", *web], "no cluster is given"),
        (["flink", *web, "--flink_master=host:8081"], "no environment is given for the workers"),
        (["dataflow", *web], "--project is missing"),
        (["dataflow", *web, *GIVEN], "is a local path"),
        (["prism", "wob"], "Did you mean web?"),
        (["commit", str(tmp_path / "nothing")], "no detached job"),
    ):
        assert main(["launch", *arguments]) == 2
        assert message in capsys.readouterr().err


def test_the_image_is_of_the_locked_version():
    locked = re.search(
        r"^apache-beam(?:\[.*\])?==(\S+)$", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE
    ).group(1)
    text = (REPOSITORY / "launch" / "engines" / "Dockerfile").read_text()
    assert f"ARG BEAM={locked}\n" in text and "--constraint constraints.txt" in text
    for line in text.splitlines():
        if line.startswith("COPY "):
            for name in line.split()[1:-1]:
                assert (REPOSITORY / name).exists(), line
    assert set(launch.ENGINES) == {"local", "prism", "flink", "dataflow"}

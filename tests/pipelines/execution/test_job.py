"""End-to-end tests of a small job: exact funnels, equal bytes for every way to run it, atomic output, clear errors."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import small_job

from castor.pipelines.core import dead_letters
from castor.pipelines.core.funnel import Funnel
from castor.pipelines.core.sandbox import Sandbox
from castor.pipelines.corpus.layout import FAILED
from castor.pipelines.corpus.reader import read_corpus
from castor.pipelines.document import document_id
from castor.pipelines.execution import beam_options, job_config, launcher, replay
from castor.tasks.errors import ConfigurationError, CorpusError, LockError, VocabularyError

TWO_WORKERS = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """Text files with every outcome, a FIFO and a dangling link."""
    root = tmp_path_factory.mktemp("lines")
    for f in range(3):
        text = (
            "".join(f"line {f * 50 + i % 80}\n" for i in range(120))
            + f"bad {f}\nzero\nreject {f}\n"
            + f"long{f}" * 50
            + "\n"
        )
        (root / f"{f}.txt").write_text(text)
    (root / "z.txt").write_bytes(b"one\n\xed\xa0\x80 surrogate\nbroken rest\nnever\n")
    (root / "gone").symlink_to("/nonexistent/file")
    os.mkfifo(root / "fifo")
    return root


def make(lines, output, **changes):
    fields = {"name": "small", "input_root": str(lines), "inputs": ("*",), "num_shards": 3, "keep_rejects": True}
    return small_job.Job(output=str(output), **{**fields, **changes})


def files_of(directory):
    return {
        str(p.relative_to(directory)): p.read_bytes() for p in sorted(pathlib.Path(directory).rglob("*")) if p.is_file()
    }


@pytest.fixture(scope="module")
def done(lines, tmp_path_factory):
    output = tmp_path_factory.mktemp("out") / "corpus"
    return launcher.run(make(lines, output), quiet=True), output


def test_funnel_is_exact_and_says_everything(done):
    funnel = Funnel.from_json(done[0]["funnel"])
    assert funnel.adds_up and funnel.read == 3 * 124 + 4 + 2  # of z.txt three lines and the fault
    assert funnel.rejected == {"short.too_long": 3, "shout.asked": 3}
    assert funnel.dead_letters == {
        "shout.bad_word": 3,
        "shout.exception:ZeroDivisionError": 3,
        "sink.lone_surrogate": 1,
        "source.broken": 1,
        "source.FileNotFoundError": 1,
        "source.not_a_file": 1,
    }
    distinct = len({f"LINE {f * 50 + i % 80}" for f in range(3) for i in range(120)} | {"ONE", "BROKEN REST"})
    assert funnel.kept == done[0]["documents"] == distinct
    assert funnel.duplicates == {"exact": 3 * 120 + 2 - distinct}


def test_documents_come_back_sorted_and_whole(done):
    documents = list(read_corpus(str(done[1])))
    assert [d.id for d in documents] == sorted(d.id for d in documents) and len(documents) == done[0]["documents"]
    one = next(d for d in documents if d.text == "ONE")
    assert (one.id, one.source, one.metadata) == (
        document_id("small", "z.txt#line=1"),
        "z.txt#line=1",
        {"number": 1},
    )


def test_of_duplicates_the_smallest_id_stays(done):
    kept = {d.text: d.id for d in read_corpus(str(done[1]))}
    ids = [document_id("small", f"{f}.txt#line={i + 1}") for f in range(3) for i in range(120) if f * 50 + i % 80 == 60]
    assert kept["LINE 60"] == min(ids) and len(ids) > 2


def test_dead_letters_and_rejects_are_on_disk(done):
    letters = list(dead_letters.read(str(done[1])))
    assert len(letters) == sum(done[0]["funnel"]["dead_letters"].values())
    assert "0.txt#line=121" in {x.source for x in letters if x.error == "bad_word"}
    rejected = pathlib.Path(done[1], "rejected")
    assert sorted(p.name for p in rejected.iterdir()) == ["short.too_long", "shout.asked"]


def test_every_way_to_run_gives_the_same_bytes(lines, done, tmp_path):
    """Two worker processes, a sandbox, and a run that was killed and repeated."""
    expected = files_of(done[1])
    launcher.run(make(lines, tmp_path / "two"), TWO_WORKERS, quiet=True)
    assert files_of(tmp_path / "two") == expected
    launcher.run(make(lines, tmp_path / "sandboxed", limits=Sandbox()), quiet=True)
    sandboxed = files_of(tmp_path / "sandboxed")
    different = {name for name in expected if sandboxed[name] != expected[name]}
    assert sandboxed.keys() == expected.keys() and different == {
        "manifest.json",
        "card.html",
    }  # they tell the configuration
    again = launcher.run(make(lines, done[1]), quiet=True)
    assert files_of(done[1]) == expected and again == done[0]


def test_sigkill_leaves_nothing_visible_and_the_next_run_cleans_up(lines, tmp_path, done):
    root = tmp_path / "lines"
    root.mkdir()
    (root / "some.txt").write_text(f"one\ntwo\nwait {tmp_path / 'begun'}\n")
    output = tmp_path / "out"
    script = (
        f"import small_job\nfrom castor.pipelines.execution import launcher\nfrom castor.pipelines.core.sandbox import Sandbox\n"
        f"launcher.run(small_job.Job(name='s', input_root={str(root)!r}, inputs=('*',), output={str(output)!r}, num_shards=2, limits=Sandbox()), quiet=True)"
    )
    process = subprocess.Popen([sys.executable, "-P", "-c", script])
    while not (tmp_path / "begun").exists():
        assert process.poll() is None
        time.sleep(0.05)
    (staging,) = output.glob(".staging-*")
    with pytest.raises(LockError, match=f"OUTPUT {output} is being written by process {process.pid} on "):
        launcher.run(make(lines, output), quiet=True)
    assert staging.is_dir(), "a second writer leaves the first one's work alone"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [p.name[:9] for p in sorted(output.iterdir())] == [".lock", ".staging-"]
    with pytest.raises(CorpusError, match="not finished.*Run the job"):
        list(read_corpus(str(output)))
    (root / "some.txt").write_text("one\ntwo\nthree\n")
    launcher.run(
        small_job.Job(name="s", input_root=str(root), inputs=("*",), output=str(output), num_shards=2), quiet=True
    )
    assert len(list(read_corpus(str(output)))) == 3 and not list(output.glob(".[sl]*"))


def test_too_many_dead_letters_fail_and_leave_the_old_corpus(lines, done):
    before = files_of(done[1])
    with pytest.raises(
        CorpusError,
        match=r"10 of 378 records \(2.6%\) are dead letters .*over the threshold of 1.0%.*Nothing was committed",
    ) as caught:
        launcher.run(make(lines, done[1], dead_letter_threshold=0.01), quiet=True)
    assert str(done[1]) in str(caught.value)
    after = files_of(done[1])
    assert {k: v for k, v in after.items() if not k.startswith(FAILED)} == before
    assert any(k.startswith(f"{FAILED}/dead_letter/") for k in after)
    launcher.run(make(lines, done[1]), quiet=True)
    assert files_of(done[1]) == before


@pytest.mark.parametrize("arguments", [[], TWO_WORKERS])
def test_an_error_for_the_user_stops_the_job_as_itself(tmp_path, arguments):
    root = tmp_path / "in"
    root.mkdir()
    (root / "a.txt").write_text("vocabulary\n")
    with pytest.raises(VocabularyError, match="^the vocabulary is gone. Bring it back.$"):
        launcher.run(make(root, tmp_path / "out"), arguments, quiet=True)
    assert not (tmp_path / "out").exists()


def test_an_interrupt_is_one(tmp_path):
    """Beam turns Ctrl-C into an error of the pipeline."""
    root = tmp_path / "in"
    root.mkdir()
    (root / "a.txt").write_text("interrupt\n")
    with pytest.raises(KeyboardInterrupt):
        launcher.run(make(root, tmp_path / "out"), quiet=True)
    assert not (tmp_path / "out").exists()


def test_empty_and_misnamed_input(tmp_path):
    with pytest.raises(CorpusError, match="no file under"):
        launcher.run(make(tmp_path, tmp_path / "out", inputs=("*.nothing",)), quiet=True)
    with pytest.raises(CorpusError, match="does not exist"):
        launcher.run(make(tmp_path / "absent", tmp_path / "out"), quiet=True)
    with pytest.raises(ConfigurationError, match="Write a list"):
        make(tmp_path, tmp_path / "out", inputs="*.txt")


def test_unknown_options_and_runners(tmp_path):
    with pytest.raises(ConfigurationError, match="--direct_num_worker=2"):
        beam_options.parse(["--direct_num_worker=2"])
    for arguments in ([], ["--runner=DirectRunner"], ["--runner=FnApiRunner"]):
        assert type(beam_options.parse(arguments)[1]).__name__ == "FnApiRunner"


def test_fingerprint_follows_inputs_configuration_and_code(lines, done, tmp_path):
    same = make(lines, tmp_path / "elsewhere")
    assert same.fingerprint() == done[0]["fingerprint"] and launcher.up_to_date(make(lines, done[1]))
    assert not launcher.up_to_date(same)
    assert make(lines, done[1], filter=small_job.Short(most=99)).fingerprint() != done[0]["fingerprint"]
    status = (lines / "0.txt").stat()
    os.utime(lines / "0.txt", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    try:
        assert not launcher.up_to_date(make(lines, done[1]))
    finally:
        os.utime(lines / "0.txt", ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_job_is_built_again_from_its_manifest(done, lines, monkeypatch):
    with pytest.raises(CorpusError, match="not part of Castor"):
        job_config.rebuild(done[0]["config"], output="x")
    monkeypatch.setattr(job_config.fingerprint, "ROOMS", (*job_config.fingerprint.ROOMS, "small_job"))
    rebuilt = job_config.rebuild(done[0]["config"], output=str(done[1]))
    assert rebuilt == dataclasses.replace(make(lines, done[1]), inputs=("*",))


def test_replay_reads_the_dead_letters_alone(tmp_path, lines, monkeypatch):
    monkeypatch.setattr(job_config.fingerprint, "ROOMS", (*job_config.fingerprint.ROOMS, "small_job"))
    root = tmp_path / "in"
    root.mkdir()
    (root / "a.txt").write_text("good\nzero\nbad x\nalso good\n")
    (root / "b.txt").write_text("fine\nbroken rest\nlost\n")
    (root / "c.txt").write_text("not needed\n")
    first = launcher.run(make(root, tmp_path / "out", dead_letter_threshold=1.0), quiet=True)
    assert first["funnel"]["kept"] == 5 and sum(first["funnel"]["dead_letters"].values()) == 3
    (root / "a.txt").write_text("good\nmended\nbad x\nalso good\n")
    (root / "b.txt").write_text("fine\nmended too\nlost\n")
    again = launcher.run(replay.make_job(str(tmp_path / "out"), str(tmp_path / "again")), quiet=True)
    # Line 2 of b.txt is in the corpus already; of a damaged file only what was never seen comes back.
    assert [sorted(d.text for d in read_corpus(str(tmp_path / o))) for o in ("out", "again")][1] == [
        "LOST",
        "MENDED",
    ]
    assert again["funnel"]["dead_letters"] == {"shout.bad_word": 1} and again["funnel"]["read"] == 3
    (root / "a.txt").unlink()
    with pytest.raises(CorpusError, match="refer to missing files"):
        launcher.run(replay.make_job(str(tmp_path / "out"), str(tmp_path / "third")), quiet=True)


def test_output_never_replaces_what_is_read(lines, done):
    made, output = files_of(done[1]), str(done[1])
    with pytest.raises(ConfigurationError, match="replay_of"):
        launcher.run(make(lines, f"{output}/.", replay_of=output), quiet=True)
    with pytest.raises(ConfigurationError, match="input_root"):
        launcher.run(make(lines, lines), quiet=True)
    assert files_of(done[1]) == made


def test_card_is_one_page_with_everything_and_nothing_alive(tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    (root / "a.txt").write_text("<script>alert(1)</script>\nreject <img src=x onerror=alert(2)>\n")
    launcher.run(make(root, tmp_path / "out"), quiet=True)
    page = (tmp_path / "out" / "card.html").read_text()
    assert "&lt;SCRIPT&gt;ALERT(1)" in page and "<SCRIPT>" not in page and "<img" not in page
    assert "shout.asked" in page and "<svg" in page and "http" not in page.split("<style>")[1].split("</style>")[0]


def test_manifest_is_plain_json_with_sorted_keys(done):
    text = pathlib.Path(done[1], "manifest.json").read_text()
    assert json.dumps(json.loads(text), indent=1, sort_keys=True) + "\n" == text
    assert {
        "kind",
        "format",
        "name",
        "modality",
        "shards",
        "documents",
        "funnel",
        "config",
        "fingerprint",
        "code_fingerprint",
        "inputs",
    } <= set(json.loads(text))
    assert str(done[1]) not in text

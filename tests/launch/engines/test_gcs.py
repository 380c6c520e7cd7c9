"""gs:// paths against an emulator of Google Cloud Storage, by google-cloud-storage itself.

Storage's promises first, then the lock on a folder of a bucket, then jobs and batches in a bucket.
"""

import dataclasses
import hashlib
import io
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from engine_jobs import TOKENIZE, VOCABULARY, WEB, digests, make, prepare, say

from castor import tasks
from castor.launch.command import main
from castor.launch.engines.gcs import FakeGcs
from castor.launch.recipes.demo_corpus import _write_web
from castor.pipelines.core import sources
from castor.pipelines.corpus.reader import read_corpus
from castor.pipelines.execution import detached, launcher
from castor.tasks.errors import CacheError, ConfigurationError, CorpusError, LockError
from castor.tasks.storage import gcs, lock, storage
from castor.tasks.storage.lock_owner import LOCK_FILE, Lease, Owner

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """gs://BUCKET of a running emulator."""
    emulator = FakeGcs()
    prepare(emulator)
    before = os.environ.get("CASTOR_CACHE")
    os.environ["CASTOR_CACHE"] = str(tmp_path_factory.mktemp("objects"))
    with emulator.start():
        gcs._client_of.cache_clear()
        yield f"gs://{emulator.bucket}"
    gcs._client_of.cache_clear()
    os.environ.pop("CASTOR_CACHE") if before is None else os.environ.update(CASTOR_CACHE=before)


def test_files_are_written_read_listed_and_removed(bucket):
    root = f"{bucket}/plain"
    storage.makedirs(root)
    assert not storage.exists(root) and storage.list_files(root) == []
    storage.write_bytes_atomic(f"{root}/a/b.txt", b"castor")
    storage.write_json_atomic(f"{root}/c.json", {"x": 1})
    storage.write_bytes_atomic(f"{root}/empty", b"")
    assert storage.list_files(root) == ["a", "c.json", "empty"] and sorted(storage.walk(root)) == [
        "a/b.txt",
        "c.json",
        "empty",
    ]
    assert storage.exists(root) and storage.is_directory(f"{root}/a") and not storage.is_directory(f"{root}/c.json")
    assert (
        storage.read_bytes(f"{root}/a/b.txt") == b"castor"
        and storage.size(f"{root}/a/b.txt") == 6
        and storage.read_bytes(f"{root}/empty") == b""
    )
    assert storage.read_json(f"{root}/c.json") == {"x": 1}
    assert storage.sha256(f"{root}/a/b.txt") == hashlib.sha256(b"castor").hexdigest()
    storage.write_bytes_atomic(f"{root}/c.json", b"new")
    assert storage.read_bytes(f"{root}/c.json") == b"new"
    storage.rename(f"{root}/a", f"{root}/moved")
    storage.rename(f"{root}/c.json", f"{root}/moved/d.json")
    assert sorted(storage.walk(root)) == ["empty", "moved/b.txt", "moved/d.json"]
    storage.remove(f"{root}/empty")
    storage.remove(f"{root}/empty")
    storage.remove_tree(root)
    assert not storage.exists(root)


def test_what_is_missing_is_told_as_of_a_file_system(bucket):
    for call in (storage.read_bytes, storage.size, storage.identity, storage.map_bytes, storage.mode):
        with pytest.raises(FileNotFoundError, match="absent"):
            call(f"{bucket}/absent")
    with pytest.raises(FileNotFoundError):
        storage.rename(f"{bucket}/absent", f"{bucket}/there")
    with pytest.raises(FileNotFoundError, match="bucket"):
        storage.write_bytes_atomic("gs://no-such-bucket/a", b"x")
    with pytest.raises(ConfigurationError, match="names no bucket"):
        storage.exists("gs:///a")
    assert storage.normal("gs://b/tasks/web/../vocabulary") == "gs://b/tasks/vocabulary"


def test_reading_in_ranges_and_of_one_generation(bucket):
    data = np.random.default_rng(0).integers(0, 256, 20_000_000, dtype=np.uint8).tobytes()
    path = f"{bucket}/large"
    with storage.HashingWriter(path) as file:
        file.write(data[:5])
        file.write(data[5:])
    assert file.hexdigest() == storage.sha256(path) and file.bytes_written == storage.size(path) == len(data)
    with storage.open_read(path) as file:
        assert file.read(10) == data[:10] and file.tell() == 10
        file.seek(15_000_000)
        assert file.read(3) == data[15_000_000:15_000_003]
        file.seek(-4, io.SEEK_END)
        assert file.read() == data[-4:] and file.read() == b""
    mapped = storage.map_bytes(path)
    assert mapped.tobytes() == data and not mapped.flags.writeable
    known = storage.identity(path)
    assert storage.is_unchanged(path, known)
    storage.write_bytes_atomic(path, b"another")
    assert not storage.is_unchanged(path, known) and mapped[-4:].tobytes() == data[-4:]  # the copy stays what it was
    assert storage.map_bytes(path).tobytes() == b"another"
    storage.remove(path)
    assert not storage.is_unchanged(path, known)


def test_an_object_appears_whole_or_not_at_all(bucket):
    with pytest.raises(RuntimeError), storage.HashingWriter(f"{bucket}/half") as file:
        file.write(b"half")
        raise RuntimeError
    assert not storage.exists(f"{bucket}/half")


def test_two_tries_at_the_same_file_end_as_one(bucket):
    path, errors = f"{bucket}/contended", []

    def write():
        try:
            for _ in range(5):
                storage.write_bytes_atomic(path, b"the same bytes")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and storage.read_bytes(path) == b"the same bytes"


def test_copies_are_whole_and_their_own(bucket):
    for name in ("a", "b/c"):
        storage.write_bytes_atomic(f"{bucket}/original/{name}", name.encode())
    storage.copy(f"{bucket}/original", f"{bucket}/copied", ("a", "b/c"))
    storage.write_bytes_atomic(f"{bucket}/copied/a", b"changed")
    assert storage.read_bytes(f"{bucket}/original/a") == b"a" and storage.read_bytes(f"{bucket}/copied/b/c") == b"b/c"


# The lock on a folder.

QUICK = Lease(renew_s=0.5, expire_s=4.0)

WRITER = """
import sys
from castor.tasks.errors import LockError
from castor.tasks.storage import lock, lock_owner
from castor.tasks.storage.lock_owner import Lease
if sys.argv[1]:  # this process stands for a host of its own
    lock_owner._boot = lambda: sys.argv[1]
print("ready", flush=True)
for folder in sys.stdin:
    try:
        with lock.hold(folder.strip(), "OUTPUT", Lease(renew_s=0.5, expire_s=4.0)) as held:
            print("won", flush=True)
            sys.stdin.readline()
            held.check()
        print("released", flush=True)
    except LockError as error:
        print(error, flush=True)
"""


@pytest.fixture
def start():
    """Starts processes that ask for the lock of each folder written to them, and hold it until the next line."""
    processes = []

    def begin(host: str = "") -> subprocess.Popen:
        command = [sys.executable, "-P", "-c", WRITER, host]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def ask(process: subprocess.Popen, folder: str = "") -> None:
    process.stdin.write(f"{folder}\n")
    process.stdin.flush()


def write_record(folder: str, **changes) -> None:
    """Puts another owner's lock object into a folder of the bucket, over whatever is there."""
    record = dataclasses.replace(Owner.this_process(QUICK), **changes).to_bytes()
    while True:  # the owner before may be renewing
        found = gcs.read_generation(f"{folder}/{LOCK_FILE}")
        if gcs.write_generation(f"{folder}/{LOCK_FILE}", record, found[1] if found else 0) is not None:
            return


def test_a_second_writer_of_a_bucket_is_told_who_the_first_is(bucket, start):
    folder, first = f"{bucket}/one-writer", start()
    ask(first, folder)
    assert first.stdout.readline() == "won\n"
    before = gcs.read_generation(f"{folder}/{LOCK_FILE}")[1]
    time.sleep(1.5 * QUICK.expire_s)  # its renewals keep it
    assert gcs.read_generation(f"{folder}/{LOCK_FILE}")[1] > before
    for host, seen_as in (("", "this host"), ("another host", "another host")):
        second = start(host)
        began = time.monotonic()
        ask(second, folder)
        told = second.stdout.readline()
        assert told.startswith(f"OUTPUT {folder} is being written by process {first.pid} on "), seen_as
        assert " since 20" in told and time.monotonic() - began < 30.0
    ask(first)
    assert first.stdout.readline() == "released\n" and storage.list_files(folder) == []
    with lock.hold(folder, "OUTPUT", QUICK) as held:
        held.check()


def test_a_killed_writer_of_a_bucket_is_replaced(bucket, start):
    """Of this host at once, since the kernel knows; of another one when its lease has run out."""
    for host, at_least, at_most in (("", 0.0, 0.8 * QUICK.expire_s), ("another host", 0.9 * QUICK.expire_s, 30.0)):
        folder, first = f"{bucket}/killed-writer{len(host)}", start(host)
        ask(first, folder)
        assert first.stdout.readline() == "won\n"
        first.kill()
        first.wait()
        began = time.monotonic()
        with lock.hold(folder, "OUTPUT", QUICK) as held:
            assert at_least <= time.monotonic() - began <= at_most, host
            held.check()
            owner = Owner.from_bytes(gcs.read_generation(f"{folder}/{LOCK_FILE}")[0])
            assert owner.process == os.getpid() and owner.boot != "another host"
        assert storage.list_files(folder) == []


@pytest.mark.parametrize("kind", ("free", "dead", "expired"))
def test_of_takers_that_race_for_a_bucket_one_wins(bucket, start, kind):
    """The contenders are on hosts of their own.

    dead: a process of this host held the lock.
    expired: a process of yet another host held the lock.
    """
    takers = [start(f"host {i}" if kind != "dead" else "") for i in range(3)]
    for number in range(3):
        folder = f"{bucket}/race-{kind}-{number}"
        if kind == "dead":
            write_record(folder, started="1")
        elif kind == "expired":
            write_record(folder, boot="yet another", host="elsewhere")
        for taker in takers:
            ask(taker, folder)
        answers = [taker.stdout.readline() for taker in takers]
        (winner,) = [taker for taker, answer in zip(takers, answers) if answer == "won\n"]
        for taker, answer in zip(takers, answers):
            assert taker is winner or f"is being written by process {winner.pid} " in answer, answer
        ask(winner)
        assert winner.stdout.readline() == "released\n" and storage.list_files(folder) == []


def test_a_writer_that_lost_its_bucket_stops(bucket):
    folder = f"{bucket}/lost"
    with lock.hold(folder, "OUTPUT", QUICK) as held:
        held.check()
        write_record(folder, boot="other", host="elsewhere", process=77)
        time.sleep(3 * QUICK.renew_s)
        with pytest.raises(LockError, match=f"OUTPUT {folder} is no longer this process's"):
            held.check()
    left = Owner.from_bytes(gcs.read_generation(f"{folder}/{LOCK_FILE}")[0])
    assert left.process == 77, "the lock of the other writer stays"


def test_patterns_match_as_on_disk(bucket, tmp_path):
    names = ("a.txt", "b/c.txt", "b/.hidden/d.txt", ".e.txt", "b/f.bin")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
        storage.write_bytes_atomic(f"{bucket}/match/{name}", name.encode())
    for patterns in (("*.txt",), ("**/*.txt",), ("b",), ("*",), ("**/f.*", "a.txt")):
        assert sources.match(f"{bucket}/match", patterns) == sources.match(str(tmp_path), patterns) != []
    with pytest.raises(CorpusError, match="gs://castor/nowhere does not exist"):
        sources.match(f"{bucket}/nowhere", ("*",))
    with sources.open_regular(f"{bucket}/match/b/c.txt") as file:
        assert file.read() == b"b/c.txt"


@pytest.fixture(scope="module")
def made(bucket, tmp_path_factory):
    """Web, vocabulary and tokenize, from a bucket into it: (folder of local copies of the outputs, the jobs)."""
    home = tmp_path_factory.mktemp("bucket")
    _write_web(home / "crawl", 40)
    for path in (home / "crawl").iterdir():
        storage.write_bytes_atomic(f"{bucket}/crawl/{path.name}", path.read_bytes())
    web = make("web", INPUT_ROOT=f"{bucket}/crawl", OUTPUT=f"{bucket}/web", **WEB)
    launcher.run(web, quiet=True)
    vocabulary = make("vocabulary", CORPORA=[web.output], OUTPUT=f"{bucket}/vocabulary", **VOCABULARY)
    launcher.run(vocabulary, quiet=True)
    tokenize = make(
        "tokenize",
        NAME="web",
        CORPUS=web.output,
        VOCABULARY=vocabulary.output,
        OUTPUT=f"{bucket}/tasks/web",
        **TOKENIZE,
    )
    launcher.run(tokenize, quiet=True)
    return web, vocabulary, tokenize


def fetched(remote: str, folder) -> dict[str, str]:
    """The digests of what lies under gs://..., after a copy to `folder`."""
    for name in storage.walk(remote):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(storage.read_bytes(f"{remote}/{name}"))
    return digests(folder)


def test_jobs_from_a_bucket_into_a_bucket_write_what_they_write_on_disk(made, bucket, tmp_path, capsys):
    """The same job with only its output elsewhere: byte for byte. Nothing of the staging stays in the bucket."""
    for name, one in zip(("web", "vocabulary", "tokenize"), made):
        found = fetched(one.output, tmp_path / "fetched" / name)
        launcher.run(dataclasses.replace(one, output=str(tmp_path / "disk" / name)), quiet=True)
        say(capsys, "bucket", name, found)
        assert found == digests(tmp_path / "disk" / name)
    assert not [name for name in storage.walk(bucket) if ".staging" in name]
    assert launcher.up_to_date(made[0])
    storage.write_bytes_atomic(
        f"{bucket}/crawl/pages-00000.warc.gz", storage.read_bytes(f"{bucket}/crawl/pages-00000.warc.gz")
    )
    gcs._metadata.clear()
    assert not launcher.up_to_date(made[0])  # another generation


def test_a_job_whose_output_is_locked_changes_nothing(made, bucket):
    before = {name: storage.identity(f"{made[0].output}/{name}") for name in storage.walk(made[0].output)}
    with lock.hold(made[0].output, "OUTPUT"), pytest.raises(LockError, match=f"written by process {os.getpid()} "):
        launcher.run(made[0], quiet=True)
    assert {name: storage.identity(f"{made[0].output}/{name}") for name in storage.walk(made[0].output)} == before


def test_a_detached_job_is_committed_in_a_bucket(made, bucket, tmp_path):
    job = dataclasses.replace(made[0], output=f"{bucket}/detached")
    detached.submit(job, [])
    with pytest.raises(LockError, match="by detached job"):
        launcher.run(job, quiet=True)
    detached.commit(job.output)
    launcher.run(dataclasses.replace(job, output=str(tmp_path / "waited")), quiet=True)
    assert fetched(job.output, tmp_path / "detached") == digests(tmp_path / "waited")


def test_dataflows_submission_from_the_command(made, bucket, capsys):
    """The web job's, its inputs listed in the bucket: validated, shown, not sent, and nothing is written."""
    before = sorted(storage.walk(bucket))
    macros = [f"--gin.INPUT_ROOT='{bucket}/crawl'", f"--gin.OUTPUT='{bucket}/elsewhere'", "--gin.INPUTS=['*.warc.gz']"]
    given = [
        "--project=a-project",
        "--region=europe-west4",
        f"--temp_location={bucket}/tmp",
        "--sdk_container_image=example/castor:1",
    ]
    assert main(["launch", "dataflow", "web", *macros, *given, "--num_workers=4"]) == 0
    shown = capsys.readouterr().out
    for part in (
        "--num_workers=4",
        "workers: example/castor:1; staged: ",
        "  extract: ",
        "  write: ",
        "The job is valid and was not submitted",
    ):
        assert part in shown
    assert sorted(storage.walk(bucket)) == before


def test_batches_out_of_a_bucket(made, bucket, tmp_path):
    fetched(made[2].output, tmp_path / "web")
    arguments = {"batch_size": 4, "lengths": {"targets": 64}, "seed": 1}
    here = tasks.Batches(tasks.Mixture("m", {str(tmp_path / "web"): 1.0}), **arguments)
    there = tasks.Batches(tasks.Mixture("m", {f"{bucket}/tasks/web": 1.0}), **arguments)
    for step in (0, 3, 11):
        for name, array in here.batch(step).items():
            np.testing.assert_array_equal(array, there.batch(step)[name])
        spans = [
            [dataclasses.replace(span, cache="") for row in batches.lineage(step) for span in row]
            for batches in (here, there)
        ]
        assert spans[0] == spans[1] and spans[0]


def test_a_cache_written_anew_is_told_from_the_one_opened(made, bucket):
    from castor.tasks.cache.reader import CacheReader

    reader = CacheReader(f"{bucket}/tasks/web")
    assert len(reader.tokens(0))
    path = reader.path(0)
    storage.write_bytes_atomic(path, storage.read_bytes(path))
    with pytest.raises(CacheError, match="was changed or replaced while in use"):
        reader.check(0)


def test_a_run_killed_before_its_manifest_is_no_corpus(made, bucket):
    storage.write_bytes_atomic(f"{bucket}/killed/.staging-x/.entries/00000.json", b"{}")
    storage.write_bytes_atomic(f"{bucket}/killed/documents-00000-of-00001.parquet", b"half")
    with pytest.raises(CorpusError, match="not finished.*Run the job"):
        list(read_corpus(f"{bucket}/killed"))
    launcher.run(dataclasses.replace(made[0], output=f"{bucket}/killed"), quiet=True)
    assert [d.id for d in read_corpus(f"{bucket}/killed")] and not [
        n for n in storage.walk(f"{bucket}/killed") if "staging" in n or "00001.parquet" in n
    ]


def test_a_run_whose_model_dir_is_in_a_bucket_goes_on(castor, bucket, tmp_path):
    periods = {"CHECKPOINT_PERIOD": 2, "EVAL_PERIOD": 2, "WarmupCosine.total_steps": 6}
    for steps in (4, 6):
        child = castor.start("train", *castor.bindings(f"{bucket}/model", TRAIN_STEPS=steps, **periods))
        _, err = child.communicate(timeout=300)
        assert child.returncode == 0, err
    assert "steps 4 to 6" in err
    assert castor("train", *castor.bindings(tmp_path / "here", TRAIN_STEPS=6, **periods))[0] == 0
    for name in ("metrics.jsonl", "evaluation.jsonl", "COMPLETED"):
        assert storage.read_bytes(f"{bucket}/model/{name}") == (tmp_path / "here" / name).read_bytes()
    assert {"checkpoint_4", "checkpoint_6", "config", "model.json"} <= set(storage.list_files(f"{bucket}/model"))
    assert storage.list_files(f"{bucket}/model/config") == ["000_step_0.gin", "001_step_4.gin"]
    storage.write_bytes_atomic(f"{bucket}/model/checkpoint_7/parameters/x", b"cut off")
    code, out, err = castor("evaluate", f"--model_dir={bucket}/model", "--step=4")
    assert code == 0 and "checkpoint 4" in out, err
    child = castor.start("train", *castor.bindings(f"{bucket}/model", TRAIN_STEPS=6, EVAL_PERIOD=0))
    assert "steps 6 to 6" in child.communicate(timeout=300)[1] and not storage.exists(f"{bucket}/model/checkpoint_7")

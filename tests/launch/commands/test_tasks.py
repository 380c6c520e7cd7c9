"""`castor tasks`: each action on real caches, and bad use that names the thing and the remedy."""

import json

import numpy as np
import pytest
import small_caches as caches

from castor.launch import command
from castor.tasks.cache import writer
from castor.tasks.cache.features import Record


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    directory = tmp_path_factory.mktemp("out")
    vocabulary = caches.make_vocabulary()
    vocabulary.save(str(directory / "vocabulary"))
    facts = {
        "path": str(directory / "vocabulary"),
        "fingerprint": vocabulary.fingerprint,
        "size": vocabulary.vocab_size,
    }
    for name in ("web", "code"):
        texts = [f"{name} number {i} " * (1 + i % 5) for i in range(20)]
        records = [
            Record(f"{i:032x}", f"{name}.jsonl#line={i}", {"targets": np.array([*vocabulary.encode(t), 1])})
            for i, t in enumerate(texts)
        ]
        funnel = {"read": 21, "rejected": {"short": 1}, "kept": 20}
        caches.make_cache(directory / "tasks" / name, records, name=name, vocabulary=facts, funnel=funnel)
    return directory


@pytest.fixture
def castor(capsys):
    def run(*argv):
        code = command.main(["tasks", *map(str, argv)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_list(out, castor, tmp_path):
    code, text, _ = castor("list", out / "tasks")
    assert code == 0 and [line.split()[0] for line in text.splitlines() if "ready" in line] == ["code", "web"]
    writer.begin(str(tmp_path / "tasks" / "broken"))
    code, text, _ = castor("list", tmp_path / "tasks")
    assert code == 0 and "half-written" in text


def test_show(out, castor):
    code, text, _ = castor("show", out / "tasks" / "web")
    assert code == 0 and "train" in text and "rejected short" in text and "int32, rank 1" in text


def test_verify_names_the_file_and_fails(out, castor, tmp_path):
    assert castor("verify", out / "tasks")[0] == 0
    directory = caches.make_cache(tmp_path / "toy", caches.make_records(20))
    shard = tmp_path / "toy" / "train.tfrecord-00001-of-00003"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))
    code, text, _ = castor("verify", directory)
    assert code == 1 and f"{shard}: checksum" in text and f"{shard}: record" in text
    assert castor("verify", directory, "--quick")[0] == 0
    assert castor("verify", tmp_path / "nothing")[0] == 1


def test_preview(out, castor, tmp_path):
    page = tmp_path / "page.html"
    code, text, _ = castor("preview", out / "tasks" / "web", f"--output={page}", "--count=3")
    assert code == 0 and "3 records" in text
    assert page.read_text().count("<article>") == 3 and "web number" in page.read_text()


def test_preview_without_its_vocabulary(castor, tmp_path):
    directory = caches.make_cache(tmp_path / "toy", caches.make_records(20))
    code, _, error = castor("preview", directory, f"--output={tmp_path / 'p.html'}")
    assert code == 0 and "--vocabulary=DIR" in error


def test_lineage_of_a_cache(out, castor):
    code, text, _ = castor(
        "lineage", out / "tasks" / "web", "--step=3", "--batch_size=4", "--length=32", "--json", "--row=2"
    )
    spans = [json.loads(line) for line in text.splitlines()]
    assert (
        code == 0 and {s["row"] for s in spans} == {2} and all(s["source"].startswith("web.jsonl#line=") for s in spans)
    )
    code, text, _ = castor("lineage", out / "tasks" / "web", "--step=3", "--batch_size=4", "--length=32", "--row=2")
    assert code == 0 and all(s["document"] in text and s["source"] in text for s in spans)


def test_lineage_of_a_document(out, castor, tmp_path):
    (tmp_path / "run.gin").write_text(
        "import castor.tasks.batches.catalog\nMIXTURE_OR_TASK_NAME = @two/tasks.Mixture()\ntwo/tasks.Mixture.components = {'web': 1, 'code': 3}\n"
        f"two/tasks.Mixture.stages = ((4, {{'web': 1}}),)\nTASKS_DIR = '{out / 'tasks'}'\nBATCH_SIZE = {{0: 2, 3: 4}}\n"
        "TASK_FEATURE_LENGTHS = {'targets': 32}\nTRAIN_STEPS = 12\nPACKING = 'first_fit'\n"
    )
    by_step = []
    for step in range(12):
        code, text, _ = castor("lineage", f"--gin_file={tmp_path / 'run.gin'}", f"--step={step}", "--json")
        by_step += [{"step": step, **json.loads(line)} for line in text.splitlines()]
    document = by_step[0]["document"]
    code, text, _ = castor("lineage", f"--gin_file={tmp_path / 'run.gin'}", f"--document={document}", "--json")
    assert code == 0 and [json.loads(line) for line in text.splitlines()] == [
        s for s in by_step if s["document"] == document
    ]
    code, text, _ = castor("lineage", f"--gin_file={tmp_path / 'run.gin'}", f"--document={document}", "--steps=1")
    assert code == 0 and "in 1 steps" in text and document in text
    code, text, _ = castor(
        "lineage", out / "tasks" / "web", f"--document={document}", "--batch_size=2", "--length=32", "--json"
    )
    epochs = {json.loads(line)["epoch"] for line in text.splitlines()}
    code, text, _ = castor("lineage", out / "tasks" / "web", f"--document={document}", "--batch_size=2", "--length=32")
    assert code == 0 and epochs == {0} and "in the first epoch" in text
    code, _, error = castor("lineage", f"--gin_file={tmp_path / 'run.gin'}", f"--document={'f' * 32}")
    assert code == 1 and "no cache of the mixture has document" in error


def test_lineage_of_a_mixture_bound_in_gin(out, castor, tmp_path):
    (tmp_path / "two.gin").write_text(
        "import castor.tasks.batches.catalog\nMIXTURE_OR_TASK_NAME = @two/tasks.Mixture()\ntwo/tasks.Mixture.components = {'web': 1, 'code': 3}\n"
        f"TASKS_DIR = '{out / 'tasks'}'\nBATCH_SIZE = 4\nTASK_FEATURE_LENGTHS = {{'targets': 32}}\nRANDOM_SEED = 5\n"
    )
    code, text, _ = castor("lineage", f"--gin_file={tmp_path / 'two.gin'}", "--step=1", "--json")
    assert code == 0 and {json.loads(line)["domain"] for line in text.splitlines()} <= {"web", "code"}
    other = castor("lineage", f"--gin_file={tmp_path / 'two.gin'}", "--step=1", "--json", "--seed=6")[1]
    assert other != text
    model = tmp_path / "model"
    (model / "config").mkdir(parents=True)
    (model / "config" / "000_step_0.gin").write_text((tmp_path / "two.gin").read_text())
    assert castor("lineage", f"--model_dir={model}", "--step=1", "--json")[1] == text


def test_export(out, castor, tmp_path):
    import pandas

    code, text, error = castor("export", out / "tasks" / "web", "--to=parquet", f"--output={tmp_path / 'web'}")
    assert code == 0 and "20 records" in text and "6 written and 0 kept" in text and not error, (
        "no progress bar but on a terminal"
    )
    frame = pandas.concat(pandas.read_parquet(p) for p in sorted((tmp_path / "web").glob("*.parquet")))
    assert sorted(frame["id"]) == [f"{i:032x}" for i in range(20)]
    code, text, _ = castor(
        "export", out / "tasks" / "web", "--to=parquet", f"--output={tmp_path / 'web'}", "--split=train"
    )
    assert code == 0 and "0 written and 3 kept" in text
    code, _, error = castor("export", out / "tasks" / "code", "--to=parquet", f"--output={tmp_path / 'web'}")
    assert code == 2 and "has an export of web, and the content of" in error and "Name another --output" in error


@pytest.mark.parametrize(
    "argv, match",
    [
        (["export", "{web}", "--output=nowhere"], "needs --to. The formats are arrayrecord, parquet"),
        (["export", "{web}", "--to=parquet"], "needs --output"),
        (["export", "{web}", "--to=parkett", "--output=nowhere"], "Did you mean parquet?"),
        (["export", "{web}", "--to=parquet", "--output=nowhere", "--split=tset"], "no split 'tset'"),
        (["export", "--to=parquet"], "takes one path"),
        (["lst"], "Did you mean list"),
        (["show"], "takes a path"),
        (["show", "/nothing/there"], "no task cache at /nothing/there"),
        (["list", "/nothing/there"], "directory /nothing/there does not exist"),
        (["preview", "{web}", "--record=999"], "no record 999"),
        (["preview", "{web}", "--split=tset"], "no split 'tset'"),
        (["preview", "{web}", "--vocabulary=/nothing"], "/nothing is not a complete vocabulary"),
        (["lineage", "{web}"], "--step=S"),
        (["lineage", "{web}", "--step=1", "--document=" + "0" * 32], "--step=S"),
        (["lineage", "{web}", "--document=xyz", "--steps=2", "--batch_size=2", "--length=8"], "32"),
        (["lineage", "{web}", "--step=1"], "BATCH_SIZE"),
        (["lineage", "--step=1"], "MIXTURE_OR_TASK_NAME"),
        (["lineage", "{web}", "--step=1", "--batch_size=2", "--length=8", "--row=2"], "no row 2"),
        (["lineage", "{web}", "--step=-1", "--batch_size=2", "--length=8"], "step"),
        (["lineage", "--step=1", "--model_dir=/nothing"], "holds no run"),
        (["list", "--nonsense"], "unknown arguments: --nonsense"),
    ],
)
def test_bad_use_is_one_line(out, castor, argv, match):
    code, _, error = castor(*(a.format(web=out / "tasks" / "web") for a in argv))
    assert code == 2 and match in error and len(error.strip().splitlines()) == 1

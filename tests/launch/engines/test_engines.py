"""One job on several engines writes the same bytes.

The web, vocabulary and tokenize jobs run on Beam's in-process runner, two worker processes, Prism and a Flink cluster;
every output file is compared by SHA-256. Errors keep their type wherever they were raised.
"""

import dataclasses
import pathlib

import pytest
import small_job
from engine_jobs import TOKENIZE, VOCABULARY, WEB, digests, make, say

from castor.launch.recipes.demo_corpus import _write_web
from castor.pipelines.execution import launcher
from castor.tasks.errors import CorpusError, VocabularyError

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

PAGES = 60


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """The three jobs run on FnApiRunner: {name: (job, digests of its output)}. Each reads the previous output."""
    home = tmp_path_factory.mktemp("engines")
    _write_web(home / "crawl", PAGES)
    web = make("web", INPUT_ROOT=str(home / "crawl"), OUTPUT=str(home / "web"), **WEB)
    made = {"web": web}
    launcher.run(web, quiet=True)
    made["vocabulary"] = make("vocabulary", CORPORA=[web.output], OUTPUT=str(home / "vocabulary"), **VOCABULARY)
    launcher.run(made["vocabulary"], quiet=True)
    made["tokenize"] = make(
        "tokenize",
        NAME="web",
        CORPUS=web.output,
        VOCABULARY=str(home / "vocabulary"),
        OUTPUT=str(home / "tasks"),
        **TOKENIZE,
    )
    launcher.run(made["tokenize"], quiet=True)
    return {name: (one, digests(one.output)) for name, one in made.items()}


@pytest.mark.parametrize("name", ["web", "vocabulary", "tokenize"])
def test_every_engine_writes_the_same_bytes(engine, jobs, name, tmp_path, capsys):
    one, expected = jobs[name]
    say(capsys, "FnApiRunner", name, expected)
    manifest = launcher.run(dataclasses.replace(one, output=str(tmp_path / name)), engine.options, quiet=True)
    found = digests(tmp_path / name)
    say(capsys, engine.name, name, found)
    assert found == expected
    assert manifest["funnel"]["read"] >= PAGES / 2


def test_an_error_for_the_user_arrives_as_itself(engine, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("vocabulary\n")
    with pytest.raises(VocabularyError, match="^the vocabulary is gone. Bring it back.$"):
        launcher.run(lines(tmp_path), engine.options, quiet=True)
    assert not (tmp_path / "out").exists()


def test_too_many_dead_letters_commit_nothing(engine, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("good\nzero\nbad x\n")
    with pytest.raises(CorpusError, match=r"2 of 3 records \(66.7%\) are dead letters .*Nothing was committed"):
        launcher.run(lines(tmp_path), engine.options, quiet=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".failed"]


def lines(folder: pathlib.Path):
    return small_job.Job(
        name="lines", input_root=str(folder / "in"), inputs=("*",), output=str(folder / "out"), num_shards=2
    )

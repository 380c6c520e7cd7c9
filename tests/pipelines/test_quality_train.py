"""quality-train end to end on synthetic sets: separation, equal bytes with any workers, both kinds of input, a web job.

The unsafe set is a harmless stand-in: recipes for soup. No unsafe text ships with Castor.
"""

import collections
import gzip
import hashlib
import json
import pathlib
import random

import pytest

from castor.pipelines import web
from castor.pipelines.core.funnel import Funnel
from castor.pipelines.corpus.commit import commit, read_entries
from castor.pipelines.corpus.reader import read_corpus
from castor.pipelines.corpus.rows import encode_element
from castor.pipelines.corpus.shard_writer import write_shard
from castor.pipelines.document import Document, document_id
from castor.pipelines.execution import launcher
from castor.pipelines.filters import quality_model
from castor.pipelines.quality import linear_model, training_rows
from castor.pipelines.quality.model_fit import without_repeats
from castor.pipelines.quality_train import Job
from castor.tasks.errors import ConfigurationError, CorpusError

GOOD = "the theorem follows since every bounded sequence of real numbers has a limit point and we may choose an index beyond which".split()
WEB = "click here to buy cheap shoes now best price free shipping sign up for our newsletter and share this page with friends today".split()
SOUP = "chop the onion simmer the broth stir in lentils season with cumin serve the soup hot with bread and a spoon of yoghurt".split()
COMMON = "a in of is it that for on as at by from this with one all there when".split()


def texts(words, count, seed):
    draw = random.Random(seed)
    return [
        " ".join(draw.choice(words if draw.random() < 0.5 else COMMON) for _ in range(60)) + f" {seed} {i}."
        for i in range(count)
    ]


def write_lines(path, made, **facts):
    path.write_bytes(
        gzip.compress(
            b"".join(
                json.dumps({"text": t, "url": f"http://site{i % 40}.org/{i}", **facts}).encode() + b"\n"
                for i, t in enumerate(made)
            ),
            mtime=0,
        )
    )
    return str(path)


def write_corpus(directory, made):
    staging, rows = str(directory / ".staging-test"), collections.defaultdict(list)
    for i, text in enumerate(made):
        identifier, row = encode_element(Document(document_id("c", str(i)), f"c/{i}", "text", text), keep_rejects=False)
        rows[int(identifier[:16], 16) * 2 >> 64].append(row)
    for shard in range(2):
        write_shard(staging, shard, 2, rows[shard])
    entries = read_entries(staging, 2)
    manifest = {
        "kind": "corpus",
        "format": 1,
        "name": "c",
        "modality": "text",
        "fingerprint": "c",
        "shards": [e["shard"] for e in entries],
    }
    commit(staging, str(directory), manifest)
    return str(directory)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    return {
        "good": write_corpus(root / "good", texts(GOOD, 150, 1)),
        "web": write_lines(
            root / "web.jsonl.gz", [*texts(WEB, 150, 2), *texts(GOOD, 20, 3), *texts(SOUP, 30, 4), "!!!", " "]
        ),
        "soup": write_lines(root / "soup.jsonl.gz", texts(SOUP, 100, 5)),
    }


def make(sets, output, **changes):
    return Job(
        **{
            "name": "quality",
            "reference": [sets["good"]],
            "sample": [sets["web"]],
            "output": str(output),
            "documents": 180,
            **changes,
        }
    )


def all_bytes(directory):
    return {
        str(p.relative_to(directory)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(pathlib.Path(directory).rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def done(sets, tmp_path_factory):
    output = tmp_path_factory.mktemp("model") / "quality"
    return launcher.run(make(sets, output), quiet=True), output


def test_model_and_measures(sets, done):
    manifest, output = done
    funnel = Funnel.from_json(manifest["funnel"])
    assert (
        funnel.adds_up
        and funnel.read == 352
        and funnel.kept == 150 + 180 - funnel.rejected.get("quality_train.no_tokens", 0)
    )
    assert (
        set(funnel.rejected) <= {"draw.not_drawn", "page.empty", "quality_train.no_tokens"}
        and funnel.rejected["page.empty"] == 1
    )
    measures = manifest["measures"]
    assert 0.85 < measures["auc"] < 1 and measures["auc_fitted"] >= measures["auc"] - 0.05 and measures["repeated"] == 0
    assert (
        0.1 <= measures["kept_of_sample"] < 0.16
        and measures["kept_of_reference"] > 0.6
        and measures["calibration_error"] < 0.2
    )
    assert sum(sum(both.values()) for both in measures["documents"].values()) == funnel.kept
    assert (
        manifest["fingerprint"]
        == make(sets, output).fingerprint()
        == json.loads((output / "manifest.json").read_text())["fingerprint"]
    )
    model = linear_model.load(str(output))
    good, bad = (sum(map(model.score, texts(words, 20, 9))) / 20 for words in (GOOD, WEB))
    assert good > 0.8 and bad < 0.2
    assert any("AUC" in line for line in make(sets, output).report(manifest))


def test_report_names_ngrams_and_is_not_alive(sets, done, tmp_path):
    page = (done[1] / "report.html").read_text()
    side_for, side_against = page.split("<th>for</th>")[1].split("<th>against</th>")
    for side, words, others in ((side_for, GOOD, WEB), (side_against, WEB, GOOD)):
        assert (
            sum(f"<td>{word}</td>" in side for word in words)
            > 3
            > sum(f"<td>{word}</td>" in side for word in set(others) - set(words) - set(COMMON))
        )
    assert "<script" not in page
    hostile = write_lines(
        tmp_path / "h.jsonl.gz", [f"<script>alert({i})</script> {t}" for i, t in enumerate(texts(WEB, 120, 6))]
    )
    launcher.run(make(sets, tmp_path / "m", sample=[hostile]), quiet=True)
    assert "<script" not in (tmp_path / "m" / "report.html").read_text()


def test_any_way_to_run_gives_the_same_bytes(sets, done, tmp_path):
    launcher.run(
        make(sets, tmp_path / "two"), ["--direct_running_mode=multi_processing", "--direct_num_workers=2"], quiet=True
    )
    assert all_bytes(tmp_path / "two") == all_bytes(done[1]) and len(all_bytes(done[1])) == 3


def test_by_site_no_site_is_in_two_parts(sets):
    parts = collections.defaultdict(set)
    measure = training_rows.Measure(linear_model.Features(), 1, 0.2, "site", 0)
    for i in range(400):
        url = f"https://www.site{i % 40}.org/{i}"
        document = Document(
            document_id("c", str(i)), "c", "text", f"text {i}", None, {"corpus": 0, "rank": i, "url": url}
        )
        parts[i % 40].add(training_rows.unpack(measure(document).bytes).part)
    assert all(len(found) == 1 for found in parts.values()) and set.union(*parts.values()) == set(training_rows.PARTS)


def test_parts_have_their_shares():
    parts = collections.Counter(training_rows.part_of(str(i), 0.2) for i in range(20_000))
    assert abs(parts["held_out"] / 20_000 - 0.2) < 0.01 and abs(parts["calibrated"] / 20_000 - 0.1) < 0.01


def test_a_page_that_stands_twice_is_fitted_once():
    measure = training_rows.Measure(linear_model.Features(), 1, 0.2, "id", 0)

    def row(number, corpus_number, text):
        document = Document(
            document_id("c", str(number)), "c", "text", text, None, {"corpus": corpus_number, "rank": 0, "url": ""}
        )
        return training_rows.unpack(measure(document).bytes)

    rows = [row(0, 1, "the same"), row(1, 0, "The same!"), row(2, 0, "other"), row(3, 1, "the same")]
    assert without_repeats(rows) == [rows[1], rows[2]]


def test_quality_and_safety_side_by_side_in_a_web_job(sets, done, tmp_path):
    """The safety model keeps low scores. Metadata has both scores; reasons and measures name the model."""
    safety = make(sets, tmp_path / "safety", name="safety", reference=[sets["soup"]], keep="low", kept_share=0.8)
    manifest = launcher.run(safety, quiet=True)
    assert manifest["measures"]["auc"] > 0.8 and manifest["measures"]["kept_of_reference"] < 0.4
    write_lines(tmp_path / "pages.jsonl.gz", [*texts(GOOD, 6, 11), *texts(WEB, 6, 12), *texts(SOUP, 6, 13)])
    rules = (
        quality_model.Score(model=str(done[1])),
        quality_model.Classify(model=str(tmp_path / "safety"), label="safety"),
        quality_model.Filter(model=str(done[1])),
    )
    run = web.Job(
        name="w",
        input_root=str(tmp_path),
        inputs=("pages.jsonl.gz",),
        output=str(tmp_path / "w"),
        num_shards=1,
        keep_rejects=True,
        filters=rules,
    )
    made = launcher.run(run, quiet=True)
    assert (
        set(made["funnel"]["rejected"]) == {"quality_model.score", "safety_model.score"} and made["funnel"]["kept"] >= 4
    )
    for document in read_corpus(str(tmp_path / "w")):
        assert document.metadata["quality_score"] > 0.5 > document.metadata["safety_score"]
        assert document.metadata["quality_score"] == linear_model.load(str(done[1])).score(document.text)
    assert str(done[1] / "manifest.json") in made["files"]


def test_a_threshold_of_ones_own(done):
    page = Document("0" * 32, "s", "text", texts(WEB, 1, 20)[0])
    strict, loose = (quality_model.Classify(model=str(done[1]), threshold=t) for t in (0.999999, 0.0))
    rejection = strict(page)
    assert (
        rejection.reason == "quality_model.score"
        and rejection.measure == f"{rejection.document.metadata['quality_score']:.4g}"
    )
    assert loose(page).metadata["quality_score"] < 0.5
    assert quality_model.Filter(model=str(done[1])).check(page) == "quality_model.score"
    assert quality_model.Filter(model=str(done[1])).check(page.with_metadata(quality_score=1.0)) is None
    with pytest.raises(CorpusError, match="no model at"):
        quality_model.Score(model="/nonexistent").prepare()


def test_bad_use(sets, tmp_path):
    for changes, message in (
        ({"reference": []}, "REFERENCE"), ({"sample": "x"}, "SAMPLE"), ({"kept_share": 0}, "KEPT_SHARE"), ({"keep": "all"}, "KEEP"),
        ({"split_by": "url"}, "SPLIT_BY"), ({"held_out": 0.9}, "HELD_OUT"), ({"l2": 0}, "L2"), ({"documents": 0}, "SAMPLE_DOCUMENTS"),
    ):  # fmt: skip
        with pytest.raises(ConfigurationError, match=message):
            make(sets, tmp_path, **changes)
    few = write_lines(tmp_path / "few.jsonl", texts(GOOD, 10, 1))
    pathlib.Path(few).write_bytes(gzip.decompress(pathlib.Path(few).read_bytes()))
    with pytest.raises(CorpusError, match="only . different documents of the reference are .*at least 8 are needed"):
        launcher.run(make(sets, tmp_path / "m", reference=[few]), quiet=True)
    assert not (tmp_path / "m" / "manifest.json").exists()
    with pytest.raises(CorpusError, match="does not exist"):
        launcher.run(make(sets, tmp_path / "m", reference=[str(tmp_path / "absent")]), quiet=True)
    with pytest.raises(CorpusError, match="no file under"):
        launcher.run(make(sets, tmp_path / "m", reference=[str(tmp_path / "absent*.jsonl")]), quiet=True)

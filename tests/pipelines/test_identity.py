"""What ids are made of. By content, renaming, reordering and copying raw files changes only `source`. By location, the
spelling of INPUT_ROOT changes nothing.
"""

import gzip
import io
import json
import os
import pathlib
import shutil
import tarfile
import zlib

import pyarrow.parquet
import pytest

from castor.launch.recipes.demo_corpus import DemoCorpus
from castor.pipelines import audio, code, image, video, web
from castor.pipelines.core import dead_letters
from castor.pipelines.corpus import outcomes
from castor.pipelines.corpus.reader import load_manifest, read_corpus
from castor.pipelines.document import content_id
from castor.pipelines.execution import explain, launcher, replay
from castor.pipelines.sourcecode.repository_layout import Layout
from castor.pipelines.tokenization.examples import split_of, split_thresholds
from castor.tasks.errors import ConfigurationError

BAD_PAGE = b"<html>\x00\x00\x00abc"
GOOD_PAGE = b"<html><body><p>A page with a sentence of its own, and one more.</p></body></html>"
JOBS = {"web": web.Job, "code": code.Job, "image": image.Job, "audio": audio.Job, "video": video.Job}


def run(kind, root, output, identity="content", **options):
    inputs = options.pop("inputs", ("**/*",))
    job = JOBS[kind](
        name=kind, input_root=str(root), inputs=inputs, output=str(output), num_shards=2, identity=identity, **options
    )
    return launcher.run(job, quiet=True)


def shards(output):
    """{file: its rows in order without `source`, repository documents also without their members' sources}."""
    found = {}
    for path in sorted(pathlib.Path(output).glob("documents-*.parquet")):
        rows = pyarrow.parquet.read_table(path).drop_columns(["source"]).to_pylist()
        for row in rows:
            row["metadata"] = json.loads(row["metadata"])
            for member in row["metadata"].get("members", ()):
                del member["source"]
        found[path.name] = rows
    return found


def ids(output):
    return [row["id"] for rows in shards(output).values() for row in rows]


def splits(output):
    thresholds = split_thresholds({"train": 0.5, "validation": 0.5})
    return {name: split_of(0, name, thresholds) for name in ids(output)}


def gzip_members(data):
    while data:
        inflate = zlib.decompressobj(31)
        inflate.decompress(data)
        yield data[: len(data) - len(inflate.unused_data)]
        data = inflate.unused_data


def tar_members(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return [(member, archive.extractfile(member).read()) for member in archive if member.isfile()]


def tar_of(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member, data in members:
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def by_sample(member):
    return member[0].name.partition(".")[0]


def rearrange(kind, source, target):
    """Moves the records of a folder of raw files to other files, names and positions."""
    target.mkdir(parents=True)
    files = sorted(path for path in source.iterdir() if path.is_file())
    if kind == "web":
        pages = [page for path in files for page in gzip_members(path.read_bytes())]
        (target / "b").mkdir()
        (target / "a.warc.gz").write_bytes(b"".join(pages[::-2]))
        (target / "b" / "z.warc.gz").write_bytes(b"".join(pages[-2::-2]))
    elif kind == "code":
        for number, path in enumerate(files):
            members = tar_members(gzip.decompress(path.read_bytes()))
            (target / f"r{(number * 7) % len(files)}.tgz").write_bytes(gzip.compress(tar_of(members[::-1])))
    elif kind in ("image", "audio"):
        members = [member for path in files for member in tar_members(path.read_bytes())]
        (target / "all.tar").write_bytes(tar_of(sorted(members, key=by_sample, reverse=True)))
    else:
        stems = sorted({path.stem for path in files})
        for path in files:
            shutil.copy(path, target / f"film{len(stems) - stems.index(path.stem)}{path.suffix}")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo's raw files, reduced; four repositories of code."""
    folder = tmp_path_factory.mktemp("demo")
    DemoCorpus(images=12, sounds=8, clips=3, pages=24).make(str(folder / "raw"))
    for path in sorted((folder / "raw" / "code").iterdir())[4:]:
        path.unlink()
    return folder


@pytest.fixture(scope="module")
def corpora(demo):
    """{kind: (manifest, output)} of the demo's corpora with ids by content."""
    return {kind: (run(kind, demo / "raw" / kind, demo / "by" / kind), demo / "by" / kind) for kind in JOBS}


@pytest.mark.parametrize("kind", JOBS)
def test_names_and_order_of_raw_files_change_nothing_but_sources(kind, demo, corpora, tmp_path):
    manifest, before = corpora[kind]
    rearrange(kind, demo / "raw" / kind, tmp_path / "raw")
    after = run(kind, tmp_path / "raw", tmp_path / "out")
    assert ids(before) and shards(tmp_path / "out") == shards(before)
    assert splits(tmp_path / "out") == splits(before)
    assert after["funnel"] == manifest["funnel"]


@pytest.mark.parametrize("kind", JOBS)
def test_an_exact_copy_is_the_same_document(kind, demo, corpora, tmp_path):
    manifest, before = corpora[kind]
    shutil.copytree(demo / "raw" / kind, tmp_path / "raw" / "one")
    shutil.copytree(demo / "raw" / kind, tmp_path / "raw" / "two")
    options = {}
    if kind == "code":  # a folder under the root would be a repository
        for path in (tmp_path / "raw").glob("*/*"):
            path.rename(tmp_path / "raw" / f"{path.parent.name}-{path.name}")
        options = {"inputs": ("*.tar.gz",)}
    after = run(kind, tmp_path / "raw", tmp_path / "out", **options)
    assert shards(tmp_path / "out") == shards(before)
    funnel, single = after["funnel"], manifest["funnel"]
    assert funnel["read"] == 2 * single["read"] and funnel["kept"] == single["kept"]
    assert funnel["duplicates"]["id"] == single["kept"] + sum(single["duplicates"].values())
    assert {d.source for d in read_corpus(str(tmp_path / "out")) if d.source.startswith("two")} == set()


def test_repository_documents_of_copied_and_overlapping_archives(demo, tmp_path):
    (tmp_path / "raw" / "b").mkdir(parents=True)
    archives = sorted((demo / "raw" / "code").iterdir())[:2]
    for path in archives:
        shutil.copy(path, tmp_path / "raw" / path.name)
    single = run("code", tmp_path / "raw", tmp_path / "single", inputs=("**/*.tar.gz",), repositories=Layout())
    # The same archive under the same name in another folder, and most of the other one again.
    shutil.copy(archives[0], tmp_path / "raw" / "b" / archives[0].name)
    members = tar_members(gzip.decompress(archives[1].read_bytes()))
    (tmp_path / "raw" / "b" / "part.tar.gz").write_bytes(gzip.compress(tar_of([*members[1:], members[1]])))
    twice = run("code", tmp_path / "raw", tmp_path / "twice", inputs=("**/*.tar.gz",), repositories=Layout())
    assert (
        twice["funnel"]["read"] == 2 * single["funnel"]["read"] and twice["funnel"]["kept"] >= single["funnel"]["kept"]
    )

    def files(output):
        return sorted(m["id"] for d in read_corpus(str(output)) for m in d.metadata["members"])

    assert len(files(tmp_path / "twice")) == len(set(files(tmp_path / "twice")))
    # Renaming chooses the same homes: documents and their texts stay.
    os.rename(tmp_path / "raw" / "b" / "part.tar.gz", tmp_path / "raw" / "0.tar.gz")
    os.rename(tmp_path / "raw" / "b" / archives[0].name, tmp_path / "raw" / "b" / "z.tar.gz")
    run("code", tmp_path / "raw", tmp_path / "renamed", inputs=("**/*.tar.gz",), repositories=Layout())
    assert shards(tmp_path / "renamed") == shards(tmp_path / "twice")


@pytest.mark.parametrize("identity", ["location", "content"])
def test_the_spelling_of_the_input_root_changes_no_parquet_byte(identity, demo, tmp_path, monkeypatch):
    (tmp_path / "raw").mkdir()
    path = min((demo / "raw" / "code").iterdir(), key=lambda path: path.stat().st_size)
    shutil.copy(path, tmp_path / "raw")
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path / "raw", filter="data")
    (tmp_path / "raw" / "loose.py").write_text("import json\n\nprint(json.dumps({'some': 'thing'}))\n" * 3)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("raw")
    spellings = [str(tmp_path / "raw"), f"{tmp_path}/raw/", "raw", "./raw/", "../" + tmp_path.name + "/raw/."]
    shutil.copytree("raw", "moved/raw")  # a folder of the same name, elsewhere
    found = []
    for number, root in enumerate([*spellings, "moved/raw", *(["link"] if identity == "content" else [])]):
        run("code", root, f"out{number}", identity)
        found.append(
            {
                str(p.relative_to(f"out{number}")): p.read_bytes()
                for p in pathlib.Path(f"out{number}").rglob("*.parquet")
            }
        )
    assert all(other == found[0] for other in found) and found[0]
    sources = {d.source for d in read_corpus("out0")}
    assert sources and not any("raw" in source for source in sources)
    assert [outcome.source for outcome in outcomes.find("out0", source="loose.py")] == ["loose.py"]
    # A user may name a record by any of them.
    config = load_manifest("out2")["config"]
    for root in (str(tmp_path / "raw"), "raw"):
        assert explain.source_in(config, f"{root}/loose.py") == "loose.py"
    assert explain.source_in(config, "loose.py") == "loose.py"


@pytest.mark.parametrize("identity", ["location", "content"])
def test_dead_letters_are_explained_and_replayed(identity, tmp_path):
    root, output = tmp_path / "pages", str(tmp_path / "out")
    root.mkdir()
    for name, page in (("a", BAD_PAGE), ("b", BAD_PAGE), ("c", GOOD_PAGE), ("d", GOOD_PAGE)):
        (root / f"{name}.html").write_bytes(page)
    (root / "e.jsonl").write_text('{"text": "one line"}\n{broken\n')
    made = run("web", root, output, identity, filters=(), duplicates=(), dead_letter_threshold=1.0)
    letters = list(dead_letters.read(output))
    assert sorted(x.source for x in letters) == ["a.html", "b.html", "e.jsonl#line=2"]
    assert len({x.id for x in letters}) == (3 if identity == "location" else 2)
    assert made["funnel"]["kept"] == (3 if identity == "location" else 2)
    assert made["funnel"]["duplicates"] == ({} if identity == "location" else {"id": 1})
    for name in ("a.html", "b.html"):
        (outcome,) = outcomes.find(output, source=name)
        steps = list(explain.again(output, load_manifest(output), outcome))
        assert steps[0].result.source == name and steps[-1].result.error == "charset"
    # What follows the broken line has no outcome yet, although its content occurs before it.
    (root / "e.jsonl").write_text('{"text": "one line"}\n{"text": "mended"}\n{"text": "one line"}\n')
    again = launcher.run(replay.make_job(output, str(tmp_path / "again")), quiet=True)["funnel"]
    assert again["read"] == 4 and again["kept"] == 2 and sum(again["dead_letters"].values()) == 2
    assert {d.text for d in read_corpus(str(tmp_path / "again"))} == {"mended", "one line"}


def test_ids_by_content_tell_apart_what_later_steps_can_tell_apart():
    base = ("c", "text", "a", None, {"url": "u"})
    others = [
        ("d", *base[1:]), ("c", "code", *base[2:]), ("c", "text", "b", None, {"url": "u"}), ("c", "text", None, b"a", {"url": "u"}),
        ("c", "text", "a", b"", {"url": "u"}), ("c", "text", "a", None, {"url": "v"}), ("c", "text", "a", None, {}), (*base, "rejected"),
    ]  # fmt: skip
    assert len({content_id(*parts) for parts in [base, *others]}) == len(others) + 1
    assert content_id("c", "text", "a", None, {"b": [1], "a": {"y": 1, "x": 2}}) == content_id(
        "c", "text", "a", None, {"a": {"x": 2, "y": 1}, "b": (1,)}
    )
    assert content_id(*base) == "6ce7e3d122dc0c1c913e018505386c39"


def test_an_unknown_identity_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="IDENTITY is 'name'.*location, content"):
        web.Job(name="web", input_root="in", inputs=("*",), output="out", identity="name")


@pytest.mark.parametrize("kind", ["image", "audio", "video"])
def test_real_media_under_other_names(kind, real_data, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    sizes = sorted((p.stat().st_size, p) for p in (real_data / kind).iterdir() if p.suffix in (".tar", ".mp4", ".webm"))
    for _, path in sizes[:3]:
        for sidecar in path.parent.glob(f"{path.stem}.*"):
            shutil.copy(sidecar, raw)
    first = run(kind, raw, tmp_path / "first", filters=())
    rearranged = tmp_path / "other"
    rearranged.mkdir()
    for number, stem in enumerate(sorted({p.name.partition(".")[0] for p in raw.iterdir()}, reverse=True)):
        for path in raw.glob(f"{stem}.*"):
            shutil.copy(path, rearranged / f"n{number}{path.name.removeprefix(stem)}")
    second = run(kind, rearranged, tmp_path / "second", filters=())
    assert first["funnel"] == second["funnel"] and first["funnel"]["kept"]
    assert shards(tmp_path / "first") == shards(tmp_path / "second")

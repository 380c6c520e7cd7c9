"""The demo's corpus: all five kinds, readable by anyone, the same bytes each time."""

import hashlib
import pathlib
import tarfile

import pytest

from castor.launch.recipes.demo_corpus import DemoCorpus

SMALL = DemoCorpus(images=4, sounds=5, clips=2, pages=6)


def checksums(folder: pathlib.Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> pathlib.Path:
    """A folder with the small corpus in it. Only to be read."""
    root = tmp_path_factory.mktemp("made")
    SMALL.make(str(root / "a"))
    return root / "a"


def test_it_is_the_same_each_time_and_made_once(made, tmp_path):
    items = SMALL.make(str(tmp_path / "a"))
    assert (
        items["image"] == 4
        and items["audio"] == 5
        and items["video"] == 2
        and items["web"] == 8
        and items["code"] > 100
    )
    assert checksums(tmp_path / "a") == checksums(made)
    before = (tmp_path / "a" / "corpus.json").stat().st_mtime_ns
    assert SMALL.make(str(tmp_path / "a")) == items
    assert (tmp_path / "a" / "corpus.json").stat().st_mtime_ns == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"], "no partial folder is left"


def test_another_size_replaces_it(made, tmp_path):
    import dataclasses
    import shutil

    shutil.copytree(made, tmp_path / "a")
    items = dataclasses.replace(SMALL, images=2).make(str(tmp_path / "a"))
    assert items["image"] == 2


def test_samples_pair_a_file_with_its_caption(made):
    import av

    with tarfile.open(made / "image" / "samples-00000.tar") as archive:
        names = archive.getnames()
    assert names[:2] == ["drawn-00000.png", "drawn-00000.txt"] and len(names) == 8
    with av.open(str(made / "video" / "clip-00000.mp4")) as container:
        assert {stream.type for stream in container.streams} == {"video", "audio"}
        assert sum(1 for _ in container.decode(video=0)) == 24
    assert "moves from" in (made / "video" / "clip-00000.txt").read_text()

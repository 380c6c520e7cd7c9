import collections
import tarfile

import pytest
import small_media

from castor.pipelines.document import DeadLetter, Document
from castor.pipelines.readers.media_source import MediaSource

JPEG = small_media.encode_picture(small_media.picture())


def elements(tmp_path, modality="image", patterns=("**/*",), **options):
    source = MediaSource("test", str(tmp_path), tuple(patterns), modality, **options)
    return [element for uri in source.files() for element in source.read(uri)]


def summary(found):
    return collections.Counter("document" if isinstance(e, Document) else e.error for e in found)


def test_a_sound_tar(tmp_path):
    (tmp_path / "s.tar").write_bytes(
        small_media.tar(
            [
                ("x/0.jpg", JPEG),
                ("x/0.txt", b"a caption"),
                ("x/0.json", b'{"license": "MIT"}'),
                ("x/0.cls", b"7"),
                ("x/1.png", b"p"),
            ]
        )
    )
    first, second = elements(tmp_path)
    assert (
        first.text == "a caption"
        and first.bytes == JPEG
        and first.modality == "image"
        and first.source == "s.tar#member=x/0.jpg"
    )
    assert first.metadata == {
        "text_from": "txt",
        "sidecar": {"license": "MIT"},
        "licence": "MIT",
        "extension": "jpg",
        "other_parts": ["cls"],
    }
    assert second.text is None and second.bytes == b"p" and first.id != second.id


def test_ids_do_not_depend_on_where_the_root_is(tmp_path):
    ids = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "s.tar").write_bytes(small_media.tar([("0.jpg", JPEG)]))
        ids.append(elements(tmp_path / folder)[0].id)
    assert ids[0] == ids[1]


def test_everything_in_a_broken_tar_is_accounted_for(tmp_path):
    link, fifo = tarfile.TarInfo("link"), tarfile.TarInfo("fifo")
    link.type, link.linkname, fifo.type = tarfile.SYMTYPE, "/etc", tarfile.FIFOTYPE
    content = [
        ("000000.jpg", JPEG),
        ("000000.json", b'{"caption": "ok"}'),
        ("000001.json", b"{}"),
        ("000002.jpg", JPEG),
        ("000004.jpg", JPEG),
        ("000004.json", b"{not json"),
        ("000000.jpg", JPEG),
        ("000000.json", b"{}"),
        ("a/b.c/000005.tar.gz.jpg", JPEG),
        ("000006.JPG", JPEG),
        ("000007", JPEG),
        ("café 8.jpg", JPEG),
        ("000009.txt", b"caf\xe9"),
        ("../../evil.txt", b"evil"),
        ("/tmp/evil.txt", b"evil"),
        link,
        ("link/evil.txt", b"evil"),
        fifo,
        ("000010.jpg", JPEG),
        ("000010.txt", b"\xff\xfe"),
        ("000011.jpg", JPEG),
        ("000011.jpg", JPEG),
    ]
    (tmp_path / "broken.tar").write_bytes(small_media.tar(content, tarfile.PAX_FORMAT))
    found = elements(tmp_path)
    assert [e.source.partition("#member=")[2] for e in found if isinstance(e, Document)] == [
        "000000.jpg", "000002.jpg", "a/b.c/000005.tar.gz.jpg", "000006.JPG", "café 8.jpg", "000011.jpg",
    ]  # fmt: skip
    assert summary(found) == {
        "document": 6, "missing_media": 4, "bad_json": 1, "repeated_key": 2, "unsafe_name": 2, "not_a_file": 2, "bad_text": 1,
    }  # fmt: skip
    ids = [e.id for e in found]
    assert len(set(ids)) == len(ids)


def test_two_media_files_of_one_sample_are_two_records(tmp_path):
    (tmp_path / "s.tar").write_bytes(
        small_media.tar([("0.left.jpg", JPEG), ("0.right.jpg", JPEG), ("0.txt", b"two views")])
    )
    found = elements(tmp_path)
    assert [e.text for e in found] == ["two views"] * 2 and found[0].id != found[1].id


def test_a_torn_member_takes_its_sample_along_and_no_other(tmp_path):
    data = small_media.tar([("0.jpg", JPEG), ("0.txt", b"a"), ("1.txt", b"b"), ("1.jpg", JPEG)])
    (tmp_path / "cut.tar").write_bytes(data[: data.rindex(JPEG) + len(JPEG) // 2])
    found = elements(tmp_path)
    assert [e.text for e in found if isinstance(e, Document)] == ["a"]
    assert [(e.error, e.source.partition("#")[2]) for e in found if isinstance(e, DeadLetter)] == [
        ("truncated", "member=1.jpg")
    ]


def test_a_folder_of_media_with_sidecars(tmp_path):
    folder = tmp_path / "films"
    folder.mkdir()
    for name, content in {
        "a.mp4": b"1", "a.webm": b"2", "a.vtt": b"WEBVTT\n\n00:00.000 --> 00:01.000\nhello\n", "a.mp4.json": b'{"title": "A"}',
        "b.MP4": b"3",
        "b.json": b'{"title": "B"}', "alone.vtt": b"WEBVTT", "c.avi": b"4", "noext": b"5", "bad.mkv": b"6", "bad.json": b"[]",
    }.items():  # fmt: skip
        (folder / name).write_bytes(content)
    found = elements(tmp_path, "video")
    documents = {e.source.rpartition("/")[2]: e for e in found if isinstance(e, Document)}
    assert {name: e.text for name, e in documents.items()} == {"a.mp4": "A\nhello", "a.webm": "hello", "b.MP4": "B"}
    letters = {e.source.rpartition("/")[2]: e.error for e in found if isinstance(e, DeadLetter)}
    assert letters == {
        "alone.vtt": "missing_media",
        "c.avi": "unsupported_format",
        "noext": "unsupported_format",
        "bad.mkv": "bad_json",
    }


def test_files_over_the_limit_stay_unread(tmp_path):
    (tmp_path / "a.jpg").write_bytes(bytes(2000))
    (tmp_path / "s.tar").write_bytes(small_media.tar([("0.jpg", bytes(2000)), ("0.txt", b"x"), ("1.jpg", JPEG[:900])]))
    assert summary(elements(tmp_path, max_bytes=1000)) == {"too_large": 2, "document": 1}


@pytest.mark.parametrize("content", [b"", b"<html></html>" * 100, bytes(1024)])
def test_what_is_no_tar(tmp_path, content):
    (tmp_path / "s.tar").write_bytes(content)
    assert not any(isinstance(e, Document) for e in elements(tmp_path))

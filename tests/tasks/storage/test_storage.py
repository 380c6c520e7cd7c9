"""Storage: files appear whole or not at all, JSON has one form, missing things are quiet where they may be."""

import gc
import os

import numpy as np
import pytest
from small_caches import full_disk

from castor.tasks.storage import storage


def test_atomic_writes_leave_the_old_file_or_the_new(tmp_path, monkeypatch):
    path = tmp_path / "file"
    storage.write_bytes_atomic(path, b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(storage.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        storage.write_bytes_atomic(path, b"new")
    assert path.read_bytes() == b"old" and storage.list_files(tmp_path) == ["file"]


def test_json_has_one_form(tmp_path):
    storage.write_json_atomic(tmp_path / "a", {"b": [1], "a": None})
    assert (tmp_path / "a").read_bytes() == b'{\n "a": null,\n "b": [\n  1\n ]\n}\n'
    assert storage.read_json(tmp_path / "a") == {"a": None, "b": [1]}
    with pytest.raises(ValueError):
        storage.write_json_atomic(tmp_path / "a", float("nan"))
    (tmp_path / "deep").write_bytes(b"[" * 100_000)
    with pytest.raises(ValueError):
        storage.read_json(tmp_path / "deep")


def test_hashing_writer(tmp_path):
    with storage.HashingWriter(tmp_path / "file") as file:
        file.write(b"cas")
        file.write(b"tor")
        assert not (tmp_path / "file").exists()
    assert (tmp_path / "file").read_bytes() == b"castor" and file.bytes_written == 6
    assert file.hexdigest() == storage.sha256(tmp_path / "file")
    with pytest.raises(KeyError), storage.HashingWriter(tmp_path / "other") as file:
        file.write(b"x")
        raise KeyError
    assert storage.list_files(tmp_path) == ["file"]


def test_what_is_not_there(tmp_path):
    storage.remove(tmp_path / "nothing")
    storage.remove_tree(tmp_path / "nothing")
    assert storage.list_files(tmp_path / "nothing") == [] and not storage.exists(tmp_path / "nothing")
    (tmp_path / "empty").write_bytes(b"")
    assert bytes(storage.map_bytes(tmp_path / "empty")) == b""


def test_a_full_disk_leaves_nothing_behind(tmp_path):
    path = tmp_path / "file"
    storage.write_bytes_atomic(path, b"old")
    for sync in (True, False):
        with full_disk(100), pytest.raises(OSError):
            storage.write_bytes_atomic(path, bytes(10_000), sync=sync)
    with full_disk(100), pytest.raises(OSError), storage.HashingWriter(tmp_path / "other") as file:
        file.write(bytes(1000))  # fits in the buffer: found out when the file is closed
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def test_identity_tells_files_apart(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    known = storage.identity(path)
    assert known.size == 3 and storage.is_unchanged(path, known)
    (tmp_path / "new").write_bytes(b"two")
    (tmp_path / "new").rename(path)
    assert not storage.is_unchanged(path, known)
    for change in (lambda: os.truncate(path, 2), lambda: os.utime(path, (1, 1)), path.unlink):
        known = storage.identity(path)
        change()
        assert not storage.is_unchanged(path, known)
    with pytest.raises(OSError):
        storage.identity(path)


def test_a_mapping_lives_as_long_as_any_part_of_it(tmp_path):
    content = np.arange(5000, dtype=np.uint32).tobytes()
    (tmp_path / "file").write_bytes(content)
    data = storage.map_bytes(tmp_path / "file")
    assert data.tobytes() == content and bytes(memoryview(data)[5:9]) == content[5:9]
    with pytest.raises(ValueError):
        data[0] = 1
    part = data[8:16].view(np.uint32)
    (tmp_path / "file").unlink()
    del data
    gc.collect()
    assert part.tolist() == [2, 3]
    with pytest.raises(OSError):
        storage.map_bytes(tmp_path / "file")


def test_reading_json_leaves_the_collector_as_it_was(tmp_path):
    (tmp_path / "a").write_text("{")
    for enabled in (True, False):
        gc.enable() if enabled else gc.disable()
        try:
            with pytest.raises(ValueError):
                storage.read_json(tmp_path / "a")
            assert gc.isenabled() == enabled
        finally:
            gc.enable()


@pytest.mark.parametrize("links", (True, False))
def test_copies_are_whole_and_their_own(tmp_path, monkeypatch, links):
    """Also where the file system has no hard links."""

    def no_links(*names):
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    for name in ("a", "b/c"):
        storage.makedirs((tmp_path / "original" / name).parent)
        storage.write_bytes_atomic(tmp_path / "original" / name, name.encode())
    storage.copy(tmp_path / "original", tmp_path / "copied", ("a", "b/c"))
    storage.write_bytes_atomic(tmp_path / "copied" / "a", b"changed")
    assert storage.read_bytes(tmp_path / "original" / "a") == b"a"
    assert storage.read_bytes(tmp_path / "copied" / "b" / "c") == b"b/c"

"""Storage: files appear whole or not at all, JSON has one form, missing things are quiet where they may be."""

import pytest

from tasks import storage


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

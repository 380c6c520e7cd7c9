"""Repositories: files with their licences out of folders and archives, and nothing that reaches outside."""

import gzip
import io
import os
import tarfile

import pytest

from castor.pipelines.document import BadInput, Document, Rejection
from castor.pipelines.filters import licence
from castor.pipelines.readers.repository_source import RepositorySource
from castor.pipelines.sourcecode import licences
from castor.pipelines.sourcecode.parse import Parse, decode

MIT = """MIT License

Copyright (c) 2020 Somebody

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""
GPL_NOTICE = "This program is free software: you can redistribute it under the terms of the GNU General Public License as published by the FSF."
CODE = "def lend(book, reader):\n    reader.books.append(book)\n    return reader\n"


def tar(path, members):
    """members: (name, bytes | type of link, ...)"""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes) and content not in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content, "/etc/passwd"
                archive.addfile(info)


def read(root, uri=None, **options):
    source = RepositorySource("code", str(root), ("**",), **options)
    return [e for u in ([uri] if uri else source.files()) for e in source.read(u)]


def outcomes(elements):
    result = {}
    for e in elements:
        d = e.document if isinstance(e, Rejection) else e
        key = d.source.partition("member=")[2] or d.source.rpartition("/")[2]
        result[key] = (
            tuple(e.metadata["licences"])
            if isinstance(e, Document)
            else e.reason
            if isinstance(e, Rejection)
            else e.error
        )
    return result


def test_archive(tmp_path):
    members = [
        ("r/a.py", CODE.encode()),
        ("r/LICENSE", MIT.encode()),
        ("r/vendor/COPYING", GPL_NOTICE.encode()),
        ("r/vendor/deep/b.c", b"int main() { return 0; }"),
        ("r/empty.py", b" \n"),
        ("r/big.py", b"x" * 5000),
        ("r/a.py", b"again = 1  # a second member of the name"),
        ("r/.git/config", b"[core]"),
        ("../outside.py", CODE.encode()),
        ("/tmp/absolute.py", CODE.encode()),
        ("r/x/../../y.py", CODE.encode()),
        ("r/new\nline.py", CODE.encode()),
        ("r/link.py", tarfile.SYMTYPE),
        ("r/hard.py", tarfile.LNKTYPE),
        ("r/pipe", tarfile.FIFOTYPE),
    ]
    tar(tmp_path / "r@1.tar.gz", members)
    elements = read(tmp_path, max_file_bytes=4000)
    assert outcomes(elements) == {
        "r/a.py": ("MIT",),
        "r/LICENSE": ("MIT",),
        "r/vendor/COPYING": ("GPL-3.0",),
        "r/vendor/deep/b.c": ("GPL-3.0",),
        "r/empty.py": "code.empty",
        "r/big.py": "code.too_large",
        "r/a.py;2": ("MIT",),
        "r/.git/config": "code.not_source",
        "../outside.py": "code.unsafe_path",
        "/tmp/absolute.py": "code.unsafe_path",
        "r/x/../../y.py": "code.unsafe_path",
        "r/new\nline.py": "code.unsafe_path",
        "r/link.py": "code.not_a_file",
        "r/hard.py": "code.not_a_file",
        "r/pipe": "code.not_a_file",
    }
    assert (
        elements[0].metadata
        == {"path": "r/a.py", "repository": "r@1", "licence": "MIT", "licences": ["MIT"], "licence_from": ["r/LICENSE"]}
        and len({e.id for e in elements if isinstance(e, Document)}) == 5
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r@1.tar.gz"]


def test_damaged_archives_give_what_is_sound(tmp_path):
    tar(tmp_path / "r.tar.gz", [(f"r/{i}.py", os.urandom(20_000)) for i in range(5)])
    whole = (tmp_path / "r.tar.gz").read_bytes()
    (tmp_path / "r.tar.gz").write_bytes(whole[: len(whole) // 2])
    found = outcomes(read(tmp_path))
    assert found["r/0.py"] == () and "truncated_gzip" in found.values() and len(found) >= 3
    (tmp_path / "r.tar.gz").write_bytes(b"no gzip")
    assert list(outcomes(read(tmp_path)).values()) == ["not_gzip"]
    (tmp_path / "r.tar.gz").write_bytes(b"")
    assert list(outcomes(read(tmp_path)).values()) == ["empty"]
    (tmp_path / "r.tar.gz").write_bytes(gzip.compress(bytes(3 << 20)))
    assert list(outcomes(read(tmp_path, max_archive_bytes=1 << 20)).values()) == ["too_large"]


def test_folders(tmp_path):
    for path, content in {
        "one/LICENSE": MIT,
        "one/src/a.py": CODE,
        "two/b.py": CODE + "# two",
        "two/sub/LICENSE.txt": GPL_NOTICE,
        "two/sub/c.py": CODE,
        "top.py": CODE + "# top",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    (tmp_path / "one" / "loop").symlink_to("loop")
    (tmp_path / "one" / "away").symlink_to("/etc")
    os.mkfifo(tmp_path / "one" / "pipe.py")
    source = RepositorySource("code", str(tmp_path), ("**/*.py", "one/loop"))
    assert source.files() == [f"{tmp_path}/./", f"{tmp_path}/one/", f"{tmp_path}/two/"]
    found = {
        (e.document if isinstance(e, Rejection) else e).source.removeprefix(f"{tmp_path}/"): e
        for u in source.files()
        for e in source.read(u)
    }
    summary = {k: e.metadata["licences"] if isinstance(e, Document) else e.reason for k, e in found.items()}
    assert summary == {
        "top.py": [],
        "one/src/a.py": ["MIT"],
        "one/pipe.py": "code.not_a_file",
        "one/loop": "code.not_a_file",
        "two/b.py": [],
        "two/sub/c.py": ["GPL-3.0"],
    }
    assert found["one/src/a.py"].metadata["repository"] == "one" and found["one/src/a.py"].id == source.record_id(
        f"{tmp_path}/one/src/a.py", ""
    )
    (tmp_path / "LICENSE").write_text(MIT)  # of the root: governs what has none of its own
    again = [
        e.metadata.get("licences")
        for e in read(tmp_path, f"{tmp_path}/two/")
        if isinstance(e, Document) and e.source.endswith("b.py")
    ]
    assert again == [["MIT"]]


def test_licence_texts():
    assert licences.identify_text(MIT) == ("MIT",)
    assert licences.identify_text("Preamble of the authors.\n" * 30 + MIT) == ("MIT",)
    assert (
        licences.identify_text("All rights reserved.")
        == (licences.UNKNOWN,)
        == licences.identify_text("")
        == licences.identify_text("x" * 100_000)
    )
    assert licences.identify_text(MIT + "\n" + GPL_NOTICE) == ("GPL-3.0", "MIT")
    assert licences.identify_text("SPDX-License-Identifier: Apache-2.0 OR MIT") == ("Apache-2.0", "MIT")


@pytest.mark.parametrize(
    "path, folder",
    [
        ("r/LICENSE", "r"),
        ("r/COPYING.LESSER", "r"),
        ("r/LICENSES/MIT.txt", "r"),
        ("site-packages/x-1.0.dist-info/licenses/LICENSE", "site-packages"),
        ("r/LICENSE-APACHE", "r"),
        ("r/UNLICENSE", "r"),
        ("r/licence.md", "r"),
    ],
)
def test_licence_files(path, folder):
    assert licences.is_licence_file(path) and licences.governed_folder(path) == folder


def test_what_is_no_licence_file():
    for path in (
        "r/license.py",
        "r/licensed.txt",
        "r/licenses/AUTHORS.rst",
        "r/NOTICE",
        "r/license_check.sh",
        "r/src/a.py",
    ):
        assert not licences.is_licence_file(path)


@pytest.mark.parametrize(
    "expression, verdict",
    [
        ("MIT", True),
        ("GPL-2.0-only", False),
        ("MIT OR GPL-2.0-only", True),
        ("MIT AND GPL-2.0-only", False),
        ("(MIT OR GPL-2.0) AND Apache-2.0", True),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("MIT AND", False),
        ("(MIT", False),
        ("MIT)", False),
        ("", False),
        ("(" * 200 + "MIT", False),
    ],
)
def test_expressions(expression, verdict):
    assert licences.allows(expression, frozenset(licences.PERMISSIVE)) is verdict


def source_document(text, path="r/a.py", language="python", licences_=("MIT",)):
    return Document(
        "0" * 32, "s", "code", text, None, {"path": path, "language": language, "licences": list(licences_)}
    )


def test_licence_rule():
    check = licence.Filter().check
    assert check(source_document(CODE)) is None
    assert check(source_document(CODE, licences_=())) == "licence.none"
    assert check(source_document(CODE, licences_=("MIT", "unknown"))) == "licence.unknown"
    assert check(source_document(CODE, licences_=("MIT", "GPL-3.0"))) == "licence.not_permissive"
    assert check(source_document("/* SPDX-License-Identifier: GPL-2.0-only */\n" + CODE)) == "licence.of_file"
    assert check(source_document("/* SPDX-License-Identifier: MIT */\n" + CODE)) is None


def parse(path, data):
    return Parse()(Document("0" * 32, "s", "code", None, data, {"path": path}))


@pytest.mark.parametrize(
    "path, data, language",
    [
        ("a.py", CODE.encode(), "python"),
        ("a.h", b"struct book { int pages; };", "c"),
        ("a.h", b"namespace library { class Book {}; }", "c++"),
        ("Makefile", b"all:\n\techo", "makefile"),
        ("run", b"#!/usr/bin/env python3\nprint()", "python"),
        ("run", b"#!/bin/bash\necho", "bash"),
        ("a.rs", b"fn main() {}", "rust"),
        ("README", b"Words.", "text"),
        ("a.hs", b"main = print 1", "haskell"),
    ],
)
def test_language_by_name_and_content(path, data, language):
    assert parse(path, data).metadata["language"] == language


def test_encodings_and_binaries():
    assert parse("a.cs", "class A {}".encode("utf-16")).text == "class A {}"
    assert parse("a.c", b"/* caf\xe9 */ int x;").text == "/* caf\xe9 */ int x;"
    assert decode("# -*- coding: cp1251 -*-\n# привет мир\n".encode("cp1251")) == (
        "# -*- coding: cp1251 -*-\n# привет мир\n",
        "cp1251",
    )
    assert parse("a.py", b"a\r\nb\rc\n").text == "a\nb\nc\n"
    assert (
        parse("a.py", b"\x00\x01\x02\x03\x04 binary").reason
        == "code.binary"
        == parse("a.py", b"abc" * 5000 + b"\0").reason
    )
    assert (
        parse("a.py", b"\x01\x02\x03\x04").reason == "code.binary"
        and parse("a.py", b"\x01\x02\x03\x04").measure == "4 control characters"
    )
    assert parse("a.py", b"\x00\x01\x02\x03\x04 binary").measure == "1 zero bytes"
    assert parse("a.unheardof", b"text").reason == "code.unknown_language"
    with pytest.raises(BadInput, match="charset"):
        parse("a.py", bytes(range(128, 256)) * 9)

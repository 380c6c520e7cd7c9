"""Which of a repository's files decides: sidecars, REUSE, licence texts by folder, manifests."""

import pytest

from castor.pipelines.sourcecode import licences
from castor.pipelines.sourcecode.licence_files import NOTHING, Governing, speaks

MIT = "Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation files"
APACHE = "Apache License\nVersion 2.0, January 2004\n"
GPL = (
    "GNU GENERAL PUBLIC LICENSE\nEveryone is permitted to copy and distribute verbatim copies of this license document"
)


def governing(**files):
    found = Governing()
    for path, text in files.items():
        assert speaks(path), path
        found.add(path, text.encode() if text is not None else None)
    return found


def decide(files, path):
    decision = governing(**files).of(path)
    return decision.expression, decision.files


@pytest.mark.parametrize(
    "files, path, expression, decided",
    [
        ({"LICENSE": MIT}, "a/b.py", "MIT", ("LICENSE",)),
        ({"LICENSE": MIT, "vendor/x/COPYING": GPL}, "vendor/x/deep/b.c", "GPL-3.0", ("vendor/x/COPYING",)),
        ({"LICENSE": MIT, "vendor/x/COPYING": GPL}, "vendor/y/b.c", "MIT", ("LICENSE",)),
        ({"LICENSE": MIT, "NOTES-LICENSE": GPL}, "b.c", "MIT AND GPL-3.0", ("LICENSE", "NOTES-LICENSE")),
        ({"LICENSE": "SPDX-License-Identifier: MIT OR GPL-2.0-only"}, "b.c", "MIT OR GPL-2.0-only", ("LICENSE",)),
        ({"LICENSE": "You may use either LICENSE.MIT or LICENSE.GPL.", "LICENSE.MIT": MIT, "LICENSE.GPL": GPL}, "b.c", "GPL-3.0 OR MIT",
            ("LICENSE", "LICENSE.GPL", "LICENSE.MIT")),
        ({"LICENSE": "Both LICENSE.MIT and LICENSE.GPL apply.", "LICENSE.MIT": MIT, "LICENSE.GPL": GPL}, "b.c", "GPL-3.0 AND MIT", ("LICENSE",
            "LICENSE.GPL", "LICENSE.MIT")),
        ({"LICENSE": "All rights reserved."}, "b.c", licences.UNKNOWN, ("LICENSE",)),
        ({"LICENSE": None}, "b.c", licences.UNKNOWN, ("LICENSE",)),
        ({"LICENSES/CC-BY-4.0.txt": "An unknown text."}, "b.c", "CC-BY-4.0", ("LICENSES/CC-BY-4.0.txt",)),
        ({"LICENSES/MIT.txt": MIT, "b.c.license": "SPDX-License-Identifier: 0BSD"}, "b.c", "0BSD", ("b.c.license",)),
        ({"LICENSE": MIT, "REUSE.toml": 'version = 1\n[[annotations]]\npath = ["docs/**", "*.md"]\nSPDX-License-Identifier = "CC-BY-4.0"\n'},
            "docs/a/b.py", "CC-BY-4.0", ("REUSE.toml",)),
        ({"LICENSE": MIT, "REUSE.toml": 'version = 1\n[[annotations]]\npath = "docs/*"\nSPDX-License-Identifier = "CC-BY-4.0"\n'}, "docs/a/b.py",
            "MIT", ("LICENSE",)),
        ({"sub/REUSE.toml": '[[annotations]]\npath = "**"\nSPDX-License-Identifier = ["MIT", "ISC"]\n'}, "sub/x/b.py", "MIT AND ISC",
            ("sub/REUSE.toml",)),
        ({"LICENSE": MIT, ".reuse/dep5": "Format: x\n\nFiles: data/* *.csv\nCopyright: me\nLicense: CC0-1.0 or MIT\n text\n"}, "data/x/y.py",
            "CC0-1.0 OR MIT", (".reuse/dep5",)),
        ({"package.json": '{"license": "MIT"}'}, "src/a.js", "MIT", ("package.json",)),
        ({"package.json": '{"license": {"type": "ISC"}}'}, "a.js", "ISC", ("package.json",)),
        ({"Cargo.toml": '[package]\nlicense = "MIT/Apache-2.0"\n'}, "src/a.rs", "MIT OR Apache-2.0", ("Cargo.toml",)),
        ({"pyproject.toml": '[project]\nlicense = {text = "MIT License"}\n'}, "a.py", "MIT", ("pyproject.toml",)),
        ({"setup.cfg": "[metadata]\nlicense = BSD\n"}, "a.py", "BSD-3-Clause", ("setup.cfg",)),
        ({"LICENSE": GPL, "web/package.json": '{"license": "MIT"}'}, "web/a.js", "GPL-3.0", ("LICENSE",)),  # texts before declarations
        ({"package.json": "{" * 5000, "REUSE.toml": "[[", "setup.cfg": "x"}, "a.js", "", ()),
        ({"package.json": "[1]", "Cargo.toml": "package = 1", "pyproject.toml": "project = []"}, "a.js", "", ()),
    ],
)  # fmt: skip
def test_who_decides(files, path, expression, decided):
    assert decide(files, path) == (expression, decided)


def test_nothing_decides_without_files():
    assert Governing().of("a/b.py") == NOTHING


def test_ids_are_those_of_the_expression():
    assert governing(LICENSE="SPDX-License-Identifier: MIT OR (GPL-2.0-only WITH Classpath-exception-2.0 AND ISC)").of(
        "a"
    ).ids == (
        "GPL-2.0-only",
        "ISC",
        "MIT",
    )


def test_a_pattern_of_stars_is_not_slow():
    stars = governing(
        **{"REUSE.toml": '[[annotations]]\npath = "' + "*a" * 200 + '"\nSPDX-License-Identifier = "MIT"\n'}
    )
    assert stars.of("a" * 3000 + "b") == NOTHING


def test_what_speaks():
    assert all(
        map(
            speaks,
            ("LICENSE", "a/COPYING", "x.py.license", "sub/REUSE.toml", ".reuse/dep5", "web/package.json", "Cargo.toml"),
        )
    )
    assert not any(map(speaks, ("a.py", "README.md", "license.py", "dep5")))

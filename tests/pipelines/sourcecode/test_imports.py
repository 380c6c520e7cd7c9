"""What files need, language by language."""

import pytest

from castor.pipelines.sourcecode.imports import dependencies


def needs(language, files, path):
    return dependencies({p: (language, t) for p, t in files.items()})[path]


@pytest.mark.parametrize(
    "language, files, path, expected",
    [
        ("python", {"r/p/__init__.py": "", "r/p/a.py": "", "r/p/b.py": "import p.a\n"}, "r/p/b.py", ["r/p/a.py"]),
        ("python", {"r/p/__init__.py": "", "r/p/a.py": "", "r/p/b.py": "from . import a\n"}, "r/p/b.py", ["r/p/a.py"]),
        ("python", {"r/p/__init__.py": "", "r/p/a.py": "", "r/p/b.py": "from .a import (x,  # note\n  y as z)\n"}, "r/p/b.py", ["r/p/a.py"]),
        ("python", {"r/p/__init__.py": "", "r/p/s/__init__.py": "", "r/p/s/b.py": "from .. import name\n"}, "r/p/s/b.py", ["r/p/__init__.py"]),
        ("python", {"r/src/p/a.py": "", "r/src/p/b.py": "from p.a import x, y\nimport os, p.c as c\n", "r/src/p/c.py": ""}, "r/src/p/b.py",
            ["r/src/p/a.py", "r/src/p/c.py"]),
        ("python", {"flask/__init__.py": "", "flask/json/__init__.py": "", "flask/b.py": "import json\n"}, "flask/b.py", []),
            # the standard library's
        ("python", {"x/util.py": "", "y/util.py": "", "y/b.py": "import util\n"}, "y/b.py", ["y/util.py"]),
        ("python", {"a.py": "", "b.py": "def f():\n    from a import *\n# import c\n", "c.py": ""}, "b.py", ["a.py"]),
        ("javascript", {"s/a.js": "", "s/b.js": "import x from './a';\nimport 'left-pad'\n"}, "s/b.js", ["s/a.js"]),
        ("javascript", {"s/lib/index.js": "", "s/b.js": "const x = require('./lib')\n"}, "s/b.js", ["s/lib/index.js"]),
        ("ts", {"s/a.ts": "", "s/t/b.ts": "export * from '../a'\nconst x = await import('../a')\n"}, "s/t/b.ts", ["s/a.ts"]),
        ("c", {"s/a.h": "", "s/b.c": '#include <stdio.h>\n#include "a.h"\n'}, "s/b.c", ["s/a.h"]),
        ("c++", {"inc/p/a.h": "", "old/p/a.h": "", "inc/b.cc": "# include <p/a.h>\n"}, "inc/b.cc", ["inc/p/a.h"]),
        ("go", {"r/x/a.go": "", "r/x/a_test.go": "", "r/x/z.go": "",
            "r/b.go": 'package b\nimport (\n\t"fmt"\n\tq "host.invalid/me/r/x"\n)\nfunc f() { g("m/x") }\n'}, "r/b.go", ["r/x/a.go", "r/x/z.go"]),
        ("java", {"src/p/A.java": "", "src/q/B.java": "import p.A;\nimport static p.A.f;\nimport java.util.List;\n"}, "src/q/B.java",
            ["src/p/A.java"]),
        ("java", {"src/p/A.java": "", "src/p/C.java": "", "src/q/B.java": "import p.*;\n"}, "src/q/B.java", ["src/p/A.java", "src/p/C.java"]),
        ("kotlin", {"src/p/A.kt": "", "src/B.kt": "import p.A\n"}, "src/B.kt", ["src/p/A.kt"]),
        ("rust", {"src/lib.rs": "pub mod a;\nmod b;\n", "src/a.rs": "", "src/b/mod.rs": ""}, "src/lib.rs", ["src/a.rs", "src/b/mod.rs"]),
        ("rust", {"src/lib.rs": "", "src/a.rs": "", "src/b/mod.rs": "use crate::a::{X, Y};\nuse super::a::Z;\nuse std::io;\n"}, "src/b/mod.rs",
            ["src/a.rs"]),
        ("ruby", {"lib/a.rb": "", "lib/b.rb": "require_relative 'a'\nrequire 'json'\n"}, "lib/b.rb", ["lib/a.rb"]),
        ("text", {"a.txt": "", "b.txt": "import a\n"}, "b.txt", []),
        ("python", {"a.py": "import a\nimport b", "b.py": ""}, "a.py", ["b.py"]),
    ],
)  # fmt: skip
def test_what_a_file_needs(language, files, path, expected):
    assert needs(language, files, path) == expected


@pytest.mark.parametrize("language", ["python", "javascript", "c", "go", "java", "rust", "ruby"])
@pytest.mark.parametrize(
    "unit",
    [
        "import ",
        "from . import (",
        "from '",
        "#include <",
        "use crate::",
        "import a.",
        "\n",
        " ",
        "require('",
        "mod a;\n",
        '"a/b/c" ',
        "import a\n",
    ],
)
def test_traps_end(language, unit):
    assert set(needs(language, {"r/x.py": unit * (100_000 // len(unit)), "r/a.py": ""}, "r/x.py")) <= {"r/a.py"}

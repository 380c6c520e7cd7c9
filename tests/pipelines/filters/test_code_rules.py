"""Rules for source files: reported values, exact published thresholds, and files that must pass."""

import pytest

from castor.pipelines.document import Document
from castor.pipelines.filters import generated, santacoder, stack

CODE = "def lend(book, reader):\n    # one book, one reader\n    reader.books.append(book)\n    return reader\n"
VISIBLE = "<p>" + "Visible text.\n" * 20 + "</p>"


def document(text, path="r/a.py", language="python"):
    return Document("0" * 32, "s", "code", text, None, {"path": path, "language": language, "licences": ["MIT"]})


def verdict(rules, *case):
    reason = rules.check(document(*case))
    return (str(reason), reason.measure) if reason is not None else None


@pytest.mark.parametrize(
    "rule, measure, text, path, language",
    [
        ("short", "5", "x = 1", "a.py", "python"),
        ("long_line", "1001", CODE + "#" + "a" * 1000, "a.py", "python"),
        ("long_line", "501", CODE + "a" * 501, "a.fsh", "glsl"),
        ("long_lines", "101", ("#" + "a" * 100 + "\n") * 9, "a.py", "python"),
        ("few_alphanumeric", "0.1538", "ab=()[]*+-;,\n" * 3, "a.c", "c"),
        ("few_letters", "0.25", '{"a": 1}\n' * 1 + '{"abcdef": 1234567}', "a.json", "json"),
        ("extension", "rktd", CODE, "a.rktd", "racket"),
        ("data", "csv", "a,b,c\n" * 9, "a.csv", "csv"),
        ("data_size", "99", '{"name": "' + "v" * 87 + '"}', "a.json", "json"),
        ("data_size", "5001", "name: " + "v" * 9 + ("\nname: " + "v" * 13) * 249 + "\nabcde", "a.yaml", "yaml"),
        ("bidi_controls", "U+202E", CODE + "# \u202e admin", "a.py", "python"),
        ("xml", "python", "<?xml version='1.0'?>\n<a>text and more text</a>", "a.py", "python"),
        ("xml", "xml", "<?xml version='1.0'?>\n<a>text and more text</a>", "a.xml", "xml"),
        (
            "little_visible_text",
            "0 of 1140 characters",
            "<div class=a><span id=b></span></div>\n" * 30,
            "a.html",
            "html",
        ),
        (
            "little_visible_text",
            "6 of 1207 characters",
            "<p>Words.</p><script>" + "var visible = 1;\n" * 69 + "</script>   ",
            "a.html",
            "html",
        ),
    ],
)
def test_stack(rule, measure, text, path, language):
    assert verdict(stack.Filter(), text, path, language)[0] == f"stack.{rule}"
    if rule != "little_visible_text":
        assert verdict(stack.Filter(), text, path, language)[1] == measure


@pytest.mark.parametrize(
    "text, path, language",
    [
        (CODE, "a.py", "python"),
        (CODE * 9 + "#" + "a" * 999, "a.py", "python"),
        ("word " * 300, "README.md", "markdown"),  # the published table sets Markdown no limit
        (VISIBLE, "a.html", "html"),
        ('{"name": "value"}\n' * 20, "a.json", "json"),
        ('{"name": "' + "v" * 88 + '"}', "a.json", "json"),
        ("int main() { return 0; }", "a.c", "c"),
        ("<?xml version='1.0'?>\n<xsl>text and more text</xsl>", "a.xsl", "xsl"),
    ],
)
def test_stack_lets_pass(text, path, language):
    assert verdict(stack.Filter(), text, path, language) is None


def test_stack_thresholds_are_parameters():
    assert verdict(stack.Filter(line_limits={"py": 40}), CODE + "#" + "a" * 40) == ("stack.long_line", "41")
    assert verdict(stack.Filter(min_lines=10), CODE) == ("stack.lines", "4") == verdict(stack.Filter(max_lines=3), CODE)


def test_santacoder():
    bare = CODE.replace("    # one book, one reader\n", "")
    assert verdict(santacoder.Filter(), CODE) is None
    assert verdict(santacoder.Filter(), bare) == ("santacoder.few_comments", "0")
    assert verdict(santacoder.Filter(), "# " + "note " * 8 + "\nx") == ("santacoder.mostly_comments", "0.9545")
    assert verdict(santacoder.Filter(min_comments=0.0), bare) is None
    assert (
        verdict(santacoder.Filter(), "x = 1\n" * 16 + "#" * 1) is None
        and verdict(santacoder.Filter(), "x = 1\n" * 17 + "#") is not None
    )
    for path, language in (("a.c", "c"), ("a.txt", "text")):  # not asked of every language; not of text at all
        assert verdict(santacoder.Filter(), "int main() { return 0; }", path, language) is None
    assert verdict(santacoder.Filter(languages=("*",)), "int main() { return 0; }", "a.c", "c") == (
        "santacoder.few_comments",
        "0",
    )
    assert verdict(santacoder.Filter(languages=("*",)), "Words.", "a.txt", "text") is None


@pytest.mark.parametrize(
    "rule, measure, text, path, language",
    [
        ("vendored", "node_modules", CODE, "r/node_modules/left-pad/index.js", "javascript"),
        ("vendored", "third_party", CODE, "r/Third_Party/zlib/zlib.c", "c"),
        ("vendored", "jquery-3.7.1.js", CODE, "r/static/jquery-3.7.1.js", "javascript"),
        ("vendored", "x.py", CODE, "r/env/lib/python3.11/site-packages/x.py", "python"),
        ("build", "dist", CODE, "r/dist/app.js", "javascript"),
        ("build", "app.min.js", CODE, "r/app.min.js", "javascript"),
        ("build", "a.js.map", CODE, "r/a.js.map", "map"),
        ("build", "__webpack_require__(", "var a = __webpack_require__(1);\n", "r/a.js", "javascript"),
        ("lock_file", "package-lock.json", '{"a": 1}' * 30, "web/package-lock.json", "json"),
        ("lock_file", "Cargo.lock", CODE, "r/Cargo.lock", "toml"),
        ("output", "book_pb2.py", CODE, "proto/book_pb2.py", "python"),
        ("output", "ttypes.py", CODE, "r/gen-py/book/ttypes.py", "python"),
        (
            "output",
            "Generated by the protocol buffer compiler",
            "# Generated by the protocol buffer compiler.  DO NOT EDIT!\n" + CODE,
            "a.py",
            "python",
        ),
        (
            "output",
            "Code generated by mockgen. DO NOT EDIT",
            "// " + "licence\n// " * 20 + "\n// Code generated by mockgen. DO NOT EDIT.\n",
            "a.go",
            "go",
        ),
        (
            "output",
            "Autogenerated by Thrift",
            "/**\n * Autogenerated by Thrift Compiler (0.16.0)\n */\n",
            "a.js",
            "javascript",
        ),
        (
            "output",
            "OpenAPI Generator",
            '"""\n    Books\n\n    NOTE: made by OpenAPI Generator (https://openapi-generator.tech)\n"""\n',
            "a.py",
            "python",
        ),
        ("output", "this file is generated by", "# this file is generated by make.py\n" + CODE, "a.py", "python"),
        ("output", "DO NOT EDIT", "<!-- DO NOT EDIT -->\n<p>", "a.html", "html"),
        ("minified", "119", "var a=1;" * 14 + "var b=2\n" + "var a=1;" * 14 + "var b=2\n\n\n", "a.js", "javascript"),
        ("encoded", "1200", "x = '" + "QUJD" * 300 + "'\n", "a.py", "python"),
        ("encoded", "0.9099", "x = '" + "QUJD" * 25 + "5'\n" + "x=1", "a.py", "python"),
        ("encoded", "1602", "x = '" + r"\x1f" * 400 + "'\n" + "y = 1\n" * 900, "a.c", "c"),
        ("table", "0.9826", "const int a[] = {" + "1234, 5678,\n" * 80 + "};", "a.c", "c"),
        ("table", "299 of 300 lines", "names = [\n" + "    'abc', 'def',\n" * 299 + "]", "a.py", "python"),
    ],
)
def test_generated(rule, measure, text, path, language):
    assert verdict(generated.Filter(), text, path, language) == (f"generated.{rule}", measure)


@pytest.mark.parametrize(
    "text, path, language",
    [
        (CODE, "a.py", "python"),
        ("# Images generated by a model are scored here.\n" + CODE, "a.py", "python"),
        ("print('this file is generated by hand')\n" + CODE, "a.py", "python"),
        ("# Users should do not edit rights get a copy.\n" + CODE, "a.py", "python"),
        ("x = 1\n" * 6 + "# This file was generated by make.py\n", "a.py", "python"),  # too far down for a phrase
        ("# Copyright\n" * 4 + "x = [1, 2, 3, 4]\n" * 300, "a.py", "python"),
        ('[\n "a",\n' + ' "b",\n' * 500 + ' "c"]', "a.json", "json"),
        ("v" * 60 + "\n" + CODE, "vendors.py", "python"),
        (CODE, "site-packages/attr/validators.py", "python"),  # an installed distribution is a repository too
        ("body { color: red }\n" * 20, "a.css", "css"),
    ],
)
def test_written_by_hand(text, path, language):
    assert verdict(generated.Filter(), text, path, language) is None


def test_vendored_code_can_be_kept():
    assert verdict(generated.Filter(vendored=(), built=()), CODE, "r/vendor/dist/jquery.js", "javascript") is None


@pytest.mark.parametrize(
    "unit",
    [
        "a",
        "0x",
        r"\x41",
        '"',
        "<",
        "<script",
        "1.",
        "1, ",
        "[\n",
        "\n",
        " ",
        "\\",
        "=\n",
        "do not ",
        "A" * 64 + "\n",
        "0x1f, ",
        "true ",
    ],
)
def test_traps_end(unit):
    for text in (unit * (200_000 // len(unit)), (unit * (60 // len(unit) + 1) + "\n") * 3000):
        for language in ("python", "html", "javascript"):
            for rules in (generated.Filter(), stack.Filter(min_characters=0), santacoder.Filter()):
                reason = rules.check(document(text, "a.x", language))
                assert reason is None or reason.startswith(rules.name)

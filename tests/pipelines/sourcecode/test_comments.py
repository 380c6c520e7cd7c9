"""The share of comments: golden values per language, agreement with Python's own parser, and adversarial texts."""

import ast
import io
import pathlib
import tokenize

import pytest

from castor.pipelines.sourcecode.comments import _LANGUAGES, comment_share


def counted(text, language):
    return round(comment_share(text, language) * len(text))


@pytest.mark.parametrize(
    "language, text, comments",
    [
        ("python", '"""Doc."""\nx = 1  # one\n', ['"""Doc."""', "# one"]),
        ("python", 'x = """no\n# comment\n"""\ny = "# no"\n', []),
        ("python", "def f():\n    '''Says\n    # more'''\n    return '#'\n", ["    '''Says\n    # more'''"]),
        ("python", 'call(\n    """argument""",\n)\n', []),
        ("python", "print 'python 2'  # is judged too\n", ["# is judged too"]),
        ("c", 'char *u = "http://a"; // b\n/* c\n * d */ int x = \'"\'; // e\n', ["// b", "/* c\n * d */", "// e"]),
        ("javascript", "let a = `// no\n// no`; // yes\n", ["// yes"]),
        ("java", 'String s = """\n // no\n"""; /** yes */\n', ["/** yes */"]),
        ("go", 'a := `"` // yes\n', ["// yes"]),
        ("rust", "fn f<'a>(x: &'a str) { let c = '\"'; } // yes\n", ["// yes"]),
        ("shell", 'echo $# ${#a} a#b # yes\nx="# no"\n', ["# yes"]),
        ("sql", "select '--' -- yes\n/* yes */", ["-- yes", "/* yes */"]),
        ("lua", "--[[ a\nb ]] x = '--' -- c\n", ["--[[ a\nb ]]", "-- c"]),
        ("haskell", "f' x = x {- a -} -- b\n", ["{- a -}", "-- b"]),
        ("css", "a { b: url(//c) } /* d */", ["/* d */"]),
        ("html", "<p>-- no</p><!-- yes - -- yes -->", ["<!-- yes - -- yes -->"]),
        ("fortran", "x = '!' ! yes\n", ["! yes"]),
        ("php", "<?php // a\n# b\n$c = '#';", ["// a", "# b"]),
    ],
)
def test_comments_by_language(language, text, comments):
    assert counted(text, language) == sum(map(len, comments))


def test_where_comments_cannot_be_told():
    assert (
        comment_share("a b c", "text") is None
        and comment_share("{}", "json") is None
        and comment_share("", "python") is None
    )


def by_parser(text):
    total = sum(
        len(token.string)
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    )
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
            and ast.get_docstring(node) is not None
        ):
            total += len(ast.get_source_segment(text, node.body[0].value))
    return total / len(text)


def test_agrees_with_the_parser_on_real_files():
    files = sorted(pathlib.Path(ast.__file__).parent.glob("a*.py"))
    assert len(files) >= 5
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert comment_share(text, "python") == pytest.approx(by_parser(text), abs=0.02), file.name


@pytest.mark.parametrize(
    "unit", ['"', "'", "'''", "`", "/*", "*/", "//", "#", "\\", "--[[", "{-", "(*", "<!--", "-", "\n", " "]
)
def test_traps_end_and_stay_within_the_text(unit):
    for languages in _LANGUAGES.values():
        for text in (unit * 100_000, f"x = 1\n{unit}"):
            assert 0 <= comment_share(text, languages[0]) <= 1

"""The programs accept every command in README and docs, and the marked commands run.

A command is a line of a code block that begins with `castor`, `python`, `make` or `pip`, or inline code that begins
with `castor`. Its flags, gin files, gin macros and bindings must be known; `...` stands for parts that the page leaves
out. A comment `<!-- run -->` above a block runs all its commands, or its Python; `<!-- run torch -->` does so if torch
is installed. The marked blocks of all pages run in one folder and one process, README first, on a small demo corpus.
Each block finds the outputs of the blocks before it, like a user who reads the pages in order.
"""

import argparse
import contextlib
import dataclasses
import importlib
import importlib.metadata
import io
import json
import pathlib
import re
import shlex
import textwrap

import PIL.Image
import pytest
import small_media as media

import gin
from castor.launch import command, data_jobs, training_runs
from castor.launch.recipes.demo_corpus import DemoCorpus
from castor.tasks import configuration
from castor.tasks.errors import CastorError

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"
INDEX = [DOCS / link for link in re.findall(r"\]\(([\w/]+\.md)\)", (DOCS / "index.md").read_text(encoding="utf-8"))]
PAGES = list(dict.fromkeys([REPOSITORY / "README.md", *INDEX, *sorted(DOCS.rglob("*.md"))]))
PROGRAMS = ("castor", "python", "make", "pip")
MARK = re.compile(r"<!-- run( \w+)? -->")
"""Marks a block that is run; a word names the library without which the test is skipped."""

SMALL = {
    "data vocabulary": ("VOCAB_SIZE=600", "IMAGE_CODES=64", "AUDIO_CODES=32"),
    "data tokenize": ("IMAGE_TOKEN_BUDGET=16", "SPLITS={'train': 0.8, 'validation': 0.2}", "NUM_SHARDS=1"),
    "train": (
        "TRAIN_STEPS=2",
        "BATCH_SIZE=2",
        "TASK_FEATURE_LENGTHS={'targets': 128}",
        "EVAL_STEPS=1",
        "Transformer.embed=32",
        "Transformer.layers=2",
        "Transformer.head_dim=8",
        "Transformer.mlp=64",
        "Transformer.dtype='float32'",
    ),
}
"""Bindings that a marked command gets after its own, so that it is done in seconds."""

SMALL_IN_PYTHON = {"steps=200_000": "steps=2"}
"""A cache of a few rows repeats every document tens of thousands of times in so many steps."""

WRITTEN = {
    "my_run.gin": "include 'models/tiny.gin'\ninclude 'runs/pretrain.gin'\n",
    "my_web.gin": "include 'pipelines/web.gin'\n",
    "nano2/best.gin": "MESH = {}\n",
}
"""Gin files that the pages take for the user's own."""


@dataclasses.dataclass(frozen=True)
class Block:
    """Lines of one code block; `line` is the first one's number on the page."""

    page: pathlib.Path
    line: int
    lines: tuple[str, ...]
    mark: re.Match | None

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}:{self.line}"

    def commands(self) -> list[str]:
        """The block's command lines, those that end with a backslash joined."""
        joined = re.sub(r"\\\n\s*", " ", "\n".join(self.lines)).splitlines()
        return [text for line in joined if (text := line.strip()).split(" ")[0] in PROGRAMS]


def blocks(page: pathlib.Path) -> list[Block]:
    """Code blocks of a page, indented or fenced."""
    found: list[Block] = []
    block: list[str] = []
    begin, mark, is_fenced = 0, None, False
    for number, line in enumerate([*page.read_text(encoding="utf-8").splitlines(), "end"], start=1):
        if line.lstrip().startswith("```"):
            is_fenced = not is_fenced
            continue
        if is_fenced or line.startswith("    "):
            begin = begin if block else number
            block.append(line)
        elif block and not line and not is_fenced:
            block.append(line)
        else:
            if block:
                found.append(Block(page, begin, tuple(block), mark))
                block, mark = [], None
            if line.strip():
                mark = MARK.fullmatch(line.strip())
    return found


def words(text: str) -> list[str]:
    """A command line as a shell would cut it, without what the page leaves out."""
    return [word for word in shlex.split(text, comments=True) if word != "..."]


ALL = [block for page in PAGES for block in blocks(page)]
COMMANDS = [(block.where, text) for block in ALL for text in block.commands()]
INLINE = [
    (str(page.relative_to(REPOSITORY)), " ".join(text.split()))
    for page in PAGES
    for text in re.findall(r"(?<!`)`(castor [^`]+)`(?!`)", page.read_text(encoding="utf-8"))
]


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """The current folder of this module's tests, with the gin files that the pages take for the user's own."""
    folder = tmp_path_factory.mktemp("desk")
    for name, text in WRITTEN.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    with contextlib.chdir(folder):
        yield folder


# ---------------------------------------------------------------- what is accepted


def check_castor(arguments: list[str]) -> None:
    """Parses a castor command line, its gin files and bindings as the command does, and raises the same errors."""
    row = next((row for row in command.SUBCOMMANDS if row.name == arguments[0]), None)
    assert row or arguments[0].startswith("-") or arguments[0].isupper(), f"no subcommand {arguments[0]}"
    if row is None:
        return
    parser = parser_of(row)
    flags, plain = configuration.split_flags(arguments[1:])
    known, rest = parser.parse_known_args([word for word in plain if word not in ("--help", "--traceback")])
    if row.takes_rest and rest:
        from castor.pipelines.execution import beam_options

        beam_options.parse(rest)
    else:
        assert not rest
    try:
        if row.name == "run":
            configuration.parse(configuration.Flags((known.recipe, *flags.files), flags.bindings))
        elif row.name in ("train", "compile") or getattr(known, "job", None) == "train":
            configuration.parse(flags.or_files(*training_runs.GIN_FILES))
        elif row.name in ("data", "launch") and known.job in data_jobs.JOBS:
            configuration.parse(flags.or_files(f"pipelines/{known.job}.gin"))
        elif row.name == "demo":
            configuration.parse(flags.or_files("recipes/demo.gin"))
        else:
            assert flags == configuration.Flags() or row.name == "evaluate", "takes no gin flags"
    finally:
        gin.clear_config()


def parser_of(row: command.Subcommand) -> argparse.ArgumentParser:
    """The parser of a subcommand's own flags; it raises instead of ending the process."""
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    importlib.import_module(row.module).add_arguments(parser)
    return parser


def check_inline(arguments: list[str]) -> None:
    """Inline code names a subcommand and some of its flags, with or without their values."""
    row = next((row for row in command.SUBCOMMANDS if row.name == arguments[0]), None)
    assert row or arguments[0].startswith("-") or arguments[0].isupper(), f"no subcommand {arguments[0]}"
    given = {word.partition("=")[0] for word in arguments[1:] if word.startswith("--") and not word.startswith("--gin")}
    if row:
        assert given <= {"--help", "--traceback", *parser_of(row)._option_string_actions}


def check_python(arguments: list[str]) -> None:
    """The script or module exists, and its text names each flag."""
    if arguments[0] == "-m":
        return
    script = REPOSITORY / arguments[0]
    text = script.read_text(encoding="utf-8")
    for flag in (
        word.partition("=")[0] for word in arguments if word.startswith("--") and not word.startswith("--gin")
    ):
        assert f'"{flag}"' in text or f'"{flag.replace("-", "_")}"' in text, f"{arguments[0]} does not know {flag}"


def check_make(arguments: list[str]) -> None:
    """The Makefile has the targets and variables."""
    text = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for word in arguments:
        assert re.search(rf"^{word.partition('=')[0]}(:| \?=| :=)", text, re.MULTILINE), f"the Makefile has no {word}"


def check_pip(arguments: list[str]) -> None:
    """The extras of castor exist."""
    extras = set(importlib.metadata.metadata("castor").get_all("Provides-Extra"))
    for found in re.findall(r"castor\[([^\]]+)\]", " ".join(arguments)):
        assert set(found.split(",")) <= extras


CHECKS = {"castor": check_castor, "python": check_python, "make": check_make, "pip": check_pip}


@pytest.mark.parametrize("where, text", COMMANDS, ids=[f"{where} {text[:40]}" for where, text in COMMANDS])
def test_a_command_is_accepted(desk, where, text):
    program, *arguments = words(text)
    CHECKS[program](arguments)


@pytest.mark.parametrize("where, text", INLINE, ids=[f"{where} {text[:40]}" for where, text in INLINE])
def test_inline_code_is_accepted(desk, where, text):
    check_inline(words(text)[1:])


@pytest.mark.parametrize(
    "text",
    [
        "castor trian",
        "castor train --gin_file=models/huge.gin",
        "castor train --gin.TRAIN_STEP=3",
        "castor train --gin.Transformer.embeds=3",
        "castor tasks verify --fast tasks/web",
        "castor data web --gin.INPUT=3",
        "castor data web --no_such_option=3",
        "castor run gin/recipes/demo.gin --dryrun",
        "python benchmarks/batches/batches.py --medium 90",
        "make demos",
        "pip install 'castor[everything]'",
    ],
)
def test_a_wrong_command_is_noticed(desk, text):
    program, *arguments = words(text)
    with pytest.raises((AssertionError, CastorError)):
        CHECKS[program](arguments)


# ---------------------------------------------------------------- what is run


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder in which the marked blocks run: raw files, a picture, prompts."""
    folder = tmp_path_factory.mktemp("site")
    DemoCorpus(images=24, sounds=8, clips=2, pages=40).make(str(folder / "raw"))
    for kind, name in (("web", "crawl"), ("code", "snapshots"), ("image", "photos")):
        (folder / "raw" / kind).rename(folder / name)
    for archive in sorted((folder / "snapshots").iterdir())[3:]:
        archive.unlink()
    archive = sorted((folder / "crawl").iterdir())[-1]  # its download broke off: a dead letter to replay
    (folder / "crawl" / "cut.warc.gz").write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    PIL.Image.fromarray(media.picture()).save(folder / "photo.jpg")
    prompts = [{"prompt": "The library", "id": 7}, {"draw": "a red square", "size": "2x2"}, {"describe": "photo.jpg"}]
    (folder / "in.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    questions = [{"prompt": "2 + 2 =", "continuations": [" 4", " 5"]}]
    (folder / "questions.jsonl").write_text("".join(json.dumps(question) + "\n" for question in questions))
    for name, text in WRITTEN.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    with contextlib.chdir(folder):
        yield folder


def small(arguments: list[str]) -> list[str]:
    """The bindings that make a command's work small."""
    if any(flag in arguments for flag in ("--plan", "--explain_sharding")):
        return []
    return [f"--gin.{binding}" for binding in SMALL.get(" ".join(arguments[:2]), SMALL.get(arguments[0], ()))]


def run_castor(arguments: list[str]) -> str:
    """What a castor command prints; asserts that it succeeds. Nobody types anything."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr("sys.stdin", io.StringIO(""))
        code = command.main([*arguments, *small(arguments)])
    gin.clear_config()
    assert code == 0, f"castor {shlex.join(arguments)}: {code}\n{err.getvalue()[-3000:]}"
    return out.getvalue()


MARKED = [block for block in ALL if block.mark]


@pytest.mark.parametrize("block", MARKED, ids=[block.where for block in MARKED])
def test_a_marked_block_runs(site, block):
    if block.mark[1]:
        pytest.importorskip(block.mark[1].strip())
    if not block.commands():
        text = textwrap.dedent("\n".join(block.lines))
        for written, small_one in SMALL_IN_PYTHON.items():
            text = text.replace(written, small_one)
        exec(compile(text, block.where, "exec"), {"__name__": "docs"})
        return
    for text in block.commands():
        program, *arguments = words(text)
        assert program == "castor", "only castor's commands are run"
        run_castor(arguments)


def test_the_pages_mark_what_a_user_runs_first():
    marked = " ".join(" ".join(block.commands()) for block in MARKED)
    for words_of_it in (
        "data web",
        "data vocabulary",
        "data tokenize",
        "train ",
        "infer ",
        "evaluate ",
        "tasks verify",
    ):
        assert f"castor {words_of_it}" in marked

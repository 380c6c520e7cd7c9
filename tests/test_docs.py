"""What README, docs and docstrings point to exists: relative links, anchors, and paths of files of the repository."""

import ast
import pathlib
import re

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
ROOMS = ("launch", "train", "pipelines", "tasks", "gin", "tests", "benchmarks", "docs")
SOURCES = [path for room in ROOMS for path in sorted((REPOSITORY / room).rglob("*.py"))]
GIN_FILES = sorted((REPOSITORY / "gin").rglob("*.gin"))

LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(rf"(?<![\w./$<>{{*-])((?:{'|'.join(ROOMS)})/(?:[\w-]+/)*[\w-]+\.(?:py|md|gin|xml|html))\b")
"""A path from the root of the repository to a file of it."""


def headings(page: pathlib.Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def dead_links(page: pathlib.Path) -> list[str]:
    """Relative links of a page whose file or heading does not exist."""
    dead = []
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        if not target.exists() or anchor and anchor not in headings(target):
            dead.append(link)
    return dead


def texts_of_code(path: pathlib.Path) -> str:
    """Docstrings and comments of a Python file."""
    text = path.read_text(encoding="utf-8")
    parts = [line[line.index("#") :] for line in text.splitlines() if "#" in line]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            parts.append(ast.get_docstring(node, clean=False) or "")
    return "\n".join(parts)


def dead_paths(text: str) -> set[str]:
    """Paths of the repository, or below gin/, that a text names and that do not exist."""
    named = {
        path for path in PATH.findall(text) if not path.rpartition("/")[2].split(".")[0].isupper()
    }  # gin/compiler/CHIP.gin
    return {path for path in named if not (REPOSITORY / path).exists() and not (REPOSITORY / "gin" / path).exists()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_and_paths_of_a_page_exist(page):
    assert not dead_links(page)
    assert not dead_paths(page.read_text(encoding="utf-8"))


def test_paths_in_docstrings_and_comments_exist():
    dead = {str(path.relative_to(REPOSITORY)): dead_paths(texts_of_code(path)) for path in SOURCES}
    dead |= {str(path.relative_to(REPOSITORY)): dead_paths(path.read_text(encoding="utf-8")) for path in GIN_FILES}
    assert not {path: names for path, names in dead.items() if names}


def test_the_map_reaches_every_page():
    reached, new = set(), {REPOSITORY / "README.md", REPOSITORY / "docs" / "index.md"}
    while new:
        page = new.pop()
        reached.add(page)
        links = (link.partition("#")[0] for link in LINK.findall(page.read_text(encoding="utf-8")))
        found = {(page.parent / link).resolve() for link in links if link.endswith(".md") and "://" not in link}
        new |= {target for target in found if target.exists()} - reached
    assert not set(PAGES) - reached


def test_dead_links_and_paths_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A title\n\n[a](page.md#a-title) [b](page.md#another) [c](gone.md) [d](https://example.org/x.md)\n"
    )
    assert dead_links(page) == ["page.md#another", "gone.md"]
    assert dead_paths("tasks/batches/batches.py and (tasks/batches.py), `docs/gone.md`") == {
        "tasks/batches.py",
        "docs/gone.md",
    }

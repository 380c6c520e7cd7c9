"""Converts Jupyter notebooks to scripts in the percent format, in the language of the notebook's kernel.

    # %% [markdown]
    # Markdown cells, each line after the comment mark of the kernel's language.

    # %%
    print("code cells, unchanged")
    # %timeit lines that only IPython understands, also commented
    # > optionally the text that the cell printed or returned, truncated

jupytext, Spyder and VS Code use this format, so Python stays valid Python. StarCoder converted notebooks to scripts the
same way (arXiv 2305.06161, section 3.2). Formats 3 and 4 of nbformat are read. Images are dropped, both outputs and
attachments in Markdown. Anything that is not a notebook raises BadInput("notebook"); the size is checked before parsing
the JSON. This file knows no Beam.
"""

import dataclasses
import json
import re
from typing import Any

from castor.pipelines.document import BadInput

_SLASHED = "javascript typescript java scala kotlin c c++ cpp c# csharp f# fsharp go rust swift groovy php"
_MARKS = {
    "//": _SLASHED.split(),
    "--": ("sql", "haskell", "lua"),
    "%": ("matlab", "octave", "prolog"),
    "!": ("fortran",),
}
_MARK_OF = {language: mark for mark, languages in _MARKS.items() for language in languages}
_MAGIC = re.compile(r"[ \t]*(?:%(?!%)[a-zA-Z]|[!?]|%%)|[\w.]+\?{1,2}$")
_ESCAPES = re.compile(r"\x1b\[[0-9;]{0,20}[A-Za-z]")
_DATA = re.compile(r"data:[\w/+.-]{1,60};base64,[A-Za-z0-9+/=\s]{0,8}[A-Za-z0-9+/=]*")
_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclasses.dataclass(frozen=True)
class Notebooks:
    """How notebooks become scripts.

    max_bytes: maximum size of the JSON, in characters.

    outputs: keep the text that cells printed or returned.

    max_output_characters: maximum output per cell.

    max_outputs_characters: maximum output per notebook.
    """

    max_bytes: int = 8 << 20
    outputs: bool = False
    max_output_characters: int = 1000
    max_outputs_characters: int = 20_000

    def script(self, text: str) -> tuple[str, str]:
        """(script, kernel language) of a notebook's JSON; the script is empty if all cells are empty.

        Raises BadInput("notebook").
        """
        if len(text) > self.max_bytes:
            raise BadInput("notebook", f"{len(text)} characters, more than {self.max_bytes}")
        notebook = _parsed(text)
        cells = _cells(notebook)
        language = _language(notebook, cells)
        mark = _MARK_OF.get(language, "#")
        blocks, left = [], self.max_outputs_characters if self.outputs else 0
        for cell in cells:
            block = _block(cell, mark, language)
            if not block:
                continue
            if left > 0 and cell.get("cell_type") == "code":
                shown = _shown(cell, min(left, self.max_output_characters))
                left -= len(shown)
                block += "".join(f"\n{mark} > {line}".rstrip() for line in shown.split("\n") if shown)
            blocks.append(block)
        return _SURROGATES.sub("\ufffd", "\n\n".join(blocks) + "\n") if blocks else "", language


def _parsed(text: str) -> dict[str, Any]:
    try:
        notebook = json.loads(text)
    except RecursionError:
        raise BadInput("notebook", "nested too deeply") from None
    except ValueError as error:
        raise BadInput("notebook", f"invalid JSON: {error}"[:200]) from None
    if not isinstance(notebook, dict):
        raise BadInput("notebook", f"a JSON {type(notebook).__name__}, not an object")
    return notebook


def _cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """The cells of format 4, or those of the worksheets of format 3."""
    cells = notebook.get("cells")
    if cells is None and isinstance(notebook.get("worksheets"), list):
        sheets = [sheet.get("cells") for sheet in notebook["worksheets"] if isinstance(sheet, dict)]
        cells = [cell for sheet in sheets if isinstance(sheet, list) for cell in sheet]
    if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
        raise BadInput("notebook", "no list of cells")
    return cells


def _language(notebook: dict[str, Any], cells: list[dict[str, Any]]) -> str:
    facts = notebook.get("metadata")
    for part, key in (("kernelspec", "language"), ("language_info", "name")):
        named = facts.get(part) if isinstance(facts, dict) else None
        if isinstance(named, dict) and isinstance(named.get(key), str) and named[key]:
            return named[key].lower()[:40]
    old = next((cell["language"] for cell in cells if isinstance(cell.get("language"), str)), "python")
    return old.lower()[:40]


def _block(cell: dict[str, Any], mark: str, language: str) -> str:
    kind = cell.get("cell_type")
    source = _joined(cell.get("source") if "source" in cell else cell.get("input")).strip("\n")
    if not source.strip():
        return ""
    if kind == "code":
        lines = source.split("\n")
        if language in ("python", "ipython"):
            whole = lines[0].lstrip().startswith("%%")
            lines = [f"{mark} {line}".rstrip() if whole or _MAGIC.match(line) else line for line in lines]
        return "\n".join((f"{mark} %%", *lines))
    if kind == "heading":  # format 3 only
        level = cell.get("level")
        source = "#" * (level if isinstance(level, int) and 0 < level < 7 else 1) + " " + source
    label = "raw" if kind == "raw" else "markdown"
    return "\n".join(
        (f"{mark} %% [{label}]", *(f"{mark} {line}".rstrip() for line in _DATA.sub("data:", source).split("\n")))
    )


def _shown(cell: dict[str, Any], limit: int) -> str:
    """The text that a cell printed to standard output or returned, at most `limit` characters.

    An ellipsis marks truncation.
    """
    parts = []
    outputs = cell.get("outputs")
    for output in outputs if isinstance(outputs, list) else ():
        if not isinstance(output, dict):
            continue
        if output.get("output_type") == "stream" and output.get("name", output.get("stream")) != "stderr":
            parts.append(_joined(output.get("text")))
        elif output.get("output_type") in ("execute_result", "display_data", "pyout"):
            data = output.get("data")
            parts.append(_joined(data.get("text/plain") if isinstance(data, dict) else output.get("text")))
        elif output.get("output_type") in ("error", "pyerr"):
            parts.append(f"{_joined(output.get('ename'))}: {_joined(output.get('evalue'))}")
    text = _ESCAPES.sub("", "\n".join(part.strip("\n") for part in parts if part.strip()))
    return text if len(text) <= limit else text[: max(0, limit - 3)] + "..."


def _joined(source: Any) -> str:
    """A multi-line string of nbformat: a string or a list of strings; empty for anything else."""
    if isinstance(source, list):
        source = "".join(line for line in source if isinstance(line, str))
    return source.replace("\r\n", "\n").replace("\r", "\n") if isinstance(source, str) else ""

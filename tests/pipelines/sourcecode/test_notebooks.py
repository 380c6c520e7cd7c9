"""Notebooks as scripts: the layout to the character, both formats, and everything that calls itself a notebook."""

import ast
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from castor.pipelines.document import BadInput, Document, Rejection
from castor.pipelines.sourcecode.notebooks import Notebooks
from castor.pipelines.sourcecode.parse import Parse

NOTEBOOK = {
    "cells": [
        {"cell_type": "markdown", "source": ["# Title\n", "\n", "![a](data:image/png;base64,iVBORw0KGgo=)"]},
        {"cell_type": "code", "source": "%matplotlib inline\nx = 1\n!pip install y\nprint(x)", "outputs": [
            {"output_type": "stream", "name": "stdout", "text": ["1\n", "\x1b[31m2\x1b[0m\n"]},
            {"output_type": "stream", "name": "stderr", "text": "warning"},
            {"output_type": "execute_result", "data": {"text/plain": "<A>", "image/png": "iVBOR"}},
        ]},
        {"cell_type": "code", "source": "%%bash\nls", "outputs": [{"output_type": "error", "ename": "E", "evalue": "bad"}]},
        {"cell_type": "code", "source": " \n", "outputs": []},
        {"cell_type": "raw", "source": "raw"},
    ],
    "metadata": {"kernelspec": {"language": "python"}},
    "nbformat": 4,
}  # fmt: skip
SCRIPT = """# %% [markdown]
# # Title
#
# ![a](data:)

# %%
# %matplotlib inline
x = 1
# !pip install y
print(x)

# %%
# %%bash
# ls

# %% [raw]
# raw
"""


def test_layout():
    assert Notebooks().script(json.dumps(NOTEBOOK)) == (SCRIPT, "python")
    ast.parse(SCRIPT)


def test_outputs_on_request_and_cut():
    script = Notebooks(outputs=True).script(json.dumps(NOTEBOOK))[0]
    assert (
        "print(x)\n# > 1\n# > 2\n# > <A>\n\n" in script
        and "# ls\n# > E: bad\n" in script
        and "warning" not in script
        and "iVBOR" not in script
    )
    assert "# > 1\n# > 2...\n" in Notebooks(outputs=True, max_output_characters=6).script(json.dumps(NOTEBOOK))[0]
    assert Notebooks(outputs=True, max_outputs_characters=7).script(json.dumps(NOTEBOOK))[0].count("# > ") == 3


def test_other_kernels_and_the_old_format():
    old = {
        "worksheets": [
            {
                "cells": [
                    {"cell_type": "heading", "level": 2, "source": "H"},
                    {"cell_type": "code", "language": "python", "input": ["a\n", "b"]},
                ]
            }
        ]
    }
    assert Notebooks().script(json.dumps(old)) == ("# %% [markdown]\n# ## H\n\n# %%\na\nb\n", "python")
    scala = {
        "cells": [{"cell_type": "markdown", "source": "S"}, {"cell_type": "code", "source": "%x\nval a = 1"}],
        "metadata": {"language_info": {"name": "Scala"}},
    }
    assert Notebooks().script(json.dumps(scala)) == ("// %% [markdown]\n// S\n\n// %%\n%x\nval a = 1\n", "scala")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "1", '"x"', "{}", '{"cells": {}}', '{"cells": [1]}', '{"worksheets": [1]}', '{"worksheets": [{"cells": [[]]}]}',
        "[" * 100_000, '{"a":' * 100_000, '{"a": ' + "9" * 5000 + "}"],
)  # fmt: skip
def test_what_is_no_notebook(text):
    with pytest.raises(BadInput, match="notebook"):
        if text == '{"worksheets": [1]}':  # no cells at all is an empty notebook
            assert Notebooks().script(text)[0] == ""
            raise BadInput("notebook")
        Notebooks().script(text)


def test_size_is_looked_at_first():
    with pytest.raises(BadInput, match="notebook: 50 characters, more than 49"):
        Notebooks(max_bytes=49).script("{" * 50)


def test_cells_of_odd_make_are_passed_over():
    cells = [
        {},
        {"cell_type": 1, "source": {"a": 1}},
        {
            "cell_type": "code",
            "source": ["a", 1, None],
            "outputs": [1, {"output_type": "stream"}, {"output_type": "display_data", "data": 3}],
        },
    ]
    assert Notebooks(outputs=True).script(json.dumps({"cells": cells, "metadata": [], "nbformat": "x"})) == (
        "# %%\na\n",
        "python",
    )
    assert Notebooks().script('{"cells": [{"cell_type": "code", "source": "\\ud800"}]}')[0] == "# %%\n\ufffd\n"


def test_parsing_makes_scripts_of_them():
    document = Document("0" * 32, "s", "code", None, json.dumps(NOTEBOOK).encode(), {"path": "r/a.ipynb"})
    parsed = Parse()(document)
    assert parsed.text == SCRIPT and parsed.metadata == {
        "path": "r/a.ipynb",
        "language": "jupyter",
        "encoding": "utf-8",
        "notebook_language": "python",
    }
    empty = Parse()(document.replace(bytes=b'{"cells": []}'))
    assert isinstance(empty, Rejection) and empty.reason == "code.empty"
    with pytest.raises(BadInput, match="notebook"):
        Parse()(document.replace(bytes=b"no json"))


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=9), lambda x: st.lists(x,
    max_size=4) | st.dictionaries(st.sampled_from(["cells", "source", "cell_type", "outputs", "text", "data", "metadata", "kernelspec",
        "language", "x"]), x, max_size=4), max_leaves=20)  # fmt: skip


@given(st.lists(st.dictionaries(st.sampled_from(["cell_type", "source", "input", "outputs", "level", "language"]), JSON | st.sampled_from(["code",
    "markdown", "raw", "heading"]), max_size=5), max_size=4), JSON)  # fmt: skip
def test_any_cells(cells, metadata):
    script, language = Notebooks(outputs=True).script(json.dumps({"cells": cells, "metadata": metadata}))
    assert (script == "" or script.endswith("\n")) and language and script.encode() is not None

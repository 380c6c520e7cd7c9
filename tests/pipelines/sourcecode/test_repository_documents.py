"""Repositories as documents.

Order, layout and cuts are pure functions. In the job, the funnel adds up and the bytes do not depend on how it runs.
"""

import dataclasses
import hashlib
import io
import pathlib
import random
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from castor.pipelines import code
from castor.pipelines.corpus import outcomes
from castor.pipelines.corpus.reader import read_corpus
from castor.pipelines.document import Document, document_id
from castor.pipelines.execution import launcher
from castor.pipelines.filters import licence
from castor.pipelines.sourcecode import repository_documents
from castor.pipelines.sourcecode.repository_layout import Layout, cut, dependencies_first
from castor.tasks.errors import ConfigurationError

TWO_WORKERS = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]


def file(path, text, language="python", **facts):
    return Document(
        document_id("c", path),
        f"/in/r.tar.gz#member={path}",
        "code",
        text,
        None,
        {"path": path, "repository": "r", "language": language, "licences": ["MIT"], **facts},
    )


FILES = [
    file("r/main.py", "import r.lib\nimport r.util\n"),
    file("r/lib.py", "import r.util\n"),
    file("r/util.py", "x = 1", secrets={"jwt": 2}),
    file("r/README", "Words.\n", "text"),
]


def test_layout_to_the_character():
    [document] = Layout().documents("c", FILES)
    assert document.text == (
        "<repo_name>r<file_sep>r/README\nWords.\n<file_sep>r/util.py\nx = 1<file_sep>r/lib.py\nimport r.util\n"
        "<file_sep>r/main.py\nimport r.lib\nimport r.util\n"
    )
    assert (document.id, document.source, document.modality) == (
        document_id("c", "repository=r/r.tar.gz#"),
        "/in/r.tar.gz",
        "code",
    )
    facts = document.metadata
    assert {k: facts[k] for k in ("repository", "language", "languages", "licences", "secrets")} == {
        "repository": "r", "language": "python", "languages": {"text": 7, "python": 46}, "licences": ["MIT"], "secrets": {"jwt": 2}
    }  # fmt: skip
    assert document.records == 4 == len(facts["members"])
    texts = {f.id: f.text for f in FILES}
    assert all(document.text[m["start"] : m["end"]] == texts[m["id"]] for m in facts["members"])
    [by_path] = Layout(order="paths", repository_mark="# {repository}\n", file_mark="# {path}\n").documents("c", FILES)
    assert by_path.text.startswith("# r\n# r/README\nWords.\n# r/lib.py\nimport")


def test_order_of_arrival_does_not_count():
    expected = Layout(max_characters=90).documents("c", FILES)
    for seed in range(9):
        assert Layout(max_characters=90).documents("c", random.Random(seed).sample(FILES, len(FILES))) == expected
    assert Layout().documents("c", []) == []


def test_parts_hold_whole_files_and_cut_what_fits_nowhere():
    files = [file("r/a.py", "a = 1\n" * 5), file("r/b.py", "b = 1\n" * 30), file("r/c.py", "c = 1\n")]
    parts = Layout(max_characters=100).documents("c", files)
    assert [len(p.text) <= 100 for p in parts] == [True] * len(parts) and len({p.id for p in parts}) == len(parts)
    members = [m for p in parts for m in p.metadata["members"]]
    assert [(m["path"][2], m.get("piece")) for m in members] == [("a", None), ("b", 0), ("b", 1), ("b", 2), ("c", None)]
    pieces = [p.text[m["start"] : m["end"]] for p in parts for m in p.metadata["members"]]
    assert (
        pieces[0] == files[0].text and "".join(pieces[1:4]) == files[1].text and all(p.endswith("\n") for p in pieces)
    )
    assert sum(p.records for p in parts) == 3 and [p.metadata["part"] for p in parts] == list(range(len(parts)))
    assert parts[1].source == "/in/r.tar.gz#part=1"


@given(st.text(alphabet="ab\n", max_size=60), st.integers(1, 9))
def test_cuts_lose_nothing(text, most):
    pieces = cut(text, most)
    assert "".join(pieces) == text and all(len(piece) <= most for piece in pieces)


@given(st.dictionaries(st.integers(0, 12).map(str), st.lists(st.integers(0, 12).map(str), max_size=4), max_size=13))
def test_every_path_once_and_needs_first_where_there_is_no_cycle(needed):
    paths = sorted(needed)
    needed = {p: [n for n in ns if n in needed and n != p] for p, ns in needed.items()}
    order = dependencies_first(paths, needed)
    assert sorted(order) == paths
    acyclic = {p: [n for n in ns if int(n) < int(p)] for p, ns in needed.items()}
    place = {p: i for i, p in enumerate(dependencies_first(paths, acyclic))}
    assert all(place[n] < place[p] for p, ns in acyclic.items() for n in ns)


def test_cycles_and_long_chains():
    assert dependencies_first(["a", "b", "c"], {"a": ["b"], "b": ["c"], "c": ["a"]}) == ["c", "b", "a"]
    chain = [str(i) for i in range(50_000)]
    assert dependencies_first(chain, {a: [b] for a, b in zip(chain, chain[1:])}) == chain[::-1]


def test_bad_configuration():
    with pytest.raises(ConfigurationError, match="repositories.Layout.order is 'random'"):
        Layout(order="random")
    with pytest.raises(ConfigurationError, match="max_characters is -1"):
        Layout(max_characters=-1)


def test_a_source_that_utf8_cannot_carry_is_escaped():
    [document] = Layout().documents("c", [dataclasses.replace(FILES[0], source="/in/\udcff/r/main.py")])
    assert document.metadata["members"][0]["source"] == "/in/\\udcff/r/main.py"


def test_a_text_that_utf8_cannot_carry_stays_out():
    assert not repository_documents._joins(file("r/a.py", "\ud800")) and repository_documents._joins(FILES[0])


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Two archives of the same name in two folders, and a folder.

    One file is in both archives, one occurs twice under one name, and one is rejected.
    """
    root = tmp_path_factory.mktemp("raw")
    members = {f"p/m{i}.py": f"import p.m{i + 1}\nvalue_{{n}}_{i} = {i}  # of many\n" for i in range(6)} | {
        "p/__init__.py": "# a package\n",
        "p/same.py": "def same():\n    return 'in both'\n",
        "p/short.py": "x",
    }
    for number, folder in enumerate(("one", "two")):
        (root / folder).mkdir()
        with tarfile.open(root / folder / "r.tar.gz", "w:gz") as archive:
            for name, text in members.items():
                data = text.replace("{n}", str(number)).encode()
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    (root / "three").mkdir()
    (root / "three" / "a.py").write_text("import b\nprint('three, a')\n")
    (root / "three" / "b.py").write_text("print('three, b')\n")
    return root


def make(raw, output, **changes):
    rules = tuple(f for f in code.Job.__dataclass_fields__["filters"].default if not isinstance(f, licence.Filter))
    return code.Job(
        name="code", input_root=str(raw), inputs=("**",), output=str(output), num_shards=3, filters=rules, **changes
    )


def files_of(directory):
    return {
        str(p.relative_to(directory)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(pathlib.Path(directory).rglob("*"))
        if p.is_file()
    }


def test_the_job_joins_what_it_keeps_and_the_funnel_adds_up(raw, tmp_path):
    apart = launcher.run(make(raw, tmp_path / "apart"), quiet=True)
    together = launcher.run(make(raw, tmp_path / "together", repositories=Layout()), quiet=True)
    assert (
        together["funnel"] == apart["funnel"]
        and together["documents"] == 3 < together["funnel"]["kept"] == apart["documents"]
    )
    assert together["funnel"]["duplicates"] == {"exact": 2} and together["funnel"]["rejected"] == {"stack.short": 2}
    files = {d.id: d for d in read_corpus(str(tmp_path / "apart"))}
    documents = list(read_corpus(str(tmp_path / "together")))
    members = [(m, d) for d in documents for m in d.metadata["members"]]
    assert sorted(m["id"] for m, _ in members) == sorted(files)  # each kept file once, and nothing else
    assert all(d.text[m["start"] : m["end"]] == files[m["id"]].text for m, d in members)
    for identifier, file in files.items():  # a file's outcome can still be told, and where it stands
        [outcome] = outcomes.find(str(tmp_path / "together"), id=identifier)
        assert (
            outcome.outcome == "kept"
            and outcome.source == file.source
            and outcome.measure in {f"stands in {d.id}" for d in documents}
        )
    assert {d.metadata["repository"] for d in documents} == {"one/r", "two/r", "three"}
    first = next(d for d in documents if d.metadata["repository"] in ("one/r", "two/r"))
    assert [m["path"] for m in first.metadata["members"] if "/m" in m["path"]] == [
        f"p/m{i}.py" for i in range(5, -1, -1)
    ]


def test_parts_in_the_job_are_the_same_bytes_with_two_workers(raw, tmp_path):
    layout = Layout(max_characters=120)
    manifest = launcher.run(make(raw, tmp_path / "a", repositories=layout), quiet=True)
    assert manifest["documents"] > 5 and manifest["funnel"]["kept"] == sum(
        d.records for d in read_corpus(str(tmp_path / "a"))
    )
    launcher.run(make(raw, tmp_path / "b", repositories=layout), TWO_WORKERS, quiet=True)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")

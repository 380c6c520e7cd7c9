"""The code job on the odd repository of the broken inputs and on packages installed here."""

import importlib.metadata
import json
import pathlib
import tarfile

import pytest

from castor.pipelines import code
from castor.pipelines.corpus.reader import read_corpus, read_shard
from castor.pipelines.execution import launcher
from castor.pipelines.filters import generated, stack
from castor.pipelines.sourcecode.repository_layout import Layout

pytestmark = pytest.mark.real

ODD = {
    "LICENSE": "licence.unknown",
    "a.py": "code.binary",
    "loop": "code.not_a_file",
    "new\nline.py": "code.unsafe_path",
    "utf16.cs": "licence.unknown",
    "latin1.c": "licence.unknown",
    "bundle.min.js": "code.too_large",
    "spdx_gpl.py": "licence.of_file",
    "secret.py": "licence.unknown",
    "bidi.py": "stack.bidi_controls",
    "data.csv": "code.too_large",
}


def odd(real_data, output, **changes):
    return code.Job(
        name="odd",
        input_root=str(real_data / "bad"),
        inputs=("code_*",),
        output=str(output),
        keep_rejects=True,
        num_shards=1,
        **changes,
    )


def rejected_in(output):
    found = {}
    for path in pathlib.Path(output, "rejected").rglob("*.parquet"):
        for document in read_shard(str(path)):
            found[document.source.partition("#member=repo-0/")[2]] = path.parent.name
    return found


def test_every_file_of_the_odd_repository_is_rejected_for_its_reason(real_data, tmp_path):
    assert [p.name for p in (real_data / "bad").glob("code_*")] == ["code_repo_odd.tar.gz"]
    manifest = launcher.run(odd(real_data, tmp_path), quiet=True)
    assert rejected_in(tmp_path) == ODD and manifest["funnel"]["read"] == len(ODD) and manifest["funnel"]["kept"] == 0
    assert not [p for p in tmp_path.rglob("*") if "evil" in p.name]


def test_what_the_licence_alone_had_kept_out_comes_clean(real_data, tmp_path):
    """The code job without the licence rule.

    Encodings are reported, each file has the licence that covers it, the secret is replaced, and the funnel is the same
    when joined.
    """
    rules = (generated.Filter(), stack.Filter())
    manifest = launcher.run(odd(real_data, tmp_path / "files", filters=rules), quiet=True)
    documents = {d.metadata["path"].partition("/")[2]: d for d in read_corpus(str(tmp_path / "files"))}
    assert {*documents, *rejected_in(tmp_path / "files")} == set(ODD)
    assert (
        documents["utf16.cs"].metadata["encoding"] == "utf-16-le"
        and documents["latin1.c"].metadata["encoding"] == "cp1252"
    )
    secret = documents["secret.py"]
    assert (
        secret.metadata["secrets"] == {"aws_secret_key": 1}
        and "wJalr" not in secret.text
        and "REDACTED_AWS_SECRET_KEY" in secret.text
    )
    gpl = documents["spdx_gpl.py"].metadata
    assert gpl["licence"].startswith("GPL") and gpl["licence_from"] == [gpl["path"]]
    assert secret.metadata["licence"] == "unknown" and secret.metadata["licence_from"] == ["repo-0/LICENSE"]
    joined = launcher.run(odd(real_data, tmp_path / "joined", filters=rules, repositories=Layout()), quiet=True)
    assert joined["funnel"] == manifest["funnel"] and joined["documents"] == 1
    [document] = read_corpus(str(tmp_path / "joined"))
    assert {m["id"] for m in document.metadata["members"]} == {d.id for d in documents.values()} and document.metadata[
        "secrets"
    ] == {"aws_secret_key": 1}


def test_installed_packages(tmp_path):
    packed = []
    for name in ("jinja2", "gin-config", "msgpack"):
        distribution = importlib.metadata.distribution(name)
        with tarfile.open(tmp_path / f"{name}.tar.gz", "w:gz") as archive:
            for file in distribution.files or ():
                if ".." not in file.parts and file.suffix in (".py", ".txt", "") and file.locate().is_file():
                    archive.add(file.locate(), arcname=f"{name}/{file}", recursive=False)
        packed.append(name)
    made = code.Job(
        name="installed", input_root=str(tmp_path), inputs=("*.tar.gz",), output=str(tmp_path / "out"), num_shards=2
    )
    manifest = launcher.run(made, quiet=True)
    documents = list(read_corpus(str(tmp_path / "out")))
    assert manifest["funnel"]["kept"] == len(documents) > 30
    assert {d.metadata["repository"] for d in documents} >= {"jinja2"}
    assert all(set(d.metadata["licences"]) <= {"MIT", "BSD-3-Clause", "Apache-2.0"} for d in documents)
    assert {"python"} <= {d.metadata["language"] for d in documents}


def test_a_notebook_of_another_project(tmp_path):
    """A notebook as Jupyter writes it, with kernels and outputs: from an installed package, or else generated here."""
    installed = [
        f.locate()
        for d in importlib.metadata.distributions()
        for f in d.files or ()
        if f.suffix == ".ipynb" and f.locate().is_file()
    ]
    (tmp_path / "in" / "r").mkdir(parents=True)
    for number, path in enumerate(sorted(map(str, installed))[:3]):
        (tmp_path / "in" / "r" / f"{number}.ipynb").write_bytes(pathlib.Path(path).read_bytes())
    own = {
        "cells": [{"cell_type": "code", "source": "total = sum(range(10))\nprint(total)", "outputs": []}],
        "metadata": {},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    (tmp_path / "in" / "r" / "own.ipynb").write_text(json.dumps(own))
    (tmp_path / "in" / "r" / "broken.ipynb").write_text(json.dumps(own)[:-9])
    made = code.Job(
        name="n",
        input_root=str(tmp_path / "in"),
        inputs=("**",),
        output=str(tmp_path / "out"),
        filters=(),
        num_shards=1,
        dead_letter_threshold=0.6,
    )
    manifest = launcher.run(made, quiet=True)
    documents = list(read_corpus(str(tmp_path / "out")))
    assert manifest["funnel"]["dead_letters"] == {"parse.notebook": 1} and len(documents) == min(3, len(installed)) + 1
    assert all(d.metadata["language"] == "jupyter" and "# %%" in d.text and '"cells"' not in d.text for d in documents)

"""The code job on the odd repository of the broken inputs and on packages installed here."""

import importlib.metadata
import pathlib
import tarfile

import pytest

from pipelines import code, corpus, job

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


def test_every_file_of_the_odd_repository_is_rejected_for_its_reason(real_data, tmp_path):
    made = code.Job(
        name="odd",
        input_root=str(real_data / "bad"),
        inputs=("code_repo_odd.tar.gz",),
        output=str(tmp_path),
        keep_rejects=True,
        num_shards=1,
    )
    manifest = job.run(made, quiet=True)
    found = {}
    for path in pathlib.Path(tmp_path, "rejected").rglob("*.parquet"):
        for document in corpus.read_shard(str(path)):
            found[document.source.partition("#member=repo-0/")[2]] = path.parent.name
    assert found == ODD and manifest["funnel"]["read"] == len(ODD) and manifest["funnel"]["kept"] == 0
    assert not [p for p in tmp_path.rglob("*") if "evil" in p.name]


def test_installed_packages(tmp_path):
    packed = []
    for name in ("jinja2", "gin-config", "msgpack"):
        distribution = importlib.metadata.distribution(name)
        with tarfile.open(tmp_path / f"{name}.tar.gz", "w:gz") as archive:
            for file in distribution.files or ():
                if ".." not in file.parts and file.suffix in (".py", ".txt", "") and file.locate().is_file():
                    archive.add(file.locate(), arcname=f"{name}/{file}", recursive=False)
        packed.append(name)
    made = code.Job(name="installed", input_root=str(tmp_path), inputs=("*.tar.gz",), output=str(tmp_path / "out"), num_shards=2)
    manifest = job.run(made, quiet=True)
    documents = list(corpus.read_corpus(str(tmp_path / "out")))
    assert manifest["funnel"]["kept"] == len(documents) > 30
    assert {d.metadata["repository"] for d in documents} >= {"jinja2"}
    assert all(set(d.metadata["licences"]) <= {"MIT", "BSD-3-Clause", "Apache-2.0"} for d in documents)
    assert {"python"} <= {d.metadata["language"] for d in documents}

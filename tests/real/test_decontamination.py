"""Decontamination on real pages with the published benchmarks.

Planted items are found in every language, clean pages are kept, and the report shows both.
"""

import gzip
import json
import random

import pytest

from castor.pipelines import web
from castor.pipelines.decontamination import benchmark_files
from castor.pipelines.decontamination.decontaminate import Decontaminate
from castor.pipelines.execution import launcher

pytestmark = pytest.mark.real

FILES = ("gsm8k_test", "HumanEval", "mgsm_de", "mgsm_zh", "mgsm_ja", "mgsm_ru", "mgsm_bn", "bbh_causal_judgement")


def test_planted_questions_are_found_and_real_pages_stay(real_data, tmp_path):
    root = str(real_data / "eval")
    passages = [
        p
        for b in benchmark_files.PUBLISHED
        for path in benchmark_files.paths(root, b)
        for p in benchmark_files.read(path, b)
    ]
    rng = random.Random(0)
    pages = [json.loads(line) for line in gzip.open(real_data / "web" / "gold_text.jsonl.gz", "rt", encoding="utf-8")]
    texts = [page["text"] for page in pages if len(page.get("text") or "") > 500]
    rows, planted = [{"text": text} for text in texts], 0
    for file in FILES:
        for passage in rng.sample([p for p in passages if p.file == file and p.part == "question"], 4):
            host = rng.choice(texts)
            at = host.find(" ", len(host) // 2)
            for changed in (passage.text, passage.text.upper(), passage.text.replace(",", " -").replace("\n", " ")):
                rows.append({"text": f"{host[:at]} {changed} {host[at:]}"})
                planted += 1
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = web.Job(
        name="planted",
        input_root=str(tmp_path),
        inputs=("in.jsonl",),
        output=str(tmp_path / "out"),
        filters=(Decontaminate(root=root),),
        duplicates=(),
    )
    funnel = launcher.run(made, quiet=True)["funnel"]
    assert sum(funnel["rejected"].values()) == planted and funnel["kept"] == len(texts)
    report = {
        row["file"]: row for row in json.loads((tmp_path / "out" / "contamination.json").read_text())["benchmarks"]
    }
    assert len(report) == 13 and report["gsm8k_test"]["items"] == 1319 and report["gsm8k_test"]["searched"] == 1319
    assert all(report[file]["matched"] >= 4 and report[file]["longest"] >= 20 for file in FILES)
    assert {f"decontamination.{b.name}" for b in benchmark_files.PUBLISHED} >= set(funnel["rejected"])

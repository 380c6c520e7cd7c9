"""Share of pages kept per language: by Castor's rules, by the same rules for English alone, and by datatrove.

    python benchmarks/web/kept_by_language.py --root=DATA/web --pages='crawl/*.warc.gz' --pages='text/ko-*.zst' \\
        --peer-python=DATATROVE/bin/python

All filter the same texts: the pages as extracted by html.Extract, with the language detected by
pipelines/text/language.py. Castor's rules are those of gin/pipelines/web.gin, and those of
gin/pipelines/web_fineweb.gin without its language filter. "English" means the latter rules applied as if every page
were English, with their bounds on words and lines for all scripts. Prints one JSON line: pages and kept shares by
language, and the rejection reasons of each.
"""

import argparse
import collections
import dataclasses
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
from typing import Any

from castor.pipelines import web
from castor.pipelines.core import functions
from castor.pipelines.document import Document, Rejection
from castor.pipelines.filters import fineweb, gopher_quality, gopher_repetition
from castor.pipelines.readers import web_source
from castor.pipelines.text import html, language
from castor.tasks import configuration

FEWEST = 3  # minimum number of pages for a language to get its own row


def documents(root: str, patterns: list[str]) -> list[Document]:
    """The main texts of all pages, with their languages."""
    source, step = (
        web_source.WebSource("kept", root, tuple(patterns)),
        functions.Chain((html.Extract(), language.Identify())),
    )
    elements = (
        functions.apply("extract", step, e)
        for uri in source.files()
        for e in source.read(uri)
        if isinstance(e, Document)
    )
    return [e for e in elements if isinstance(e, Document)]


def recipe(name: str) -> tuple[Any, ...]:
    """The rules of a gin file."""
    configuration.parse(configuration.Flags((f"pipelines/{name}.gin",), ("INPUT_ROOT = ''", "OUTPUT = ''")))
    return tuple(web.Job().filters)


def for_english(rules: tuple[Any, ...]) -> tuple[Any, ...]:
    """Rules made for the Latin script only."""
    changes = {
        gopher_repetition.Filter: {"unspaced_factor": 1},
        gopher_quality.Filter: {"max_unspaced_for_length": 1.0, "min_language_score": 0.0},
        fineweb.Filter: {"max_unspaced_for_length": 1.0},
    }
    return tuple(dataclasses.replace(rule, **changes.get(type(rule), {})) for rule in rules)


def judge(rules: tuple[Any, ...], document: Document) -> str | None:
    """The reason that a document is rejected for; None if the document is kept."""
    steps = tuple(functions.FilterFunction(rule) if hasattr(rule, "check") else rule for rule in rules)
    found = functions.Chain(steps)(document)
    return str(found.reason) if isinstance(found, Rejection) else None


def peer_reasons(python: str, found: list[Document]) -> dict[str, str | None]:
    """datatrove's reason for each document id."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "texts.jsonl")
        path.write_text("".join(json.dumps({"id": d.id, "text": d.text}) + "\n" for d in found), encoding="utf-8")
        command = [python, str(pathlib.Path(__file__).with_name("datatrove_peer.py")), "rules", str(path)]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONHOME"}
        output = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        ).stdout
    return json.loads(output.splitlines()[-1])["reasons"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder of the archives")
    parser.add_argument("--pages", action="append", required=True, help="patterns of archives under it")
    parser.add_argument("--peer-python", default="", help="an interpreter that has datatrove")
    arguments = parser.parse_args()
    found = documents(arguments.root, arguments.pages)
    default, published = recipe("web"), recipe("web_fineweb")
    english = for_english(published)
    reasons = {
        "castor": {d.id: judge(default, d) for d in found},
        "castor_published": {d.id: judge(published, d) for d in found},
        "english": {d.id: judge(english, d.with_metadata(language="en")) for d in found},
    }
    if arguments.peer_python:
        reasons["datatrove"] = peer_reasons(arguments.peer_python, found)
    groups = collections.defaultdict(list)
    for document in found:
        groups[document.metadata["language"]].append(document.id)
    languages = sorted(
        (code for code, ids in groups.items() if len(ids) >= FEWEST), key=lambda code: -len(groups[code])
    )
    row = {
        "benchmark": "kept_by_language",
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "pages": len(found),
        "kept": {
            name: round(sum(r is None for r in verdicts.values()) / len(found), 3) for name, verdicts in reasons.items()
        },
        "by_language": {
            code: {
                "pages": len(groups[code]),
                **{
                    name: round(sum(verdicts[i] is None for i in groups[code]) / len(groups[code]), 3)
                    for name, verdicts in reasons.items()
                },
            }
            for code in languages
        },
        "reasons": {
            name: dict(collections.Counter(filter(None, verdicts.values())).most_common(12))
            for name, verdicts in reasons.items()
        },
    }
    print(json.dumps(row, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())

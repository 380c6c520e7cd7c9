"""Accuracy and calibration of language detection by length of text, for Castor's rule and for py3langid's own.

    python benchmarks/web/language.py --pages='crawl/*.warc.gz' --root=DATA/web --questions='DATA/eval/mgsm_*.tsv'

There are two kinds of labelled text. The first is the main text of pages whose `lang` attribute agrees with the country
of their host (or with the language in their file name). Short lines, which are often menus, are removed; for labels
with another script, so are lines that are not in that script. The second is questions whose file is named after their
language. Pieces of a given number of characters begin at whitespace. At most PER_LANGUAGE texts per language and two
pieces per text are used. Labels are imperfect: an English article in a German newspaper counts as an error.

Prints one JSON line: for each length the number of pieces, accuracy, mean confidence and expected calibration error
(ten bins of equal width), and the cost of a whole text.
"""

import argparse
import collections
import glob
import json
import pathlib
import platform
import random
import re
import statistics
import sys
import time
from urllib.parse import urlsplit

import numpy as np

from castor.pipelines.core import functions
from castor.pipelines.document import Document
from castor.pipelines.readers import web_source
from castor.pipelines.text import html, language

LENGTHS = (10, 20, 50, 100, 200, 500)
PER_LANGUAGE = 40
COUNTRIES = {
    "at": "de", "au": "en", "br": "pt", "cl": "es", "cn": "zh", "cz": "cs", "dk": "da", "gov": "en", "gr": "el",
    "jp": "ja", "kr": "ko", "mx": "es",
    "se": "sv", "tw": "zh", "ua": "uk", "uk": "en", "vn": "vi",
    **{code: code for code in "bg de es fi fr hr hu it nl no pl pt ro ru tr".split()},
}  # fmt: skip
SCRIPTS = {
    "ar": "\u0600-\u06ff", "bg ru uk": "\u0400-\u04ff", "bn": "\u0980-\u09ff", "el": "\u0370-\u03ff",
    "hi": "\u0900-\u097f",
    "ja zh": "\u3040-\u30ff\u4e00-\u9fff", "ko": "\uac00-\ud7a3",
}  # fmt: skip
LANG = re.compile(rb"<html[^>]*?\blang\s*=\s*[\"']?([a-z]{2})\b", re.IGNORECASE)
NAMED = re.compile(r"\.([a-z]{2})(?:-[a-z]+)?\.(?:html|php)\b")


def label(url: str, page: bytes) -> str | None:
    """The language of a page, if its `lang` attribute and its URL agree."""
    declared = LANG.search(page[:3000])
    declared = {"nb": "no", "nn": "no"}.get(code := declared.group(1).decode().lower(), code) if declared else None
    parts = urlsplit(url)
    named = NAMED.search(parts.path)
    by_url = named.group(1) if named else COUNTRIES.get((parts.hostname or "").rpartition(".")[2])
    return declared if declared and declared == by_url else None


def prose(text: str, code: str) -> str:
    """The lines that are sentences, in the script of the language."""
    script = next((characters for codes, characters in SCRIPTS.items() if code in codes.split()), None)
    lines = [line for line in text.split("\n") if len(line.split()) >= 6 or code in ("ja", "zh") and len(line) >= 15]
    if script:
        lines = [
            line for line in lines if len(re.findall(f"[{script}]", line)) >= 0.5 * len(re.findall(r"[^\W\d_]", line))
        ]
    return "\n".join(lines)


def labelled(root: str, patterns: list[str], questions: list[str]) -> list[tuple[str, str]]:
    """(language, text) of every labelled text."""
    found = []
    source, extract = web_source.WebSource("language", root, tuple(patterns)), html.Extract()
    for uri in source.files():
        for document in source.read(uri):
            code = (
                isinstance(document, Document)
                and document.bytes
                and label(str(document.metadata.get("url", "")), document.bytes)
            )
            element = functions.apply("extract", extract, document) if code else None
            if isinstance(element, Document) and len(text := prose(element.text, code)) >= 300:
                found.append((code, text))
    for name in questions:
        rows = [row.split("\t")[0] for row in pathlib.Path(name).read_text(encoding="utf-8").splitlines()]
        found += [(pathlib.Path(name).stem[-2:], " ".join(rows[i : i + 10])) for i in range(0, len(rows), 10)]
    return found


def pieces(texts: list[tuple[str, str]], length: int) -> list[tuple[str, str]]:
    """(language, piece of `length` characters), the same ones in every run."""
    chance, result, taken = random.Random(length), [], collections.Counter()
    for code, text in chance.sample(texts, len(texts)):
        if taken[code] < PER_LANGUAGE and len(text) > length + 20:
            taken[code] += 1
            for _ in range(2):
                start = chance.randrange(len(text) - length - 20)
                blank = text.find(" ", start, start + 20)
                result.append((code, text[blank + 1 if blank >= 0 else start :][:length]))
    return result


def reliability(verdicts: list[tuple[bool, float]]) -> dict[str, float]:
    """Accuracy, mean confidence and expected calibration error of (right, confidence)."""
    right, confidence = np.array([v[0] for v in verdicts], float), np.array([v[1] for v in verdicts])
    bins = np.minimum((confidence * 10).astype(int), 9)
    error = sum(
        (bins == b).mean() * abs(right[bins == b].mean() - confidence[bins == b].mean())
        for b in range(10)
        if (bins == b).any()
    )
    return {
        "accuracy": round(right.mean(), 4),
        "confidence": round(confidence.mean(), 4),
        "calibration_error": round(float(error), 4),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder of the archives")
    parser.add_argument("--pages", action="append", required=True, help="patterns of archives under it")
    parser.add_argument("--questions", default="", help="pattern of tab-separated files, ..._LANGUAGE.tsv")
    arguments = parser.parse_args()
    from py3langid import langid

    peer = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
    texts = labelled(arguments.root, arguments.pages, sorted(glob.glob(arguments.questions)))
    by_length = {}
    for length in LENGTHS:
        cut = pieces(texts, length)
        by_length[length] = {
            "pieces": len(cut),
            "castor": reliability(
                [(found == code, score) for code, piece in cut for found, score in [language.identify(piece)]]
            ),
            "py3langid": reliability(
                [(found == code, score) for code, piece in cut for found, score in [peer.classify(piece)]]
            ),
        }
    whole, seconds = [], {"castor": [], "py3langid": []}
    for code, text in texts:
        for name, function in (("castor", language.identify), ("py3langid", peer.classify)):
            started = time.process_time()
            found = function(text)
            seconds[name].append(time.process_time() - started)
            if name == "castor":
                whole.append((found[0] == code, found[1]))
    row = {
        "benchmark": "language",
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "texts": len(texts),
        "languages": len({code for code, _ in texts}),
        "by_length": by_length,
        "whole_texts": reliability(whole),
        "milliseconds_a_text": {name: round(1000 * statistics.mean(values), 3) for name, values in seconds.items()},
    }
    print(json.dumps(row))
    return 0


if __name__ == "__main__":
    sys.exit(main())

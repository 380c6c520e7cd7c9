"""Lists of millions of domains: load time, memory, and the cost of checking an address, a page's words and directives.

    python benchmarks/web/lists.py --root=DATA/web --pages='crawl/*.warc.gz' [--entries=4000000]

The domains are synthetic and match no page. Strings, hard words and soft words are Castor's own.

load_s, mb: time to read the file, and growth of the process's resident memory.
Costs: microseconds of CPU per page, means over all pages, minimum of three turns. `words` is for a page whose tokens
    already exist.
rejected: pages of the real archive by rule, with Castor's own lists and the default directives.

Prints one JSON line.
"""

import argparse
import collections
import gc
import json
import os
import pathlib
import platform
import tempfile
import time

from castor.pipelines.core import lists
from castor.pipelines.core.functions import apply
from castor.pipelines.document import Document
from castor.pipelines.filters import bad_words, robots, url_lists
from castor.pipelines.readers import web_source
from castor.pipelines.text import html
from castor.pipelines.text.tokenized_text import tokenize


def resident_mb() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def cost(check, documents: list[Document], prepare=None) -> float:
    total = 0.0
    for document in documents:
        turns = []
        if prepare:
            prepare(document.text)
        for _ in range(3):
            begin = time.process_time_ns()
            check(document)
            turns.append(time.process_time_ns() - begin)
        total += min(turns)
    return round(total / len(documents) / 1000, 1)


def tokenise(text: str) -> None:
    tokenize(text).token_hashes  # noqa: B018


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", required=True)
    parser.add_argument("--pages", action="append", required=True)
    parser.add_argument("--entries", type=int, default=4_000_000)
    arguments = parser.parse_args()
    result = {
        "benchmark": "lists",
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "entries": arguments.entries,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "domains.txt")
        with path.open("w") as file:
            for i in range(arguments.entries):
                file.write(f"{i * 2654435761 % 2**32:x}.site{i % 997}.invalid\n")
        gc.collect()
        before, begin = resident_mb(), time.perf_counter()
        rules = url_lists.Filter(domains=(str(path),))
        rules.prepare()
        gc.collect()
        result["load_s"], result["mb"] = round(time.perf_counter() - begin, 2), round(resident_mb() - before, 1)
        assert len(lists.hashed((str(path),))) == arguments.entries
    source = web_source.WebSource("web", arguments.root, tuple(arguments.pages))
    fetched = [element for uri in source.files() for element in source.read(uri) if isinstance(element, Document)]
    result["pages"] = len(fetched)
    result["address_us"] = cost(rules.check, fetched)
    result["directives_us"] = cost(robots.Filter().check, fetched)
    own = url_lists.Filter()
    result["rejected"] = collections.Counter(
        filter(None, (rule.check(d) for d in fetched for rule in (own, robots.Filter())))
    )
    result["noindex"] = sum(robots.Filter(directives=("noindex", "none")).check(d) is not None for d in fetched)
    texts = [d for d in (apply("extract", html.Extract(), d) for d in fetched) if isinstance(d, Document)]
    words = bad_words.Filter(words={"*": "castor/words_en.txt"})
    words.prepare()
    result["words_us"] = cost(words.check, texts, tokenise)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

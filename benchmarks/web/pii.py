"""Recall and false positives on planted personal data, and cost per page, compared with datatrove's formatter.

    python benchmarks/web/pii.py --root=DATA/web --pages='crawl/*.warc.gz' [--peer=PYTHON]

PYTHON is an interpreter that has datatrove. Planted data is synthetic: addresses, numbers with correct check digits,
and phone numbers in the formats of 24 countries, some after a label as on real pages. Decoys look like personal data
but are not: versions, dates, prices, coordinates, ISBNs, order numbers, random digits, cards and accounts with a wrong
check digit, private addresses. Each value is planted between two words of a real page's text, one value per page.

recall: share of planted values that were removed.
false: decoys that were changed.
on_pages: what is found in the unmodified real texts. With --show, prints each with its context, for a person to judge.

The peer knows e-mail and IPv4 only. Costs are milliseconds of CPU per page: medians of five turns over all pages, each
contender in a process alone. Prints one JSON line.
"""

import argparse
import collections
import json
import platform
import random
import statistics
import subprocess
import sys
import time

from castor.pipelines.core.functions import apply
from castor.pipelines.document import Document
from castor.pipelines.readers import web_source
from castor.pipelines.text import html, pii
from castor.pipelines.text.tokenized_text import tokenize

PHONES = (
    "+1 202 555 0###", "+1-415-555-01##", "(312) 555-01##", "646-555-01##", "503.555.01##", "1-800-555-01##",
    "+44 20 7946 0###", "+44 (0)161 496 0###",
    "+49 30 23125###", "+49 (0)89/1234##", "+49 171 39200##", "+33 1 99 00 12 ##", "+33 6 39 98 0# ##",
    "+34 910 123 4##", "+39 06 1234 5##", "+41 44 668 18 ##",
    "+43 1 58858 ###", "+31 20 794 0###", "+32 2 555 12 ##", "+46 8 465 004 ##", "+47 22 12 34 ##", "+48 22 555 12 ##",
    "+420 224 123 ###", "+351 21 123 4###",
    "+7 495 123-45-##", "+380 44 123 45 ##", "+90 212 555 01 ##", "+91 98765 43###", "+86 10 6552 9###",
    "+81 3-1234-5###", "+82 2-312-3###", "+55 11 91234-5###",
    "+61 2 5550 1###", "+264 61 279 ###", "+971 4 123 4###",
)  # fmt: skip
LABELLED = (
    "Tel.: 030 / 231 25 ###",
    "Telefon 0711 123 4##",
    "Tel: (089) 12 34 5##",
    "phone: 020 7946 0###",
    "Fax 01 42 68 53 ##",
    "电话：010-6552####",
    "☎ 0221 12345##",
)
DECOYS = {
    "version": ("version 4.12.0.##", "v1.2.3.##", "Chrome/91.0.4472.1##", "release 8.8.1.#"),
    "private_ip": ("192.168.0.1##", "10.0.0.##", "127.0.0.1", "172.16.4.##"),
    "date": ("2019-03-12 10:15:##", "12.03.2019", "2011/12/## 14:33:21", "Tel 2019-2020", "fax 1999-2004"),
    "money": ("1,234,567.## dollars", "12.345.678,## Euro", "+12,5##", "+3.1##"),
    "place": ("52.520008, 13.4049##", "+52.520008", "N 48 51 29.## E 2 17 40"),
    "book": ("978-3-16-148410-0", "ISBN 9783161484100", "0-306-40615-#"),
    "order": ("no. 20250142####", "order 4711-0815-####", "ID 123456789012####", "part 555-1234-##"),
    "score": ("21-19, 21-17, 3-##", "100-200-3##", "12 345 678 9##"),
    "address": ("git@github.com:a/b##", "icon@2x.png", "@handle##", "a@localhost", "user@example.com"),
    "code": ("std::vector::at", "0xdeadbeef##", "a::b::c", "12:30:45:##", "00:1B:44:11:3A:##"),
}


def digits(pattern: str, draw: random.Random) -> str:
    return "".join(str(draw.randrange(10)) if c == "#" else c for c in pattern)


def card(draw: random.Random, right: bool = True) -> str:
    prefix, length = draw.choice(
        (("4", 16), ("51", 16), ("55", 16), ("2221", 16), ("34", 15), ("37", 15), ("6011", 16), ("3528", 16))
    )
    body = prefix + "".join(str(draw.randrange(10)) for _ in range(length - len(prefix) - 1))
    number = next(body + str(d) for d in range(10) if pii.luhn(body + str(d)) == right)
    if length == 15:
        return draw.choice((number, f"{number[:4]} {number[4:10]} {number[10:]}"))
    sign = draw.choice(("", " ", "-"))
    return sign.join(number[i : i + 4] for i in range(0, 16, 4))


def iban(draw: random.Random, right: bool = True) -> str:
    country, length = draw.choice(sorted(pii._IBAN_LENGTHS.items()))
    body = "".join(str(draw.randrange(10)) for _ in range(length - 4))
    number = next(f"{country}{c:02}{body}" for c in range(2, 99) if pii.iban_holds(f"{country}{c:02}{body}") == right)
    return draw.choice((number, " ".join(number[i : i + 4] for i in range(0, length, 4))))


def planted(kind: str, draw: random.Random) -> tuple[str, str]:
    """(text to plant, the part that must be removed)."""
    name = draw.choice(("anna", "j.smith", "li_wei", "o'brien", "k-mueller", "info", "press+news", "x7")) + draw.choice(
        ("", str(draw.randrange(100)))
    )
    if kind == "email":
        host = draw.choice(
            (
                "gmail.com",
                "uni-koeln.de",
                "mail.co.uk",
                "news.example-shop.com.br",
                "xn--bcher-kva.de",
                "a.io",
                "museum.museum",
            )
        )
        value = f"{name}@{host}"
        return draw.choice(("{}", "mailto:{}", "<{}>", "({})", "E-Mail:{}.")).format(value), value
    if kind == "ipv4":
        value = (
            f"{draw.choice((8, 23, 62, 93, 145, 203))}.{draw.randrange(256)}"
            f".{draw.randrange(1, 99)}.{draw.randrange(1, 255)}"
        )
        return draw.choice(("{}", "({})", "{}:8080", "http://{}/")).format(value), value
    if kind == "ipv6":
        value = (
            f"2{draw.randrange(0x600, 0xA0F):03x}:{draw.randrange(1, 65536):x}"
            f":{draw.randrange(1, 65536):x}::{draw.randrange(1, 65536):x}"
        )
        return draw.choice(("{}", "[{}]", "({})")).format(value), value
    if kind == "phone":
        value = digits(draw.choice(PHONES), draw)
        return value, value
    if kind == "phone_labelled":
        value = digits(draw.choice(LABELLED), draw)
        return value, value[-4:]
    value = card(draw) if kind == "card" else iban(draw)
    return value, value


def plant(text: str, value: str, draw: random.Random) -> str:
    gaps = [i for i, c in enumerate(text) if c in " \n"] or [len(text)]
    at = draw.choice(gaps)
    return f"{text[:at]} {value} {text[at:]}"


def texts(root: str, patterns: list[str]) -> list[str]:
    source, extract, made = web_source.WebSource("web", root, tuple(patterns)), html.Extract(), []
    for uri in source.files():
        for element in source.read(uri):
            if isinstance(element, Document):
                document = apply("extract", extract, element)
                if isinstance(document, Document):
                    made.append(document.text)
    return made


def cost(function, made: list[str]) -> float:
    turns = []
    for _ in range(5):
        begin = time.process_time()
        for text in made:
            function(text)
        turns.append((time.process_time() - begin) / len(made) * 1000)
    return round(statistics.median(turns), 4)


PEER = """
import json, sys, time, statistics
from datatrove.pipeline.formatters import PIIFormatter
formatter = PIIFormatter()
made, planted = json.load(sys.stdin)
turns = []
for _ in range(5):
    begin = time.process_time()
    for text in made: formatter.format(text)
    turns.append((time.process_time() - begin) / len(made) * 1000)
print(json.dumps([statistics.median(turns), [formatter.format(text) for text in planted], [formatter.format(text) != text for text in made]]))
"""  # noqa: E501


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", required=True)
    parser.add_argument("--pages", action="append", required=True)
    parser.add_argument("--peer")
    parser.add_argument("--show", action="store_true")
    arguments = parser.parse_args()
    draw, made = random.Random(0), texts(arguments.root, arguments.pages)
    clean = [text for text in made if not pii.replace(text)[1]]
    kinds = ("email", "ipv4", "ipv6", "iban", "card", "phone", "phone_labelled")
    values = [(kind, *planted(kind, draw)) for kind in kinds for _ in range(400)]
    planted_texts = [plant(draw.choice(clean), value, draw) for _, value, _ in values]
    gone = collections.Counter(
        kind for (kind, _, core), text in zip(values, planted_texts, strict=True) if core not in pii.replace(text)[0]
    )
    decoys = [(kind, digits(draw.choice(forms), draw)) for kind, forms in DECOYS.items() for _ in range(200)]
    decoys += [("random_16_digits", str(draw.randrange(10**15, 10**16))) for _ in range(1000)]
    decoys += [("wrong_check", (card if draw.random() < 0.5 else iban)(draw, right=False)) for _ in range(400)]
    touched = collections.Counter(
        kind for kind, value in decoys if pii.replace(plant(draw.choice(clean), value, draw))[1]
    )
    asked = collections.Counter(kind for kind, _ in decoys)
    found = collections.Counter()
    for text in made:
        for begin, end, key in pii.spans(text):
            if key:
                found[key] += 1
                if arguments.show:
                    print(
                        key,
                        repr(text[max(0, begin - 30) : begin]),
                        repr(text[begin:end]),
                        repr(text[end : end + 20]),
                        file=sys.stderr,
                    )
    result = {
        "benchmark": "pii",
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "pages": len(made),
        "characters": sum(map(len, made)),
        "recall": {kind: gone[kind] / 400 for kind in kinds},
        "false": {kind: f"{touched[kind]} of {asked[kind]}" for kind in asked},
        "on_pages": dict(found),
        "ms_a_page": cost(pii.replace, made),
        "of_which_view": cost(_view, made),
    }
    if arguments.peer:
        done = subprocess.run(
            [arguments.peer, "-c", PEER],
            input=json.dumps([made, planted_texts]),
            capture_output=True,
            text=True,
            check=True,
        )
        peer_cost, peer_texts, changed = json.loads(done.stdout.splitlines()[-1])
        gone = collections.Counter(
            kind for (kind, _, core), text in zip(values, peer_texts, strict=True) if core not in text
        )
        result["datatrove"] = {
            "ms_a_page": round(peer_cost, 4),
            "recall": {k: gone[k] / 400 for k in ("email", "ipv4")},
            "pages_changed": sum(changed),
        }
        result["pages_changed_for_email_or_ip"] = sum(bool(pii.replace(text, ("email", "ip"))[1]) for text in made)
        result["ms_a_page_email_and_ip"] = cost(_email_and_ip, made)
    print(json.dumps(result))


def _view(text: str):
    tokenize.cache_clear()
    return tokenize(text).codes


def _email_and_ip(text: str):
    return pii.replace(text, ("email", "ip"))


if __name__ == "__main__":
    main()

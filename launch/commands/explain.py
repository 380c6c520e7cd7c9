"""`castor data explain CORPUS`: shows which rule kept or rejected a document, and the measured value.

    castor data explain corpora/web --url=http://example.org/page
    castor data explain corpora/web --id=0123456789abcdef0123456789abcdef
    castor data explain corpora/web --source='crawl.warc.gz#offset=1200'
    castor data explain corpora/web --url=... --again         reads the record again and shows the result of each step

Rejects need not have been kept: the corpus records the outcome of every record that was read.
"""

import argparse
import json
import re

_MOST_ROWS = 20
_EXCERPT = 300


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of explain, which other jobs reject."""
    group = parser.add_argument_group(
        "explain", "castor data explain CORPUS: show which rule kept or rejected a document, and the measured value"
    )
    group.add_argument(
        "corpus", nargs="?", metavar="CORPUS", help="the output of a web, code, image, audio or video job"
    )
    group.add_argument("--id", default="", help="document id, 32 hexadecimal digits")
    group.add_argument(
        "--url", default="", help="URL of a page, as in the archive; scheme, www. and a final slash are ignored"
    )
    group.add_argument(
        "--source", default="", help="location of the record, complete or its end: 'crawl.warc.gz#offset=1200'"
    )
    group.add_argument(
        "--again", action="store_true", help="read the record again and show the result of each step of the job"
    )


def given(arguments: argparse.Namespace) -> list[str]:
    """The arguments of explain that the command line gives."""
    flags = [f"--{name}" for name in ("id", "url", "source", "again") if getattr(arguments, name)]
    return [*filter(None, [arguments.corpus]), *flags]


def run(arguments: argparse.Namespace) -> int:
    """Prints the outcome of every matching record."""
    from rich.console import Console

    from castor.pipelines.corpus import outcomes
    from castor.pipelines.corpus.reader import load_manifest
    from castor.pipelines.execution import explain
    from castor.tasks.errors import ConfigurationError, CorpusError

    asked = {name: value for name in ("id", "url", "source") if (value := getattr(arguments, name))}
    if arguments.rest:
        raise ConfigurationError(
            f"castor data explain: unknown arguments: {' '.join(arguments.rest)}.", "See castor data --help."
        )
    if not arguments.corpus or len(asked) != 1:
        raise ConfigurationError(
            "castor data explain takes a corpus and one of --id, --url and --source.", "See castor data --help."
        )
    if "id" in asked and not re.fullmatch("[0-9a-f]{32}", asked["id"]):
        raise ConfigurationError(
            f"--id={asked['id']} is not a document id.", "An id is 32 lower-case hexadecimal digits."
        )
    manifest = load_manifest(arguments.corpus)
    if "source" in asked:
        asked["source"] = explain.source_in(manifest["config"], asked["source"])
    console = Console(highlight=False, soft_wrap=True)
    rows = 0
    for outcome in outcomes.find(arguments.corpus, **asked):
        rows += 1
        if rows > _MOST_ROWS:
            console.print(f"... and more; only the first {_MOST_ROWS} records are shown.", markup=False)
            break
        for line in _outcome_lines(arguments.corpus, manifest, outcome):
            console.print(line, markup=False)
        if arguments.again:
            _print_steps(console, arguments.corpus, manifest, outcome)
    if not rows:
        [(name, value)] = asked.items()
        raise CorpusError(
            f"{arguments.corpus} has no record with --{name}={value}.",
            "The record was not in the inputs, or has another name.",
        )
    return 0


def _outcome_lines(directory: str, manifest: dict, outcome) -> list[str]:
    from castor.pipelines.corpus import outcomes
    from castor.pipelines.execution import explain

    lines = [f"{outcome.id}  {outcome.source}"]
    if outcome.outcome == outcomes.KEPT:
        lines.append(f"  kept{'; ' + outcome.measure if outcome.measure else ''}")
        document = explain.document(directory, manifest, outcome.id)
        lines += [f"    {key}: {_short(value)}" for key, value in sorted(document.metadata.items())] if document else []
    elif outcome.outcome == outcomes.REJECTED:
        lines.append(f"  rejected: {outcome.reason}" + (f", measured: {outcome.measure}" if outcome.measure else ""))
        rule = explain.rule_of(manifest["config"], outcome.reason)
        if rule is not None:
            lines.append(f"    by {rule[0]}, with settings")
            lines += [f"      {key} = {_short(value)}" for key, value in rule[1].items()]
    elif outcome.outcome == outcomes.DUPLICATE:
        lines.append(f"  duplicate: {outcome.reason}")
        lines += [
            f"    by {kind}; {survivor or 'another document'} was kept"
            for kind, survivor in explain.way_to_survivor(directory, outcome)
        ]
    else:
        lines.append(f"  dead letter: {outcome.reason}: {outcome.measure}")
        lines.append("    castor data replay runs dead letters through the job again")
    return lines


def _print_steps(console, directory: str, manifest: dict, outcome) -> None:
    from castor.pipelines.execution import explain

    console.print("  the record, read again, step by step:", markup=False)
    for step in explain.again(directory, manifest, outcome):
        console.print(f"    {step.name}: {_verdict(step)}", markup=False)


def _verdict(step) -> str:
    from castor.pipelines.document import DeadLetter, Rejection

    if isinstance(step.result, DeadLetter):
        return f"dead letter {step.result.error}: {step.result.message}"
    if isinstance(step.result, Rejection):
        return f"rejected as {step.result.reason}" + (
            f", measured: {step.result.measure}" if step.result.measure else ""
        )
    changes = []
    if step.name == "source":
        changes.append(
            f"{len(step.result.text or '')} characters"
            if step.result.text is not None
            else f"{len(step.result.bytes or b'')} bytes"
        )
    elif step.result.text != step.before.text:
        changes.append(f"text of {len(step.before.text or '')} characters to {len(step.result.text or '')}")
    before = step.before.metadata if step.name != "source" else {}
    changes += [
        f"{key} = {_short(value)}" for key, value in sorted(step.result.metadata.items()) if before.get(key) != value
    ]
    return "passes" + (f"; {', '.join(changes)}" if changes else "")


def _short(value) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return text if len(text) <= _EXCERPT else text[:_EXCERPT] + "..."

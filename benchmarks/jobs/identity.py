"""What document ids, splits and corpus shards depend on.

Runs the web job on a small corpus before and after one change of its input or settings.

    python benchmarks/jobs/identity.py [--pages=60]

Prints one row for each change and each way to identify documents:

    ids        share of the earlier documents that keep their id
    split      documents present before and after, with the same text, that move between train (90 %) and validation
    shards     corpus shards whose documents change, ignoring `source`

This script generates the table in docs/determinism.md.
"""

import argparse
import pathlib
import shutil
import tempfile

import pyarrow.parquet

from castor.launch.recipes.demo_corpus import DemoCorpus
from castor.pipelines import web
from castor.pipelines.execution import launcher
from castor.pipelines.tokenization.examples import split_of, split_thresholds

SPLITS = split_thresholds({"train": 0.9, "validation": 0.1})
PLAIN = (
    "<html><body>" + "<p>Nothing but one page that was added, with a few words of its own.</p>" * 8 + "</body></html>"
)


def run(root, folder: pathlib.Path, identity: str, num_shards: int = 4) -> dict[str, list[dict]]:
    """{file: documents without `source`} of the corpus of the pages under `root`. No filters run: every page counts."""
    launcher.run(
        web.Job(
            name="web",
            input_root=str(root),
            inputs=("**/*",),
            output=str(folder),
            num_shards=num_shards,
            filters=(),
            identity=identity,
        ),
        quiet=True,
    )
    return {
        path.name: pyarrow.parquet.read_table(path).drop_columns(["source"]).to_pylist()
        for path in sorted(folder.glob("documents-*"))
    }


def compare(before: dict, after: dict, seeds: tuple[int, int] = (0, 0)) -> tuple[str, str, str]:
    """The three figures of a change (see the top of this file)."""
    old = {row["id"]: row["text"] for rows in before.values() for row in rows}
    new = {row["id"]: row["text"] for rows in after.values() for row in rows}
    places = [
        {text: split_of(seed, name, SPLITS) for name, text in documents.items()}
        for documents, seed in zip((old, new), seeds)
    ]
    moved = sum(places[1].get(text, place) != place for text, place in places[0].items())
    changed = sum(before[name] != after.get(name) for name in before)
    return f"{len(old.keys() & new.keys()) / len(old):.0%}", f"{moved} of {len(old)}", f"{changed} of {len(before)}"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=60)
    pages = parser.parse_args().pages
    print(f"| {'change':32} | identity | ids | split | shards |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        DemoCorpus(images=1, sounds=1, clips=1, pages=pages).make(str(folder / "demo"))
        raw = folder / "demo" / "web"
        for identity in ("location", "content"):
            before = run(raw, folder / f"{identity}-before", identity)
            changes = {"rename every raw file": folder / "renamed", "move INPUT_ROOT": folder / "elsewhere" / "raw"}
            for target in changes.values():
                shutil.copytree(raw, target, dirs_exist_ok=True)
            for path in sorted(changes["rename every raw file"].glob("pages-*")):
                path.rename(path.with_name(path.name.replace("pages", "crawl")))
            changes["spell INPUT_ROOT another way"] = f"{raw}/../web/."
            changes["add one file of one page"] = folder / "added"
            shutil.copytree(raw, folder / "added", dirs_exist_ok=True)
            (folder / "added" / "new.html").write_text(PLAIN)
            for number, (change, root) in enumerate(changes.items()):
                after = run(root, folder / f"{identity}-{number}", identity)
                print(f"| {change:32} | {identity} | {' | '.join(compare(before, after))} |", flush=True)
            after = run(raw, folder / f"{identity}-shards", identity, num_shards=5)
            print(f"| {'NUM_SHARDS from 4 to 5':32} | {identity} | {' | '.join(compare(before, after))} |")
            print(f"| {'SEED of the tokenize job':32} | {identity} | {' | '.join(compare(before, before, (0, 1)))} |")
            shutil.rmtree(folder / "renamed")


if __name__ == "__main__":
    main()

"""The sink of jobs that do not write a corpus: the funnel and the dead letters of all records."""

import apache_beam as beam

from castor.pipelines.core import dead_letters
from castor.pipelines.core.funnel import Funnel
from castor.pipelines.corpus.layout import MANIFEST
from castor.pipelines.document import DeadLetter, Document, Element, Rejection
from castor.tasks.storage import storage


class WriteFunnel(beam.PTransform):
    """(elements, counts) -> `funnel.json` under `staging` with the counts of all outcomes, and the dead letters."""

    def __init__(self, staging: str):
        super().__init__(label="funnel")
        self._staging = staging

    def expand(self, inputs):
        elements, counts = inputs
        read = counts | "read" >> beam.MapTuple(_read_outcome)
        outcomes = (
            (elements | "outcomes" >> beam.Map(_outcome), read) | beam.Flatten() | "count" >> beam.CombinePerKey(sum)
        )
        _ = (
            outcomes
            | "all outcomes" >> beam.combiners.ToList()
            | "funnel" >> beam.Map(write_pairs, storage.join(self._staging, "funnel.json"))
        )
        letters = elements | "dead" >> beam.Filter(_is_dead) | "all dead" >> beam.combiners.ToList()
        return letters | "letters" >> beam.Map(_write_letters, self._staging)


def read_funnel(staging: str) -> Funnel:
    """The funnel that `WriteFunnel` wrote under `staging`."""
    funnel = Funnel()
    for (outcome, reason), count in storage.read_json(storage.join(staging, "funnel.json")):
        if outcome in ("read", "kept"):
            setattr(funnel, outcome, count)
        else:
            (funnel.rejected if outcome == "rejected" else funnel.dead_letters)[reason] = count
    return funnel


def replace_output_letters(staging: str, output: str, funnel: Funnel) -> None:
    """Begins a commit: removes the manifest of `output` and replaces the dead letters there by the staged ones.

    The caller writes the rest of the output, the new manifest last.
    """
    kept_in = storage.join(output, dead_letters.FOLDER)
    storage.remove(storage.join(output, MANIFEST))
    storage.remove_tree(kept_in)
    if funnel.dead_total:
        storage.rename(storage.join(staging, dead_letters.FOLDER), kept_in)


def write_pairs(pairs: list, path: str) -> None:
    """Writes (key, values) pairs as sorted JSON."""
    storage.write_json_atomic(path, sorted([list(key), values] for key, values in pairs))


def _outcome(element: Element) -> tuple[tuple[str, str], int]:
    if isinstance(element, Document):
        return ("kept", ""), 1
    if isinstance(element, Rejection):
        return ("rejected", element.reason), 1
    return ("dead", f"{element.stage}.{element.error}"), 1


def _read_outcome(_: str, count: int) -> tuple[tuple[str, str], int]:
    return ("read", ""), count


def _is_dead(element: Element) -> bool:
    return isinstance(element, DeadLetter)


def _write_letters(letters: list, staging: str) -> None:
    storage.makedirs(storage.join(staging, dead_letters.FOLDER))
    storage.write_bytes_atomic(storage.join(staging, dead_letters.file_name(0, 1)), dead_letters.encode(letters))

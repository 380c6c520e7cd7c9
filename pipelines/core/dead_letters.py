"""Dead letters on disk: sorted JSON lines in `dead_letter/SSSSS-of-NNNNN.jsonl`, with the keys of `DeadLetter`.

    {"id": ..., "source": payload reference, "stage": ..., "error": short kind, "message": ...}

Payloads are not copied: `source` refers to them, and `castor data replay` reads them again from there. No Beam.
"""

import json
from collections.abc import Iterable, Iterator

from castor.pipelines.document import DeadLetter
from castor.tasks.errors import CorpusError
from castor.tasks.storage import storage

FOLDER = "dead_letter"


def file_name(shard: int, num_shards: int) -> str:
    """Name of a shard relative to the output directory."""
    return f"{FOLDER}/{shard:05d}-of-{num_shards:05d}.jsonl"


def encode(letters: Iterable[DeadLetter]) -> bytes:
    """Dead letters as sorted JSON lines. Lone surrogates (undecodable file names) are escaped: the file is ASCII."""
    lines = sorted(
        json.dumps(
            {"id": x.id, "source": x.source, "stage": x.stage, "error": x.error, "message": x.message}, sort_keys=True
        )
        for x in letters
    )
    return "".join(line + "\n" for line in lines).encode("ascii")


def read(directory: str) -> Iterator[DeadLetter]:
    """All dead letters of a corpus or cache, in file order. Raises CorpusError for a line that is not a dead letter."""
    folder = storage.join(directory, FOLDER)
    for name in storage.list_files(folder):
        if not name.endswith(".jsonl"):
            continue
        for number, line in enumerate(storage.read_bytes(storage.join(folder, name)).splitlines(), 1):
            try:
                yield DeadLetter(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise CorpusError(
                    f"{storage.join(folder, name)}, line {number}, is not a dead letter: {error}.",
                    "Run the job again.",
                ) from error

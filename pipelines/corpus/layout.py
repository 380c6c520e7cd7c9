"""The corpus on disk: the names of its files and folders.

    OUTPUT/
      documents-SSSSS-of-NNNNN.parquet      id, source, modality, text, bytes, metadata (JSON); cut and sorted by id
      dead_letter/SSSSS-of-NNNNN.jsonl      see pipelines/core/dead_letters.py
      rejected/REASON/SSSSS-of-NNNNN.parquet     on request: the rejected documents, with the column `measure`
      duplicates/SSSSS-of-NNNNN.parquet     the survivor of each removed document, deduplication/duplicates_table.py
      fates/SSSSS-of-NNNNN.parquet          the outcome of every record read, see pipelines/corpus/outcomes.py
      contamination.json, .html             benchmark passages found, decontamination/report.py
      card.html                             the data card
      manifest.json                         written last: shards (size, SHA-256), funnel, config, fingerprints, inputs

pandas, DuckDB and Hugging Face datasets open `OUTPUT/*.parquet` directly. An id is a uniform 128-bit hash, so equal
intervals of ids give shards of equal size, and the corpus as a whole is sorted by id. Every byte depends on the
documents alone, not on time, host or order of arrival.

The pipeline (sink.py) writes into a staging folder OUTPUT/.staging-RANDOM: one file per shard (shard_writer.py) and one
entry file per shard. Each file is written once as a whole, so a repeated bundle writes the same bytes again. After the
pipeline has succeeded, the launcher adds up the entries and commits (commit.py). Readers (reader.py) trust only the
manifest, so a half-written output is never read as a corpus.
"""

from castor.pipelines.core import dead_letters
from castor.pipelines.corpus import outcomes
from castor.pipelines.decontamination import report
from castor.pipelines.deduplication import duplicates_table

KIND, FORMAT = "corpus", 1
MANIFEST = "manifest.json"
CARD = "card.html"
REJECTED = "rejected"
FAILED = ".failed"
ENTRIES = ".entries"
SHARD_PREFIX = "documents-"
OTHER_FILES = (
    CARD,
    dead_letters.FOLDER,
    REJECTED,
    duplicates_table.FOLDER,
    outcomes.FOLDER,
    FAILED,
    report.JSON,
    report.PAGE,
)
"""Files and folders of a corpus apart from shards and manifest. A commit replaces them."""


def shard_file(shard: int, num_shards: int) -> str:
    """Name of a shard of documents."""
    return f"{SHARD_PREFIX}{shard:05d}-of-{num_shards:05d}.parquet"

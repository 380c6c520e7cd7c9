"""The corpus on disk: names of its files and folders.

    OUTPUT/
      documents-SSSSS-of-NNNNN.parquet      id, source, modality, text, bytes, metadata (JSON); cut and sorted by id
      dead_letter/SSSSS-of-NNNNN.jsonl      see pipelines/core/dead_letters.py
      rejected/REASON/SSSSS-of-NNNNN.parquet     on request: the documents rejected, with the column `measure`
      duplicates/SSSSS-of-NNNNN.parquet     the surviving document of each one removed, see pipelines/deduplication/duplicates_table.py
      fates/SSSSS-of-NNNNN.parquet          the outcome of every record read, see pipelines/corpus/outcomes.py
      contamination.json, .html             benchmark passages found, where a job looks for them, see pipelines/decontamination/report.py
      card.html                             the data card
      manifest.json                         written last: shards with size and SHA-256, funnel, configuration, fingerprints, inputs

pandas, DuckDB and Hugging Face datasets open `OUTPUT/*.parquet` as it is. An id is a uniform 128-bit hash, so equal intervals of it are
equal shards, and the corpus as a whole is sorted by id. Every byte follows from the documents alone: no timestamp, no host, no order of
arrival.

The pipeline (sink.py) writes into a staging folder OUTPUT/.staging-RANDOM: each shard in one write-once file (shard_writer.py), so that a
repeated bundle rewrites the same bytes, and one entry file per shard. After the pipeline has succeeded the launcher adds the entries up and
commits (commit.py). Readers (reader.py) trust only the manifest, so a half-written output is never a corpus.
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
"""Files and folders that a corpus owns in its directory, apart from shards and manifest: a commit replaces them."""


def shard_file(shard: int, num_shards: int) -> str:
    """Name of a shard of documents."""
    return f"{SHARD_PREFIX}{shard:05d}-of-{num_shards:05d}.parquet"

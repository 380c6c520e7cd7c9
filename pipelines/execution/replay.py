"""Replays dead letters: the job that made a corpus, configured to read only its dead letters."""

import gin
from castor.pipelines.corpus.reader import load_manifest
from castor.pipelines.execution.job_config import rebuild


@gin.configurable(module="pipelines.replay")
def make_job(corpus_directory: str, output: str, dead_letter_threshold: float = 1.0):
    """The job that made a corpus, rebuilt from its manifest, to read only the corpus's dead letters.

    corpus_directory: the corpus.
    output: directory for the result.
    dead_letter_threshold: share of records read that may become dead letters again before the job fails.

    Raises CorpusError if the corpus is incomplete or was made by an incompatible version of the job.
    """
    config = load_manifest(corpus_directory)["config"]
    return rebuild(config, output=output, replay_of=corpus_directory, dead_letter_threshold=dead_letter_threshold)

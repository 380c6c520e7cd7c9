"""Dead letters fed through again: the job that made a corpus, set to read only its dead letters."""

import gin
from castor.pipelines.corpus.reader import load_manifest
from castor.pipelines.execution.job_config import rebuild


@gin.configurable(module="pipelines.replay")
def make_job(corpus_directory: str, output: str, dead_letter_threshold: float = 1.0):
    """The job that made a corpus, as its manifest says it was configured, set to read only its dead letters and to write to `output`.

    Raises CorpusError if the corpus is not whole, was made by another version of the job, or has no dead letters.
    """
    config = load_manifest(corpus_directory)["config"]
    return rebuild(config, output=output, replay_of=corpus_directory, dead_letter_threshold=dead_letter_threshold)

"""A job small enough to test the framework with: lines of text files.

A module of its own, so that worker processes and sandboxes can import it.
"""

import dataclasses
import os
import pathlib
import signal
import time
from typing import ClassVar

from castor.pipelines.core.sandbox import Sandbox
from castor.pipelines.core.sources import FileSource, open_regular
from castor.pipelines.document import BadInput, Document, Rejection
from castor.pipelines.execution.job import RefineJob
from castor.tasks.errors import VocabularyError


@dataclasses.dataclass(frozen=True)
class LineSource(FileSource):
    """One document a line."""

    def records(self, uri):
        with open_regular(uri) as file:
            for number, line in enumerate(file, 1):
                yield self.document(
                    uri, f"line={number}", line.decode("utf-8", "surrogatepass").rstrip("\n"), number=number
                )
                if line.startswith(b"broken rest"):
                    raise BadInput("broken", "the rest cannot be read")


def shout(document: Document):
    """Upper case; certain words have certain effects."""
    first = document.text.split(" ")[0]
    if first == "bad":
        raise BadInput("bad_word", document.text)
    if first == "zero":
        return document.replace(text=str(1 // 0))
    if first == "reject":
        return Rejection(document, "shout.asked", "1")
    if first == "vocabulary":
        raise VocabularyError("the vocabulary is gone.", "Bring it back.")
    if first == "interrupt":
        raise KeyboardInterrupt
    if first == "wait":  # for ever; the file that is named says that it has begun
        pathlib.Path(document.text.split(" ")[1]).touch()
        time.sleep(600)
    return document.replace(text=document.text.upper())


def suffer(document: Document):
    """What hostile input makes of a parser."""
    first = document.text.split(" ")[0]
    if first == "spin":
        while True:
            pass
    if first == "spin_in_c":
        return document.replace(text=str(len(str(7**10**8))))
    if first == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if first == "exit":
        os._exit(3)
    if first == "eat":
        return document.replace(text=str(len(bytearray(8 << 30))))
    if first == "print":
        print("noise on standard output", flush=True)
        os.write(1, b"more noise")
    if first == "pid":
        return document.replace(text=str(os.getpid()))
    if first == "bad":
        raise BadInput("bad_word", "\ud800")
    if first == "recurse":
        return suffer(document)
    return document


@dataclasses.dataclass(frozen=True)
class Short:
    """Turns away long lines."""

    most: int = 100
    name: ClassVar[str] = "short"

    def check(self, document):
        return "short.too_long" if len(document.text) > self.most else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job(RefineJob):
    """Lines, shouted."""

    limits: Sandbox | None = None
    filter: Short = Short()

    def source(self):
        return LineSource(self.name, self.input_root, tuple(self.inputs), identity=self.identity)

    def build(self, pipeline, staging):
        from castor.pipelines.core.stages import Apply, Check
        from castor.pipelines.corpus.sink import WriteCorpus
        from castor.pipelines.deduplication.deduplicate import ExactDuplicates, text_key

        records, counts = pipeline | self.read()
        elements = records | Apply("shout", shout, self.limits) | Check(self.filter)
        return (elements, counts, elements | ExactDuplicates(text_key)) | WriteCorpus(
            staging, self.num_shards, self.keep_rejects
        )

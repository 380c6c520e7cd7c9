"""The common base of the image, audio and video jobs: media files as source, and a list of rules."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

from castor.pipelines.core.sandbox import Sandbox
from castor.pipelines.core.surrogates import escape_surrogates
from castor.pipelines.execution.job import RefineJob
from castor.pipelines.readers.media_source import MediaSource
from castor.tasks.storage import storage


@dataclasses.dataclass(frozen=True, kw_only=True)
class MediaJob(RefineJob):
    """Media files with sidecars -> corpus.

    max_bytes: largest media file, in bytes; larger files become dead letters.
    sandbox: limits on decoding one file.
    filters: rule sets and functions on the measures, in order.
    """

    max_bytes: int = 64 << 20
    sandbox: Sandbox = Sandbox()
    filters: Sequence[Any] = ()

    modality: ClassVar[str] = "image"

    def source(self) -> MediaSource:
        return MediaSource(
            self.name, self.input_root, tuple(self.inputs), self.modality, self.max_bytes, identity=self.identity
        )

    def input_state(self) -> dict[str, Any]:
        """As for every job, plus the states of the sidecars, which need not match `inputs`."""
        state, source = super().input_state(), self.source()
        for uri in source.files():
            for path in source.sidecars(uri).values():
                name = escape_surrogates(source.relative(path))
                state["files"].setdefault(name, storage.state(path))
        return state

"""The licence rule: only files whose repository, and the file itself where it speaks, may be used and passed on freely.

The licence files that govern a file (the nearest ones above it, see pipelines/repositories.py) must all be known and on the list; a
`SPDX-License-Identifier` in the file must be met by the list too.
"""

import dataclasses
from typing import ClassVar

import gin

from pipelines import licences
from pipelines.document import Document
from pipelines.filters.reason import Reason


@gin.configurable(module="licence")
@dataclasses.dataclass(frozen=True)
class Filter:
    """permissive: SPDX ids. Reads metadata `licences`, a list of SPDX ids, empty where the repository has no licence file."""

    permissive: tuple[str, ...] = licences.PERMISSIVE

    name: ClassVar[str] = "licence"

    def check(self, document: Document) -> str | None:
        allowed = frozenset(self.permissive)
        own = licences.spdx_expression(document.text)
        if own is not None and not licences.allows(own, allowed):
            return Reason("licence.of_file", own)
        found = document.metadata.get("licences", ())
        if not found:
            return "licence.none"
        if licences.UNKNOWN in found:
            return Reason("licence.unknown", ", ".join(found))
        return None if allowed.issuperset(found) else Reason("licence.not_permissive", ", ".join(found))

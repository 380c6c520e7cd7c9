"""Keeps only files whose licence permits use and redistribution.

A file is under the licence that its own header declares, else under the one that its repository gives it
(pipelines/sourcecode/licence_headers.py, licence_files.py). The licence is an SPDX expression, and the permissive
licences must satisfy it: `MIT OR GPL-2.0-only` passes, `MIT AND GPL-2.0-only` does not.

The Stack did the same with the permissive licences of the Blue Oak Council (Kocetkov et al. 2022, arXiv 2211.15533).
"""

import dataclasses
from typing import ClassVar

import gin
from castor.pipelines.document import Document
from castor.pipelines.filters.reason import Reason
from castor.pipelines.sourcecode import licence_headers, licences


@gin.configurable(module="licence")
@dataclasses.dataclass(frozen=True)
class Filter:
    """Rejects files without a permissive licence.

    Reads metadata `licence` (the expression, empty if no file declares one) and `licence_from` (paths of the files that
    declare it). A document without `licence` is checked by its header and by metadata `licences`, a list of SPDX ids
    that all apply.

    permissive: SPDX ids. Case and the suffix `-or-later` are ignored.
    """

    permissive: tuple[str, ...] = licences.PERMISSIVE

    name: ClassVar[str] = "licence"

    def check(self, document: Document) -> str | None:
        if "licence" not in document.metadata:
            document = licence_headers.Declare()(document)
        facts = document.metadata
        expression = facts.get("licence", " AND ".join(facts.get("licences", ())))
        if not expression:
            return Reason("licence.none", "no file says")
        if licences.allows(expression, frozenset(self.permissive)):
            return None
        path = facts.get("path", "")
        if facts.get("licence_from") == [path] and not licences.is_licence_file(path):
            return Reason("licence.of_file", expression)
        return Reason(
            "licence.unknown" if licences.UNKNOWN in facts.get("licences", ()) else "licence.not_permissive",
            _with_source(expression, facts),
        )


def _with_source(expression: str, facts) -> str:
    named = facts.get("licence_from", ())
    return f"{expression} ({', '.join(named[:3])}{', ...' if len(named) > 3 else ''})"[:300] if named else expression

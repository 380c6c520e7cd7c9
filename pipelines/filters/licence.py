"""The licence rule: only files that may be used and passed on freely.

A file is under what its own header declares, else under what its repository says of it (pipelines/sourcecode/licence_headers.py, licence_files.py): an SPDX
expression, which the licences of the list must meet. Of `MIT OR GPL-2.0-only` one side will do; of `MIT AND GPL-2.0-only` none.
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
    """permissive: SPDX ids; `or later` and upper case do not count.

    Reads metadata `licence` (the expression, empty where nothing decides) and `licence_from` (paths of the files that decided); a document
    without `licence` is judged by its header and by metadata `licences`, a list of ids to be met together.
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

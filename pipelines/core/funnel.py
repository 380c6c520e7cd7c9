"""The funnel: how many records a job read, and the outcome of each of them, exactly.

    read == kept + sum(rejected by reason) + sum(duplicates by kind) + sum(dead letters by stage and error)

A document made of several records (a repository document) counts as kept once per record, so `kept` may exceed the
number of documents. The left side is counted where records are read, the right side where they arrive. Both counts
travel with the data, so retries and lost counters cannot change them. A sink adds up the funnels of its shards. A job
whose two sides differ does not commit.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any


@dataclasses.dataclass
class Funnel:
    """Counts of one shard or of a whole job.

    `reject`, `duplicate` and `dead` add to it; `read` and `kept` are set directly.
    """

    read: int = 0
    kept: int = 0
    rejected: dict[str, int] = dataclasses.field(default_factory=dict)
    duplicates: dict[str, int] = dataclasses.field(default_factory=dict)
    dead_letters: dict[str, int] = dataclasses.field(default_factory=dict)

    def reject(self, reason: str) -> None:
        self.rejected[reason] = self.rejected.get(reason, 0) + 1

    def duplicate(self, kind: str) -> None:
        self.duplicates[kind] = self.duplicates.get(kind, 0) + 1

    def dead(self, stage: str, error: str) -> None:
        key = f"{stage}.{error}"
        self.dead_letters[key] = self.dead_letters.get(key, 0) + 1

    @property
    def accounted(self) -> int:
        """The right side of the equation."""
        return self.kept + sum(self.rejected.values()) + sum(self.duplicates.values()) + self.dead_total

    @property
    def dead_total(self) -> int:
        return sum(self.dead_letters.values())

    @property
    def adds_up(self) -> bool:
        return self.read == self.accounted

    def to_json(self) -> dict[str, Any]:
        """The funnel as JSON, as in manifests."""
        return {
            "read": self.read,
            "kept": self.kept,
            "rejected": dict(sorted(self.rejected.items())),
            "duplicates": dict(sorted(self.duplicates.items())),
            "dead_letters": dict(sorted(self.dead_letters.items())),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Funnel":
        """The inverse of `to_json`."""
        return cls(
            value["read"],
            value["kept"],
            dict(value["rejected"]),
            dict(value["duplicates"]),
            dict(value["dead_letters"]),
        )


def total(funnels: Iterable[Funnel]) -> Funnel:
    """The sum of funnels."""
    result = Funnel()
    for funnel in funnels:
        result.read += funnel.read
        result.kept += funnel.kept
        for mine, theirs in (
            (result.rejected, funnel.rejected),
            (result.duplicates, funnel.duplicates),
            (result.dead_letters, funnel.dead_letters),
        ):
            for key, count in theirs.items():
                mine[key] = mine.get(key, 0) + count
    return result


def rows(funnel: Funnel) -> list[tuple[str, str, int]]:
    """(outcome, reason, count) rows to show: read, kept, then rejections, duplicates, dead letters, largest first."""
    result = [("read", "", funnel.read), ("kept", "", funnel.kept)]
    for outcome, counts in (
        ("rejected", funnel.rejected),
        ("duplicate", funnel.duplicates),
        ("dead letter", funnel.dead_letters),
    ):
        result.extend((outcome, reason, count) for reason, count in sorted(counts.items(), key=_largest_first))
    return result


def _largest_first(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def table(funnel: Funnel, title: str):
    """The funnel as a rich Table."""
    from rich.table import Table
    from rich.text import Text

    result = Table(title=title, title_justify="left")
    result.add_column("outcome")
    result.add_column("reason", overflow="fold")
    result.add_column("records", justify="right")
    result.add_column("share", justify="right")
    for outcome, reason, count in rows(funnel):
        share = f"{count / funnel.read:.1%}" if funnel.read else ""
        result.add_row(
            outcome, Text(reason), f"{count:,}", share, style="bold" if outcome in ("read", "kept") else None
        )
    return result

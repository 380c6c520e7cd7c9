"""The data card: one self-contained HTML page per corpus that shows what is in it, what was rejected, and why.

The card depends on the corpus alone (samples are the documents with the smallest ids), so a repeated run writes the
same file. The template engine escapes untrusted text. No Beam.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from castor.pipelines.core.funnel import Funnel, rows

_TEMPLATE = pathlib.Path(__file__).with_name("card.html")


def render(
    name: str,
    modality: str,
    funnel: Funnel,
    statistics: Mapping[str, Any],
    config: Any,
    fingerprint: str,
    unit: str = "characters",
    benchmarks=None,
) -> str:
    """The data card as HTML.

    name, modality: of the corpus or cache.
    funnel: outcomes of the records.
    statistics: the result of `card_statistics.merge`.
    config: the job's configuration, as JSON.
    fingerprint: the fingerprint in the manifest.
    unit: the unit of the lengths in `statistics`.
    benchmarks: the rows of `decontamination.report.write`; None if the job did not look for benchmarks.
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    documents = max(1, sum(statistics["languages"].values()))
    languages = sorted(statistics["languages"].items(), key=_largest_first)
    return template.render(
        name=name,
        modality=modality,
        unit=unit,
        documents=funnel.kept,
        statistics=statistics,
        rejected=funnel.rejected,
        keep_rejects=bool(isinstance(config, Mapping) and config.get("keep_rejects")),
        benchmarks=benchmarks,
        fingerprint=fingerprint,
        funnel=[
            (outcome, reason, count, count / funnel.read if funnel.read else 0.0)
            for outcome, reason, count in rows(funnel)
        ],
        histogram=_histogram(statistics["lengths"]),
        languages=[(language, count, count / documents) for language, count in languages],
        config=json.dumps(config, indent=1, sort_keys=True, ensure_ascii=False),
    )


def _largest_first(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def _histogram(lengths: Mapping[str, int]) -> dict[str, Any]:
    """Bars of an SVG histogram; bucket b counts lengths in [2**(b-1), 2**b)."""
    buckets = [int(b) for b in lengths]
    bars = []
    highest = max(lengths.values(), default=1)
    for i, bucket in enumerate(range(min(buckets, default=0), max(buckets, default=-1) + 1)):
        count = lengths.get(str(bucket), 0)
        low = 1 << (bucket - 1) if bucket else 0
        label = f"{low >> 20}M" if low >= 1 << 20 else f"{low >> 10}k" if low >= 1 << 10 else str(low)
        bars.append({"x": 38 * i + 4, "height": round(140 * count / highest), "count": count, "label": label})
    return {"bars": bars, "width": 38 * len(bars) + 8}

"""A recipe's report: funnels, mixture, loss by domain, sample text and drawn images, as one HTML file and one table.

The report reads only the manifests and logs of the stages, and omits sections whose files are missing. Text from
corpora and models is untrusted; the template engine escapes it.
"""

import base64
import dataclasses
import json
import pathlib

import jinja2

_COLOURS = ("#2f6db3", "#c0504d", "#4f9d4f", "#8a5fb0", "#d08a2e", "#4aa3a3", "#7a7a7a")


@dataclasses.dataclass(frozen=True)
class Curve:
    """One line of the loss chart: steps and losses in nats per token."""

    domain: str
    steps: tuple[int, ...]
    losses: tuple[float, ...]


def write(recipe) -> pathlib.Path:
    """Writes OUTPUT/report.html for a recipe whose stages have run, and returns its path."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    losses = curves(recipe.output / "model" / "metrics.jsonl")
    page = environment.get_template("report.html").render(
        title=recipe.title,
        corpora=_manifests(recipe, "corpora"),
        caches=_manifests(recipe, "tasks"),
        vocabulary=_vocabulary_rows(_json(recipe.output / "vocabulary" / "manifest.json")),
        chart=_chart(_smooth(losses)),
        curves=[(c, _COLOURS[i % len(_COLOURS)]) for i, c in enumerate(losses)],
        samples=_samples(recipe.output / "samples"),
    )
    path = recipe.output / "report.html"
    partial = path.with_name(".report.html.partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)
    return path


def print_table(recipe) -> None:
    """Prints one row per domain: documents read and kept, tokens, first and last loss."""
    import rich.console
    import rich.table

    table = rich.table.Table(title=recipe.title)
    for column in (
        "domain",
        "read",
        "kept",
        "rejected",
        "duplicates",
        "dead letters",
        "train tokens",
        "first loss",
        "last loss",
    ):
        table.add_column(column, justify="left" if column == "domain" else "right")
    losses = {curve.domain: curve for curve in _smooth(curves(recipe.output / "model" / "metrics.jsonl"))}
    caches = {manifest["name"]: manifest for manifest in _manifests(recipe, "tasks")}
    for manifest in _manifests(recipe, "corpora"):
        funnel, curve, cache = manifest["funnel"], losses.get(manifest["name"]), caches.get(manifest["name"])
        table.add_row(
            manifest["name"],
            f"{funnel['read']:,}",
            f"{funnel['kept']:,}",
            *(f"{sum(funnel[part].values()):,}" for part in ("rejected", "duplicates", "dead_letters")),
            f"{tokens(cache):,}" if cache else "-",
            f"{curve.losses[0]:.3f}" if curve else "-",
            f"{curve.losses[-1]:.3f}" if curve else "-",
        )
    console = rich.console.Console()
    if not console.is_terminal:
        console.width = 120  # a log file has no width
    console.print(table)


def curves(path: pathlib.Path) -> list[Curve]:
    """The training loss per domain from a run's metrics.jsonl. If a step occurs twice, the last line wins."""
    by_step: dict[int, dict] = {}
    try:
        for line in path.read_text().splitlines():
            row = json.loads(line)
            by_step[row["step"]] = row
    except (OSError, ValueError, KeyError):
        return []
    domains: dict[str, dict[int, float]] = {}
    for step, row in sorted(by_step.items()):
        for key, value in row.items():
            if key.startswith("loss/") and value is not None:
                domains.setdefault(key.removeprefix("loss/"), {})[step] = float(value)
    return [
        Curve(domain, tuple(points), tuple(points.values())) for domain, points in sorted(domains.items()) if points
    ]


def tokens(cache: dict) -> int:
    """Number of `targets` tokens in the train split of a cache's manifest."""
    return sum(shard["tokens"]["targets"] for shard in cache["splits"].get("train", {"shards": []})["shards"])


def _smooth(rows: list[Curve], window: int = 10) -> list[Curve]:
    smoothed = []
    for curve in rows:
        means = [
            sum(curve.losses[max(0, i - window + 1) : i + 1]) / (i + 1 - max(0, i - window + 1))
            for i in range(len(curve.losses))
        ]
        smoothed.append(dataclasses.replace(curve, losses=tuple(means)))
    return smoothed


def _chart(rows: list[Curve], width: int = 760, height: int = 300) -> dict | None:
    """Polylines and axis labels in SVG units."""
    if not rows:
        return None
    last = max(max(curve.steps) for curve in rows) or 1
    top = max(max(curve.losses) for curve in rows)
    bottom = min(min(curve.losses) for curve in rows)
    span = (top - bottom) or 1.0

    def point(step: int, loss: float) -> str:
        return f"{50 + step / last * (width - 60):.1f},{10 + (top - loss) / span * (height - 40):.1f}"

    lines = [
        {"domain": c.domain, "colour": _COLOURS[i % len(_COLOURS)], "points": " ".join(map(point, c.steps, c.losses))}
        for i, c in enumerate(rows)
    ]
    return {
        "width": width,
        "height": height,
        "lines": lines,
        "top": f"{top:.2f}",
        "bottom": f"{bottom:.2f}",
        "last": last,
    }


def _samples(folder: pathlib.Path) -> list[dict]:
    rows = _json(folder / "samples.json") or []
    for row in rows:
        image = folder / row["image"] if row.get("image") else None
        if image and image.is_file():
            row["data"] = "data:image/png;base64," + base64.b64encode(image.read_bytes()).decode()
    return rows


def _vocabulary_rows(manifest: dict | None) -> list[tuple[str, str, str, str]]:
    """(kind, size, corpus, measure) per corpus of the vocabulary: text compression, fidelity of pictures and sounds."""
    rows = []
    summary = (manifest or {}).get("summary", {})
    for kind, size in sorted(summary.get("sizes", {}).items(), reverse=True):
        for corpus, facts in sorted(summary.get(kind, {}).items()):
            if kind == "text":
                measure = f"{facts['characters'] / max(facts['tokens'], 1):.2f} characters per token"
            else:
                held_out = facts.get("held_out", {}).get("psnr")
                measure = f"{held_out:.2f} dB PSNR on held-out data" if held_out is not None else ""
            rows.append((kind, f"{size:,}", corpus, measure))
    return rows


def _manifests(recipe, kind: str) -> list[dict]:
    found = [_json(path) for path in sorted((recipe.output / kind).glob("*/manifest.json"))]
    return [manifest for manifest in found if manifest]


def _json(path: pathlib.Path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None

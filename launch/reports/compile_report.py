"""Renders the report of `castor compile` as terminal tables and one HTML page, and stores report.json."""

import json
import pathlib

import jinja2

from castor.launch import terminal
from castor.tasks.storage import storage

GIB = 2**30
_COLOURS = {
    "arguments": "#2f6db3",
    "temporaries": "#d08a2e",
    "outputs": "#4f9d4f",
    "compute": "#2f6db3",
    "exposed": "#c0504d",
}


def write(report: dict, folder: str, hlo: str | None = None) -> None:
    """Writes report.json and report.html, and step.hlo.txt if `hlo` is given.

    report: a report of `aot.report` or `aot.refusal`.
    folder: output folder, created if missing.
    hlo: text of the compiled program.
    """
    path = pathlib.Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    if hlo is not None:
        (path / "step.hlo.txt").write_text(hlo, encoding="utf-8")
    (path / "report.html").write_text(render(report), encoding="utf-8")
    storage.write_json_atomic(str(path / "report.json"), report)


def read(path: pathlib.Path) -> dict | None:
    """Reads a report.json; None if the file is missing or incomplete."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def show(report: dict, folder: str) -> None:
    """Prints the report on the terminal.

    report: the report.
    folder: where `write` wrote the files.
    """
    console = terminal.console()
    for title, columns, rows in tables(report):
        table = terminal.table(*columns)
        for row in rows:
            table.add_row(*row)
        console.print(title, style="bold")
        console.print(table)
    console.print(verdict(report))
    console.print(f"{folder}/report.html and {folder}/report.json")


def render(report: dict) -> str:
    """The HTML page of a report. The template engine escapes all text."""
    folder = pathlib.Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("compile_report.html").render(
        title=title(report),
        verdict=verdict(report),
        report=report,
        tables=tables(report),
        memory=memory_bar(report),
        time=time_bar(report),
    )


def title(report: dict) -> str:
    """One line with model size, TPU slices and batch size."""
    topology, batch = report["topology"], report["batch"]
    slices = f"{topology['slices']} x " if topology["slices"] > 1 else ""
    parameters = f"{report['model']['parameters'] / 1e9:.2f}B parameters"
    return f"{parameters} on {slices}{topology['name']}, {batch['rows']:,} rows of {batch['length']:,} tokens"


def verdict(report: dict) -> str:
    """One line: whether the step fits in memory, and its predicted time."""
    memory = report["memory"]
    if not report["fits"]:
        peak = f"Its peak is {gib(memory['peak'])} of {gib(memory['usable'])} GiB per chip."
        return f"DOES NOT FIT. {report.get('refusal') or peak}"
    step = report["step"]
    return (
        f"FITS: {gib(memory['peak'])} of {gib(memory['usable'])} GiB per chip ({memory['share']:.0%}). "
        f"Predicted: {seconds(step['seconds'])} per step, MFU {step['mfu']:.3f}, "
        f"{step['tokens_per_second']:,.0f} tokens/s."
    )


def tables(report: dict) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """(title, columns, rows) per table: configuration, memory, time, traffic. A leading > right-aligns a column."""
    result = [
        ("Configuration", ("setting", "value"), _configuration(report)),
        ("HBM per chip", ("part", ">GiB"), _memory(report)),
    ]
    if "step" not in report:
        return result
    step, flops = report["step"], report["flops"]
    result.append(
        (
            "Predicted step time",
            ("part", ">time", ">share"),
            [(name, seconds(value), f"{value / step['seconds']:.1%}") for name, value in _times(step)],
        )
    )
    work = [
        ("model FLOPs", f"{flops['model']:.4g}"),
        ("program FLOPs, including recomputation", f"{flops['hardware']:.4g}"),
        ("program / model", f"{flops['hardware_over_model']:.3f}"),
        ("MFU, from model FLOPs", f"{step['mfu']:.3f}"),
        ("HFU, from program FLOPs", f"{step['hfu']:.3f}"),
        ("roofline MFU, from FLOPs and HBM alone", f"{step['roofline_mfu']:.3f}"),
    ]
    result.append(("Work per chip", ("quantity", ">value"), work))
    kinds = [
        (row["kind"], seconds(row["seconds"]), f"{row['seconds'] / step['seconds']:.1%}")
        for row in report["compute"][:10]
    ]
    result.append(("Compute by kind", ("kind", ">time", ">share"), kinds))
    rows = [
        (
            row["kind"],
            " x ".join(row["axes"]) or "-",
            row["network"],
            f"{row['group']:,}",
            row["dtype"],
            f"{row['runs']:,}",
            f"{row['payload_bytes'] / 1e6:,.1f}",
            f"{row['wire_bytes'] / 1e6:,.1f}",
            seconds(row["seconds"]),
        )
        for row in report["collectives"]
    ]
    result.append(
        (
            "Collectives",
            ("kind", "mesh axes", "network", ">group", "type", ">runs", ">payload MB", ">received MB", ">time"),
            rows,
        )
    )
    return result


def _configuration(report: dict) -> list[tuple[str, str]]:
    model, batch = report["model"], report["batch"]
    shape = ("vocab_size", "embed", "layers", "heads", "kv_heads", "head_dim", "mlp")
    rest = sorted(set(model) - {*shape, "parameters"})
    options = report["compiler_options"]
    return [
        ("parameters", f"{model['parameters']:,}"),
        ("shape", ", ".join(f"{name} {model[name]:,}" for name in shape)),
        ("model", ", ".join(f"{name} {model[name]}" for name in rest)),
        (
            "batch",
            f"{batch['rows']:,} rows of {batch['length']:,} = {batch['tokens']:,} tokens, "
            f"in {batch['accumulate']} microbatch(es)",
        ),
        (
            "topology",
            f"{report['topology']['slices']} x {report['topology']['name']}, {report['topology']['chips']:,} chips",
        ),
        ("mesh", ", ".join(f"{axis} {size}" for axis, size in report["mesh"].items() if size > 1) or "one device"),
        ("optimizer", report["optimizer"]),
        ("compiler options", ", ".join(f"{name}={value}" for name, value in options.items()) or "none"),
    ]


def _memory(report: dict) -> list[tuple[str, str]]:
    names = {
        "arguments": "arguments (parameters, optimizer state, batch)",
        "temporaries": "temporaries",
        "outputs": "outputs",
        "aliased": "outputs that reuse argument buffers",
        "code": "program",
        "total": "arguments + temporaries + outputs - aliased",
        "peak": "peak",
        "usable": "available to a program",
        "capacity": "capacity of the chip",
    }
    return [
        (label, gib(report["memory"][name])) for name, label in names.items() if report["memory"].get(name) is not None
    ]


def _times(step: dict) -> list[tuple[str, float]]:
    return [
        ("step", step["seconds"]),
        ("compute", step["compute_seconds"]),
        ("collectives, exposed", step["exposed_seconds"]),
        ("collectives, hidden behind compute", step["overlapped_seconds"]),
        ("HBM traffic at full bandwidth", step["hbm_seconds"]),
        ("roofline: FLOPs and HBM alone", step["roofline_seconds"]),
    ]


def memory_bar(report: dict) -> list[dict]:
    """Segments of the memory bar, in per cent of a chip's HBM."""
    memory = report["memory"]
    if "temporaries" not in memory:
        return []
    parts = {
        "arguments": memory["arguments"],
        "temporaries": memory["temporaries"],
        "outputs": max(0, memory["outputs"] - memory["aliased"]),
    }
    whole = max(memory["capacity"], sum(parts.values()))
    return [
        {"name": name, "colour": _COLOURS[name], "percent": 100 * size / whole, "label": f"{gib(size)} GiB"}
        for name, size in parts.items()
    ]


def time_bar(report: dict) -> list[dict]:
    """Segments of the time bar, in per cent of the step time."""
    if "step" not in report:
        return []
    step = report["step"]
    parts = {"compute": step["compute_seconds"], "exposed": step["exposed_seconds"]}
    whole = max(sum(parts.values()), 1e-12)
    return [
        {"name": name, "colour": _COLOURS[name], "percent": 100 * size / whole, "label": seconds(size)}
        for name, size in parts.items()
    ]


def gib(size: float | None) -> str:
    """Formats bytes as GiB; None as a question mark."""
    return "?" if size is None else f"{size / GIB:,.2f}"


def seconds(value: float) -> str:
    """Formats seconds as s, ms or us."""
    for least, unit, digits in ((10, 1, 2), (1, 1, 3), (1e-3, 1e3, 1)):
        if value >= least:
            return f"{value * unit:.{digits}f} {'s' if unit == 1 else 'ms'}"
    return f"{value * 1e6:.1f} us"

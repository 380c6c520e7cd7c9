"""Reads the sidecars of media files: captions, transcripts and facts in .txt, .json, .vtt and .srt.

`read_sidecars` makes the text and the metadata of a document from the sidecars, both for members of a tar and for files
of a folder. An unreadable sidecar makes its whole sample bad: an image with half of the wrong caption is worse than
none.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from castor.pipelines.document import BadInput

EXTENSIONS = ("txt", "json", "vtt", "srt")
MAX_BYTES = 1 << 20

# Fields of a .json that may hold the text, in order of preference; used if there is no .txt.
FIELDS = {
    "image": ("caption", "text", "alt", "title", "label", "class_name"),
    "audio": ("transcript", "text", "sentence", "caption", "title", "label"),
    "video": ("caption", "text", "title", "description", "label"),
}
_LICENCE_FIELDS = ("licence", "license", "rights")
_TIME = r"(?:(\d{2,}):)?([0-5]\d):([0-5]\d)[.,](\d{3})"
_TIMING = re.compile(rf"\s*{_TIME}[ \t]+-->[ \t]+{_TIME}(?:\s.*)?")
_MARKUP = re.compile(r"<[^<>]*>")


def read_sidecars(modality: str, sidecars: Mapping[str, bytes]) -> tuple[str | None, dict[str, Any]]:
    """Sidecars by extension -> (text or None, metadata).

    The text is that of .txt, else of the first field of FIELDS[modality] in the .json. Captions of .vtt or .srt follow,
    one line per cue. The metadata has `text_from` (the origins, such as "json.caption+vtt"), `sidecar` (the whole
    .json), `licence` and `captions_dropped` (a count).

    modality: `image`, `audio` or `video`.

    sidecars: extension -> bytes; extensions other than EXTENSIONS are ignored.

    Raises BadInput: bad_text (not UTF-8), bad_json (not a JSON object), bad_captions (no usable cue), too_large.
    """
    for extension, data in sidecars.items():
        if len(data) > MAX_BYTES:
            raise BadInput("too_large", f".{extension} of {len(data)} bytes, more than {MAX_BYTES}")
    texts, origins, metadata = [], [], {}
    facts = parse_facts(sidecars["json"]) if "json" in sidecars else {}
    if "txt" in sidecars:
        texts.append(_decode(sidecars["txt"]))
        origins.append("txt")
    else:
        for field in FIELDS[modality]:
            if isinstance(facts.get(field), str) and facts[field].strip():
                texts.append(facts[field].strip())
                origins.append(f"json.{field}")
                break
    for extension in ("vtt", "srt"):
        if extension in sidecars:
            lines, dropped = parse_captions(_decode(sidecars[extension]))
            texts.extend(lines)
            origins.append(extension)
            if dropped:
                metadata["captions_dropped"] = dropped
            break
    if facts:
        metadata["sidecar"] = facts
        licence = next((facts[f] for f in _LICENCE_FIELDS if isinstance(facts.get(f), str)), None)
        if licence:
            metadata["licence"] = licence
    text = "\n".join(t for t in texts if t) or None
    if text is not None:
        metadata["text_from"] = "+".join(origins)
    return text, metadata


def parse_facts(data: bytes) -> dict[str, Any]:
    """A JSON object of plain values.

    Raises BadInput("bad_json"), also for NaN, integers over 64 bits, lone surrogates and excessive nesting.
    """
    try:
        facts = json.loads(data.decode("utf-8-sig"), parse_constant=_refuse_constant, parse_int=_bounded_integer)
        json.dumps(facts, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise BadInput("bad_json", f"{type(error).__name__}: {error}"[:200]) from error
    if not isinstance(facts, dict):
        raise BadInput("bad_json", f"a {type(facts).__name__}, not an object")
    return facts


def parse_captions(text: str) -> tuple[list[str], int]:
    """WebVTT or SRT -> (the text of each usable cue, without markup; the number of cues dropped for invalid times).

    Raises BadInput("bad_captions") if no cue is usable.
    """
    lines, dropped = [], 0
    for block in re.split(r"\n[ \t]*\n", text.replace("\r\n", "\n").replace("\r", "\n")):
        rows = block.strip("\n").split("\n")
        if rows[0].startswith(("WEBVTT", "NOTE", "STYLE", "REGION")):
            continue
        timing = next((i for i, row in enumerate(rows[:2]) if "->" in row), None)
        if timing is None:
            dropped += any(row.strip() for row in rows)
            continue
        spoken = " ".join(_MARKUP.sub("", row).strip() for row in rows[timing + 1 :]).strip()
        match = _TIMING.fullmatch(rows[timing])
        if match is None or _seconds(match.groups()[:4]) >= _seconds(match.groups()[4:]):
            dropped += 1
        elif spoken:
            lines.append(spoken)
    if not lines:
        raise BadInput("bad_captions", f"no usable cue, {dropped} unusable")
    return lines, dropped


def _seconds(parts: tuple) -> float:
    hours, minutes, seconds, thousandths = (int(p or 0) for p in parts)
    return hours * 3600 + minutes * 60 + seconds + thousandths / 1000


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise BadInput("bad_text", str(error)[:200]) from error


def _refuse_constant(name: str):
    raise ValueError(f"{name} is not a JSON number")


def _bounded_integer(digits: str) -> int:
    if len(digits) > 20 or not -(1 << 63) <= int(digits) < 1 << 63:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)

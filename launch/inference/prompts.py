"""`castor infer --prompts=IN.jsonl --output=OUT.jsonl`: answers a file of requests in batches; resumable.

Each line is an object with one of

    {"prompt": "The library"}                               -> "text", "tokens", "ended"
    {"draw": "a red square", "size": "4x4"}                 -> "image": a file in OUT-images/, next to OUT.jsonl
    {"describe": "photo.jpg"}                               -> "text", as for a prompt; the path is relative to IN.jsonl
    {"prompt": "2 + 2 =", "continuation": " 4"}             with --score -> "scores", one per continuation
    {"prompt": "2 + 2 =", "continuations": [" 4", " 5"]}

A line may also set its own temperature, top_k, top_p, seed and max_tokens; other keys are kept. The line is written
back with its answer, or with "error" and "line" if it cannot be answered: no line is lost, and a bad line stops no
other. A line without a seed gets one from its number and the command line's seed. So an answer depends neither on the
batch in which it was decoded nor on where the job was resumed.

Answers are written in chunks (OUT.jsonl.parts/), each atomically; a killed job resumes at the first missing chunk. At
the end the chunks are joined to OUT.jsonl, and OUT.jsonl.COMPLETED records their inputs. Only one chunk is held in
memory.
"""

import dataclasses
import hashlib
import itertools
import json
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

from castor.launch import terminal
from castor.launch.inference import pictures
from castor.tasks import hashing
from castor.tasks.checks import is_number
from castor.tasks.errors import CastorError, ConfigurationError, CorpusError
from castor.tasks.storage import lock, storage

PART_LINES = 1024
MAX_LINE_BYTES = 16 << 20
_SETTINGS = {"temperature": float, "top_k": int, "seed": int, "top_p": float}


@dataclasses.dataclass(frozen=True)
class BatchInference:
    """Answers all lines of a prompts file.

    prompts: path of the input file.
    output: path of the output file.
    score: whether to score continuations instead of generating.
    sampling: `inference.Sampling` of lines without settings of their own.
    max_tokens: longest answer in tokens of such lines; None for as many as fit.
    size: rows and columns of drawings in patches, of such lines; None lets the model decide.
    """

    prompts: str
    output: str
    score: bool
    sampling: Any
    max_tokens: int | None = None
    size: tuple[int, int] | None = None

    def run(self, model, read_picture: Callable[[str], Any]) -> int:
        """Answers all lines that are not answered yet. Returns 0.

        model: the loaded model.
        read_picture: reads an image file, as `pictures.Reader` does.
        """
        digest, lines = _digest(self.prompts)
        settings = {
            "prompts_sha256": digest,
            "lines": lines,
            "part_lines": PART_LINES,
            "score": self.score,
            "max_tokens": self.max_tokens,
        }
        settings |= {
            "sampling": dataclasses.asdict(self.sampling),
            "size": self.size and list(self.size),
            "step": model.step,
        }
        settings |= {
            "vocabulary": model.vocabulary.fingerprint,
            "model": dataclasses.asdict(model.config),
            "parameters": model.fingerprint(),
        }
        settings = json.loads(json.dumps(settings))
        completed, parts = f"{self.output}.COMPLETED", pathlib.Path(f"{self.output}.parts")
        if _is(completed, settings):
            print(f"{self.output} is complete: {lines} lines.")
            return 0
        with lock.hold(parts, "--output") as held:
            self._answer(model, read_picture, settings, held)
        print(f"{self.output}: {lines} lines.")
        return 0

    def _answer(self, model, read_picture, settings: dict[str, Any], held: lock.Held) -> None:
        lines, completed, parts = settings["lines"], f"{self.output}.COMPLETED", pathlib.Path(f"{self.output}.parts")
        if storage.exists(completed):
            raise ConfigurationError(
                f"{self.output} was completed with other prompts, another model or other settings ({completed}).",
                "Give another --output, or remove both files.",
            )
        if (parts / "run.json").exists() and not _is(str(parts / "run.json"), settings):
            raise ConfigurationError(
                f"{parts} was started with other prompts, another model or other settings.",
                "Give another --output, or remove that folder.",
            )
        storage.write_json_atomic(str(parts / "run.json"), settings)
        progress = terminal.Progress("answers")
        done = 0
        for number, batch in enumerate(_batches(self.prompts)):
            path = parts / f"{number:08d}.jsonl"
            if not path.exists():
                progress(done, lines)
                rows = _Chunk(
                    self,
                    model,
                    read_picture,
                    number * PART_LINES,
                    batch,
                    lambda more, done=done: progress(min(done + more, lines - 1), lines),
                ).rows()
                storage.write_bytes_atomic(
                    str(path), b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
                )
            done += len(batch)
            progress(done, lines)
        held.check()
        self._join(parts, -(-lines // PART_LINES))
        storage.write_json_atomic(completed, settings)
        shutil.rmtree(parts)

    def _join(self, parts: pathlib.Path, count: int) -> None:
        whole = parts / "whole.tmp"
        with open(whole, "wb") as out:
            for number in range(count):
                with open(parts / f"{number:08d}.jsonl", "rb") as part:
                    shutil.copyfileobj(part, out)
        whole.replace(self.output)

    def image_path(self, line: int) -> pathlib.Path:
        """Path of the drawing for a line (from 0)."""
        folder = pathlib.Path(self.output).with_suffix("")
        return folder.with_name(f"{folder.name}-images") / f"{line:08d}.png"


class _Chunk:
    """The lines of one chunk, answered together."""

    def __init__(
        self, job: BatchInference, model, read_picture, first: int, lines: list[bytes], on_done: Callable[[int], None]
    ):
        self._job, self._model, self._read_picture, self._first, self._lines = job, model, read_picture, first, lines
        self._count, self._report = 0, on_done

    def rows(self) -> list[dict]:
        rows, wanted = [], []
        for number, line in enumerate(self._lines):
            row = {}
            try:
                row = _parse(line)
                wanted.append(
                    (number, self._pairs(row) if self._job.score else self._request(row, self._first + number))
                )
            except CastorError as error:
                row = {**row, "line": self._first + number + 1, "error": str(error)}
            rows.append(row)
        (self._score if self._job.score else self._answer)(rows, wanted)
        return rows

    def _answer(self, rows: list[dict], wanted: list) -> None:
        v = self._model.vocabulary
        for (number, _), ids in zip(wanted, self._model.generate([request for _, request in wanted], self._on_done)):
            row = rows[number]
            if "draw" in row:
                path = self._job.image_path(self._first + number)
                path.parent.mkdir(parents=True, exist_ok=True)
                pictures.write(str(path), self._model.decode_image(ids))
                row["image"] = f"{path.parent.name}/{path.name}"
            else:
                row.update(text=v.decode(ids), tokens=len(ids), ended=bool(ids) and ids[-1] == v.eos_id)

    def _score(self, rows: list[dict], wanted: list) -> None:
        scores = iter(self._model.score([pair for _, pairs in wanted for pair in pairs], self._on_done))
        for number, pairs in wanted:
            rows[number]["scores"] = [
                {
                    "continuation": continuation,
                    "log_probability": score.total,
                    "mean": score.mean,
                    "log_probabilities": [round(float(x), 6) for x in score.log_probabilities],
                    "likeliest": score.likeliest,
                }
                for (_, continuation), score in zip(pairs, itertools.islice(scores, len(pairs)))
            ]

    def _on_done(self, more: int) -> None:
        self._count += more
        self._report(self._count)

    def _request(self, row: dict, line: int):
        kinds = [kind for kind in ("prompt", "draw", "describe") if kind in row]
        if len(kinds) != 1 or not isinstance(row[kinds[0]], str):
            raise CorpusError("the line must have exactly one of prompt, draw and describe, with a string.")
        sampling, max_tokens = self._sampling(row, line), self._max_tokens(row)
        if kinds == ["draw"]:
            size = pictures.parse_size(row["size"]) if row.get("size") is not None else self._job.size
            request = self._model.image_request(row["draw"], sampling, size)
        elif kinds == ["describe"]:
            path = pathlib.Path(self._job.prompts).parent / row["describe"]
            request = self._model.caption_request(
                self._read_picture(str(path)), sampling, 64 if max_tokens is None else max_tokens
            )
        else:
            request = self._model.text_request(row["prompt"], sampling, max_tokens)
        self._model.generator.room(request.prompt)
        return request

    def _pairs(self, row: dict) -> list[tuple[str, str]]:
        given = row.get("continuations", [row.get("continuation")])
        if (
            not isinstance(row.get("prompt"), str)
            or not isinstance(given, list)
            or not all(isinstance(text, str) for text in given)
        ):
            raise CorpusError(
                "the line must have prompt, a string, and continuation, a string, or continuations, a list of strings."
            )
        pairs = [(row["prompt"], text) for text in given]
        longest = max((sum(len(self._model.vocabulary.encode(text)) for text in pair) for pair in pairs), default=0)
        if longest > self._model.max_length:
            raise ConfigurationError(
                f"prompt and continuation are {longest} tokens long; the model was trained on at most "
                f"{self._model.max_length}."
            )
        return pairs

    def _sampling(self, row: dict, line: int):
        given = {name: kind(_number(row, name)) for name, kind in _SETTINGS.items() if row.get(name) is not None}
        seed = hashing.key64("infer", self._job.sampling.seed, line) % (1 << 32)
        return dataclasses.replace(self._job.sampling, **{"seed": seed, **given})

    def _max_tokens(self, row: dict) -> int | None:
        return self._job.max_tokens if row.get("max_tokens") is None else int(_number(row, "max_tokens"))


def _number(row: dict, name: str) -> float:
    if not is_number(row[name], -1e18, 1e18):
        raise CorpusError(f"{name} = {row[name]!r} is not a number.")
    return row[name]


def _parse(line: bytes) -> dict:
    if len(line) > MAX_LINE_BYTES:
        raise CorpusError(f"the line is longer than {MAX_LINE_BYTES >> 20} MiB.")
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"the line is not valid JSON: {type(error).__name__}.") from error
    if not isinstance(row, dict):
        raise CorpusError("the line is not a JSON object.")
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise CorpusError("the line contains half a surrogate pair, which is not valid text.") from error
    return row


def _lines(path: str) -> Iterator[bytes]:
    """The non-empty lines. Lines over MAX_LINE_BYTES are cut one byte after that length."""
    with storage.open_read(path) as file:
        while line := file.readline(MAX_LINE_BYTES + 1):
            if line.strip():
                yield line
            while len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE_BYTES + 1)


def _batches(path: str) -> Iterator[list[bytes]]:
    lines = _lines(path)
    while batch := list(itertools.islice(lines, PART_LINES)):
        yield batch


def _digest(path: str) -> tuple[str, int]:
    """(SHA-256 of the file's lines, number of lines). Raises CorpusError if the file cannot be read."""
    digest, count = hashlib.sha256(), 0
    try:
        for line in _lines(path):
            digest.update(line)
            count += 1
    except OSError as error:
        raise CorpusError(f"the prompts {path} cannot be read: {error.strerror}.", "Give a .jsonl file.") from error
    return digest.hexdigest(), count


def _is(path: str, settings: dict) -> bool:
    try:
        return storage.read_json(path) == settings
    except (OSError, ValueError):
        return False

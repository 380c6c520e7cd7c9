"""Generates the demo's corpus from the Python standard library and drawn media.

Nothing is downloaded, and the same Python version always produces the same bytes.

web/    WARC files of HTML pages: the language reference of `pydoc_data.topics` and docstrings of the standard library
code/   .tar.gz snapshots of packages of the standard library, with its licence
image/  WebDataset tars of drawn shapes with captions (PNG and JPEG)
audio/  WebDataset tars of synthesized sounds with captions (WAV and FLAC)
video/  short clips of a moving shape with sound, encoded by PyAV, with captions

Python sources are read as text and parsed, never imported. `make` writes the folder completely or not at all.
"""

import ast
import dataclasses
import gzip
import html
import io
import itertools
import json
import math
import pathlib
import random
import shutil
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterator

import numpy as np

import gin
from castor.tasks.storage import lock

SAMPLE_RATE = 16_000
COLOURS = {
    "red": (204, 41, 41),
    "green": (46, 153, 70),
    "blue": (45, 84, 200),
    "yellow": (235, 200, 40),
    "purple": (128, 52, 160),
    "orange": (236, 128, 32),
    "black": (24, 24, 28),
    "white": (245, 245, 240),
}
BACKGROUNDS = {
    "grey": (168, 172, 176),
    "pink": (238, 190, 200),
    "sky": (176, 212, 238),
    "sand": (226, 208, 170),
    "mint": (186, 226, 202),
}
SHAPES = ("circle", "square", "triangle", "bar")
PACKAGES = (
    "json",
    "email",
    "html",
    "http",
    "logging",
    "unittest",
    "collections",
    "concurrent",
    "importlib",
    "asyncio",
    "xml",
    "wsgiref",
    "urllib",
    "zoneinfo",
)


@gin.configurable(module="launch.demo_corpus")
@dataclasses.dataclass(frozen=True)
class DemoCorpus:
    """Size of the corpus.

    images, sounds, clips: number of captioned items of each kind.
    pages: maximum number of distinct web pages.
    seed: seed of pictures, sounds and clips.
    """

    images: int = 320
    sounds: int = 240
    clips: int = 48
    pages: int = 260
    seed: int = 0

    def make(self, directory: str) -> dict[str, int]:
        """Writes the corpus under `directory`, unless the directory already holds the same corpus.

        Returns the number of items of each kind.
        """
        target = pathlib.Path(directory)
        facts = dataclasses.asdict(self) | {"format": 1, "python": sysconfig.get_python_version()}
        card = target / "corpus.json"
        if card.is_file() and json.loads(card.read_text())["made_from"] == facts:
            return json.loads(card.read_text())["items"]
        with lock.hold(target, "OUTPUT") as held:
            staging = pathlib.Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
            try:
                items = {
                    "web": _write_web(staging / "web", self.pages),
                    "code": _write_code(staging / "code"),
                    "image": _write_tars(staging / "image", _images(self.images, self.seed), per_tar=160),
                    "audio": _write_tars(staging / "audio", _sounds(self.sounds, self.seed), per_tar=160),
                    "video": _write_clips(staging / "video", self.clips, self.seed),
                }
                (staging / "corpus.json").write_text(json.dumps({"made_from": facts, "items": items}, indent=1) + "\n")
                held.check()
                card.unlink(missing_ok=True)
                for old in list(target.iterdir()):
                    if old.name != lock.LOCK_FILE:
                        shutil.rmtree(old) if old.is_dir() else old.unlink()
                for new in sorted(staging.iterdir(), key=_card_last):
                    new.rename(target / new.name)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
        return items


def _card_last(path: pathlib.Path) -> tuple[bool, str]:
    return path.name == "corpus.json", path.name


# ---------------------------------------------------------------- web


def _write_web(directory: pathlib.Path, limit: int) -> int:
    from fastwarc.warc import WarcRecord, WarcRecordType

    directory.mkdir(parents=True)
    pages = list(itertools.islice(_pages(), limit))
    pages.append(
        ("https://docs.invalid/mirror/" + pages[0][0].rsplit("/", 1)[1], pages[0][1])
    )  # a duplicate page, for deduplication to find
    pages.append(
        ("https://docs.invalid/empty.html", "<html><body><nav>home</nav></body></html>")
    )  # a page without text, for a filter to reject
    half = (len(pages) + 1) // 2
    for shard, rows in enumerate((pages[:half], pages[half:])):
        with open(directory / f"pages-{shard:05d}.warc.gz", "wb") as file:
            for url, page in rows:
                body = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + page.encode()
                record = WarcRecord()
                record.init_headers(record_type=WarcRecordType.response, record_urn=_urn(url))
                record.headers["WARC-Target-URI"] = url
                record.headers["WARC-Date"] = "2026-01-01T00:00:00Z"
                record.headers["Content-Type"] = "application/http; msgtype=response"
                record.set_bytes_content(body)
                plain = io.BytesIO()
                record.write(plain)
                file.write(gzip.compress(plain.getvalue(), mtime=0))
    return len(pages)


def _urn(url: str) -> bytes:
    import uuid

    return f"uuid:{uuid.uuid5(uuid.NAMESPACE_URL, url)}".encode()


def _pages() -> Iterator[tuple[str, str]]:
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield f"https://docs.invalid/reference/{name}.html", _page(name, _blocks(topics[name]))
    standard_library = pathlib.Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(standard_library.glob("*.py")):
        blocks = list(_docstrings(path))
        if sum(map(len, blocks)) > 1500:
            yield f"https://docs.invalid/library/{path.stem}.html", _page(path.stem, blocks)


def _docstrings(path: pathlib.Path) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8", errors="replace"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text:
                yield from _blocks(text)


def _blocks(text: str) -> Iterator[str]:
    for block in text.split("\n\n"):
        line = " ".join(block.split())
        if line:
            yield line


def _page(title: str, blocks) -> str:
    body = "\n".join(f"<p>{html.escape(block)}</p>" for block in blocks)
    return (
        "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>"
        f"<title>{html.escape(title)}</title></head>\n<body>\n"
        "<nav><ul><li><a href='/'>Home</a></li><li><a href='/reference'>Reference</a></li>"
        "<li><a href='/library'>Library</a></li></ul></nav>\n"
        f"<main><article><h1>{html.escape(title)}</h1>\n{body}\n</article></main>\n"
        "<footer><a href='/about'>About these pages</a></footer>\n</body></html>\n"
    )


# ---------------------------------------------------------------- code


def _write_code(directory: pathlib.Path) -> int:
    directory.mkdir(parents=True)
    standard_library = pathlib.Path(sysconfig.get_paths()["stdlib"])
    licence = standard_library / "LICENSE.txt"
    text = (
        licence.read_bytes()
        if licence.is_file()
        else b"SPDX-License-Identifier: PSF-2.0\n\nPython Software Foundation License Version 2\n"
    )
    files = 0
    packages = [(name, sorted((standard_library / name).rglob("*.py"))) for name in PACKAGES]
    packages.append(("modules", sorted(standard_library.glob("*.py"))))
    for name, paths in packages:
        members = [(f"{name}/LICENSE", text)]
        for path in paths:
            if {"test", "tests", "__pycache__", "idle_test", "site-packages"}.isdisjoint(
                path.relative_to(standard_library).parts
            ):
                members.append((f"{name}/{path.relative_to(standard_library)}", path.read_bytes()))
        plain = io.BytesIO()
        _tar(plain, members)
        (directory / f"{name}.tar.gz").write_bytes(gzip.compress(plain.getvalue(), mtime=0))
        files += len(members)
    return files


# ---------------------------------------------------------------- image


def _images(count: int, seed: int) -> Iterator[tuple[str, dict[str, bytes]]]:
    for index in range(count):
        draw = random.Random(f"image {seed} {index}")
        picture, caption = _picture(draw)
        data = io.BytesIO()
        if index % 2:
            picture.save(data, "JPEG", quality=92)
        else:
            picture.save(data, "PNG")
        yield f"drawn-{index:05d}", {"jpg" if index % 2 else "png": data.getvalue(), "txt": caption.encode()}


def _picture(draw: random.Random):
    from PIL import Image, ImageDraw

    width, height = draw.choice(((256, 256), (320, 224), (224, 320), (288, 216)))
    ground_name = draw.choice(sorted(BACKGROUNDS))
    image = Image.new("RGB", (width, height), BACKGROUNDS[ground_name])
    pen = ImageDraw.Draw(image)
    first, second = _thing(draw), _thing(draw)
    if draw.random() < 0.4:
        _draw_shape(pen, *first, width / 2, height / 2, min(width, height) * 0.32)
        return image, f"a {first[1]} {first[0]} on a {ground_name} background"
    radius = min(width, height) * 0.2
    if draw.random() < 0.5:
        _draw_shape(pen, *first, width * 0.27, height / 2, radius)
        _draw_shape(pen, *second, width * 0.73, height / 2, radius)
        return image, f"a {first[1]} {first[0]} to the left of a {second[1]} {second[0]} on a {ground_name} background"
    _draw_shape(pen, *first, width / 2, height * 0.27, radius)
    _draw_shape(pen, *second, width / 2, height * 0.73, radius)
    return image, f"a {first[1]} {first[0]} above a {second[1]} {second[0]} on a {ground_name} background"


def _thing(draw: random.Random) -> tuple[str, str]:
    return draw.choice(SHAPES), draw.choice(sorted(COLOURS))


def _draw_shape(pen, shape: str, colour: str, x: float, y: float, radius: float) -> None:
    fill = COLOURS[colour]
    if shape == "circle":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
    elif shape == "square":
        pen.rectangle((x - radius * 0.9, y - radius * 0.9, x + radius * 0.9, y + radius * 0.9), fill=fill)
    elif shape == "triangle":
        pen.polygon([(x, y - radius), (x - radius, y + radius * 0.8), (x + radius, y + radius * 0.8)], fill=fill)
    else:
        pen.rectangle((x - radius, y - radius * 0.35, x + radius, y + radius * 0.35), fill=fill)


# ---------------------------------------------------------------- audio


def _sounds(count: int, seed: int) -> Iterator[tuple[str, dict[str, bytes]]]:
    import soundfile

    for index in range(count):
        draw = random.Random(f"sound {seed} {index}")
        waveform, caption = _sound(draw)
        data = io.BytesIO()
        suffix = "flac" if index % 2 else "wav"
        soundfile.write(data, waveform, SAMPLE_RATE, format=suffix.upper(), subtype="PCM_16")
        yield f"sound-{index:05d}", {suffix: data.getvalue(), "txt": caption.encode()}


def _sound(draw: random.Random) -> tuple[np.ndarray, str]:
    """A waveform, float32 [samples] at 16 kHz, and its caption."""
    pitch_name, middle = draw.choice((("low", 196.0), ("middle", 440.0), ("high", 988.0)))
    pitch, seconds = middle * draw.uniform(0.85, 1.15), draw.uniform(1.1, 1.9)
    kind = draw.choice(("tone", "beeps", "rising", "falling", "chord"))
    if kind == "tone":
        return _envelope(_glide(pitch, pitch, seconds)), f"a steady {pitch_name} tone"
    if kind == "beeps":
        beep, rest = _envelope(_glide(pitch, pitch, 0.3)), np.zeros(SAMPLE_RATE // 10, np.float32)
        number, word = draw.choice(((3, "three"), (4, "four"), (5, "five")))
        return np.concatenate(
            [part for _ in range(number) for part in (beep, rest)]
        ), f"{word} short {pitch_name} beeps"
    if kind == "rising":
        return _envelope(_glide(pitch, pitch * 2, seconds)), f"a tone rising from a {pitch_name} pitch"
    if kind == "falling":
        return _envelope(_glide(pitch, pitch / 2, seconds)), f"a tone falling from a {pitch_name} pitch"
    voices = sum(_glide(pitch * ratio, pitch * ratio, seconds) for ratio in (1.0, 1.26, 1.5)) / 3
    return _envelope(voices), f"a chord of three notes on a {pitch_name} pitch"


def _glide(start: float, end: float, seconds: float) -> np.ndarray:
    frequency = np.geomspace(start, end, int(seconds * SAMPLE_RATE))
    return (0.5 * np.sin(2 * math.pi * np.cumsum(frequency) / SAMPLE_RATE)).astype(np.float32)


def _envelope(waveform: np.ndarray) -> np.ndarray:
    ramp = np.minimum(1.0, np.arange(len(waveform)) / (0.02 * SAMPLE_RATE))
    return (waveform * ramp * ramp[::-1]).astype(np.float32)


# ---------------------------------------------------------------- video


def _write_clips(directory: pathlib.Path, count: int, seed: int) -> int:
    directory.mkdir(parents=True)
    for index in range(count):
        draw = random.Random(f"clip {seed} {index}")
        data, caption = _clip(draw)
        (directory / f"clip-{index:05d}.mp4").write_bytes(data)
        (directory / f"clip-{index:05d}.txt").write_text(caption, encoding="utf-8")
    return count


def _clip(draw: random.Random) -> tuple[bytes, str]:
    from fractions import Fraction

    import av
    from PIL import Image, ImageDraw

    width, height, rate, frames = 192, 128, 8, 24
    ground_name = draw.choice(sorted(BACKGROUNDS))
    shape, colour = _thing(draw)
    way = draw.choice(("left to right", "right to left", "top to bottom", "bottom to top"))
    waveform, heard = _sound(draw)
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        video = container.add_stream("mpeg4", rate=rate)
        video.width, video.height, video.pix_fmt, video.bit_rate = width, height, "yuv420p", 400_000
        video.codec_context.thread_count = 1
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        for index in range(frames):
            along = (index + 0.5) / frames
            image = Image.new("RGB", (width, height), BACKGROUNDS[ground_name])
            x, y = {
                "left to right": (along * width, height / 2),
                "right to left": ((1 - along) * width, height / 2),
                "top to bottom": (width / 2, along * height),
                "bottom to top": (width / 2, (1 - along) * height),
            }[way]
            _draw_shape(ImageDraw.Draw(image), shape, colour, x, y, height * 0.25)
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")))
        container.mux(video.encode())
        padded = np.zeros(frames * SAMPLE_RATE // rate, np.float32)
        padded[: min(len(padded), len(waveform))] = waveform[: len(padded)]
        sound = av.AudioFrame.from_ndarray((padded * 32767).astype(np.int16)[None], format="s16", layout="mono")
        sound.sample_rate, sound.time_base, sound.pts = SAMPLE_RATE, Fraction(1, SAMPLE_RATE), 0
        container.mux(audio.encode(sound))
        container.mux(audio.encode())
    return file.getvalue(), f"a {colour} {shape} moves from {way} with {heard}"


# ---------------------------------------------------------------- tars


def _write_tars(directory: pathlib.Path, samples: Iterator[tuple[str, dict[str, bytes]]], per_tar: int) -> int:
    directory.mkdir(parents=True)
    rows = list(samples)
    for shard, start in enumerate(range(0, len(rows), per_tar)):
        members = [
            (f"{key}.{suffix}", data) for key, parts in rows[start : start + per_tar] for suffix, data in parts.items()
        ]
        with open(directory / f"samples-{shard:05d}.tar", "wb") as file:
            _tar(file, members)
    return len(rows)


def _tar(file, members) -> None:
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))

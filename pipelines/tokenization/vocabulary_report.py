"""The staged parts of a vocabulary job: the vocabulary they make, and its measures for the manifest and the console.

No Beam.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from castor.tasks.storage import storage
from castor.tasks.vocabulary import codecs, psnr
from castor.tasks.vocabulary.vocabulary import CODEC_FILES, MODEL_FILE, Vocabulary

PIECES = "pieces.json"
"""Staged sums of `codec_fitting.MeasureSentencePiece`."""


def quality_file(kind: str) -> str:
    """Staged sums of `codec_fitting.MeasureCodec` for the codec of `kind` ("image" or "audio")."""
    return f"{kind}.json"


def staged_vocabulary(staging: str, pieces: int) -> Vocabulary:
    """The vocabulary of the staged SentencePiece model and codecs; `pieces` is the number of SentencePiece ids."""
    fitted = {kind: _codec(storage.join(staging, name)) for kind, name in CODEC_FILES.items()}
    model = storage.read_bytes(storage.join(staging, MODEL_FILE))
    return Vocabulary(model, fitted["image"], fitted["audio"], pieces)


def summary(staging: str, names: Sequence[str], vocabulary: Vocabulary) -> dict[str, Any]:
    """The measures of a vocabulary by corpus name, as JSON.

    staging: folder with the staged sums.
    names: name of each corpus, in the order of the job; a repeated name gets its index appended.
    vocabulary: the vocabulary that was measured.

    `psnr` is the mean over arrays, `psnr_overall` that of the joint squared error, both in dB.
    """
    names = [name if names.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(names)]
    result: dict[str, Any] = {"sizes": vocabulary.sizes(), "levels": {}, "text": {}, "image": {}, "audio": {}}
    for (index,), (documents, characters, size, tokens) in storage.read_json(storage.join(staging, PIECES)):
        result["text"][names[index]] = {
            "documents": documents,
            "characters": characters,
            "bytes": size,
            "tokens": tokens,
            "tokens_per_character": round(tokens / max(characters, 1), 4),
        }
    for kind in CODEC_FILES:
        sums = storage.read_json(storage.join(staging, quality_file(kind)))
        for (index, part), (arrays, millidecibels, error, elements) in sums:
            overall = round(psnr.psnr_of_error(error, elements), 2) if error else None
            row = {"arrays": arrays, "psnr": round(millidecibels / arrays / 1000, 2), "psnr_overall": overall}
            result[kind].setdefault(names[index], {})[part] = row
    for kind, codec in (("image", vocabulary.image_codec), ("audio", vocabulary.audio_codec)):
        if codec is not None:
            result["levels"][kind] = codec.levels.tolist()
    return result


def lines(manifest: Mapping[str, Any]) -> list[str]:
    """Lines for the console: sizes, tokens per character, and PSNR (of held-out documents where a corpus has some)."""
    measured = manifest["summary"]
    sizes = ", ".join(f"{kind} {size:,}" for kind, size in measured["sizes"].items())
    result = [f"vocabulary of {manifest['size']:,} ids: {sizes}"]
    for name, row in measured["text"].items():
        if row["characters"]:
            ratio = f"{row['tokens_per_character']:.3f} tokens per character"
            result.append(f"  {name}: {ratio} ({row['characters']:,} characters sampled)")
    for kind in CODEC_FILES:
        for name, row in measured[kind].items():
            shown = "held_out" if "held_out" in row else "fitted"
            what = f"{row[shown]['arrays']} {shown.replace('_', ' ')} arrays"
            result.append(f"  {name}: {kind} PSNR {row[shown]['psnr']:.2f} dB over {what}")
    return result


def _codec(path: str) -> codecs.Codec | None:
    return codecs.Codec.load(path) if storage.exists(path) else None

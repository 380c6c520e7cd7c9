"""Codecs on real pictures and recordings that they were not fitted on: the quality that the README states."""

import tarfile

import numpy as np
import pytest

from castor.pipelines.document import BadInput
from castor.pipelines.media.images import decode_image
from castor.pipelines.media.sounds import decode_audio
from castor.tasks.vocabulary import audio, codec_fit, codecs, image, psnr, streams

pytestmark = pytest.mark.real
CODES = 65_536


def members(path, suffixes: tuple[str, ...]):
    with tarfile.open(path) as archive:
        for member in archive:
            if member.name.endswith(suffixes):
                yield archive.extractfile(member).read()


def pictures(real_data, pattern: str, budget: int, most: int = 1000) -> list[np.ndarray]:
    found = [data for path in sorted((real_data / "image").glob(pattern)) for data in members(path, (".jpg", ".png"))]
    return [image.fit_to_budget(decode_image(data), budget) for data in found[:most]]


def quality(codec: codecs.Codec, arrays: list[np.ndarray], peak: float = 255.0) -> float:
    return float(np.mean([psnr.psnr(a, codec.decode(codec.encode(a)), peak) for a in arrays]))


@pytest.mark.parametrize("budget", [256, 1024])
def test_pictures_of_another_kind_reach_21_decibels(real_data, budget):
    clothing = pictures(real_data, "clothing-*.tar", budget)
    openstax = pictures(real_data, "openstax-anthropology-0*.tar", budget)
    assert len(clothing) == 220 and len(openstax) == 118
    for fitted_on, held_out in ((clothing, openstax), (openstax, clothing)):
        codec = codec_fit.fit(fitted_on, streams.IMAGE_PATCH, CODES)
        assert int(np.prod(codec.levels)) <= CODES
        assert quality(codec, held_out) >= 21.0


def test_fewer_codes_cost_quality_gently(real_data):
    clothing = pictures(real_data, "clothing-*.tar", 256, most=110)
    openstax = pictures(real_data, "openstax-anthropology-0*.tar", 256, most=60)
    found = [
        quality(codec_fit.fit(clothing, streams.IMAGE_PATCH, number), openstax) for number in (1024, 4096, 16384, 65536)
    ]
    assert found == sorted(found) and found[0] > 19.0


def test_speech_of_other_speakers(real_data):
    def speech(*names):
        levels = []
        for name in names:
            for data in members(real_data / "audio" / name, (".wav", ".flac")):
                try:
                    levels.append(streams.audio_levels(decode_audio(data)))
                except BadInput:
                    continue
        return levels

    fitted_on = speech("speech-to-intent-00000.tar", "fsdd-00000.tar")
    held_out = speech("ljspeech-flac-00000.tar")
    codec = codec_fit.fit(fitted_on, streams.AUDIO_PATCH, 8192, audio.FLOOR_DB, audio.STEP_DB)
    assert quality(codec, held_out, audio.RANGE_DB) > 19.0
    assert len(held_out) == 8

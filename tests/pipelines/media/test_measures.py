import numpy as np
import pytest
import small_media

from castor.pipelines.document import BadInput, Document
from castor.pipelines.media import measures, sounds


def document(data, modality):
    return Document("0" * 32, "source", modality, None, data, {"licence": "CC0"})


def test_image_facts():
    facts = measures.MeasureImage()(document(small_media.encode_picture(small_media.picture()), "image")).metadata
    assert len(facts.pop("perceptual_hash")) == 16 and facts.pop("detail") > 20
    assert facts == {"licence": "CC0", "width": 64, "height": 48, "format": "JPEG", "mode": "RGB", "frames": 1}


def test_sound_becomes_flac_with_its_facts():
    data = small_media.encode_sound(np.concatenate([small_media.tone(1.0, 8000), np.zeros(24_000, np.float32)]), 8000)
    measured = measures.MeasureSound()(document(data, "audio"))
    assert measured.bytes[:4] == b"fLaC" and len(sounds.decode_audio(measured.bytes)) == 64_000
    facts = measured.metadata
    assert (facts["seconds"], facts["sample_rate"], facts["channels"], facts["codec"]) == (4.0, 8000, 1, "pcm_s16le")
    assert facts["silence"] == pytest.approx(0.75, abs=0.02) and facts["clipping"] == 0.0


def test_film_facts():
    moving = measures.MeasureClip()(document(small_media.film(3.0), "video")).metadata
    still = measures.MeasureClip()(document(small_media.film(3.0, moving=False, audio_codec=None), "video")).metadata
    assert moving["seconds"] == pytest.approx(3.0, abs=0.01) and moving["sound"] and not still["sound"]
    assert moving["motion"] > 0.005 > 0.001 > still["motion"]


def test_damage_is_bad_input():
    for measure, modality in (
        (measures.MeasureImage(), "image"),
        (measures.MeasureSound(), "audio"),
        (measures.MeasureClip(), "video"),
    ):
        with pytest.raises(BadInput):
            measure(document(b"<html>", modality))


def test_ratios():
    assert measures.silence_ratio(np.zeros(0, np.float32), -40) == 1.0
    assert measures.silence_ratio(np.full(800, 0.011, np.float32), -40) == 0.0
    assert measures.silence_ratio(np.full(800, 0.009, np.float32), -40) == 1.0
    assert measures.clipping_ratio(np.array([0.5, 1.0, -1.0, 0.0], np.float32)) == 0.5
    assert measures.motion(np.zeros((1, 4, 4, 3), np.uint8)) == 0.0
    assert measures.motion(np.stack([np.zeros((4, 4, 3)), np.full((4, 4, 3), 255)]).astype(np.uint8)) == pytest.approx(
        1.0
    )

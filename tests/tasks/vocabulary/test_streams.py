"""tasks/vocabulary/streams.py: each modality's span and back, and a reader that takes anything."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from castor.tasks.errors import VocabularyError
from castor.tasks.vocabulary import audio, codec_fit, psnr, sentencepieces, streams
from castor.tasks.vocabulary.vocabulary import Vocabulary


def picture(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    y, x = np.mgrid[0 : 8 * rows, 0 : 8 * columns] / 40.0
    return np.clip(120 + 60 * np.sin(x * (1 + seed % 3) + y)[..., None] + [0, 20, -20], 0, 255).astype(np.uint8)


def sound(seconds: float) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * 16_000)) / 16_000)).astype(np.float32)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    image_codec = codec_fit.fit([picture(6, 7, i) for i in range(5)], (8, 8, 3), 300)
    levels = np.pad(audio.log_mel(sound(1.0)), ((0, 0), (0, 0)))
    audio_codec = codec_fit.fit([levels], (streams.AUDIO_FRAMES, audio.BANDS, 1), 200, audio.FLOOR_DB, audio.STEP_DB)
    return Vocabulary(sentencepieces.train(["a caption of a thing " * 20], 512), image_codec, audio_codec, 512)


def kinds(segments) -> list[str]:
    return [segment.kind for segment in segments]


def test_text(vocabulary):
    ids = streams.text_document(vocabulary, "a thing\n")
    assert ids[-1] == 1 and kinds(vocabulary.modality_spans(ids)) == ["text", "control"]
    assert vocabulary.modality_spans(ids)[0].value == "a thing\n"


def test_image_span(vocabulary):
    pixels = picture(6, 9)
    ids = vocabulary.encode_image(pixels, budget=60)
    assert [vocabulary.name(i) for i in (*ids[:3], ids[-1])] == ["<image>", "<size_6>", "<size_9>", "</image>"]
    assert len(ids) == 6 * 9 + 4 and all(i in vocabulary.image_range for i in ids[3:-1])
    decoded = vocabulary.decode_image(ids)
    assert decoded.shape == pixels.shape and psnr.psnr(pixels, decoded) > 20
    (segment,) = vocabulary.modality_spans(ids)
    assert segment.kind == "image" and segment.ids == tuple(ids) and np.array_equal(segment.value, decoded)


def test_large_image_is_brought_under_the_budget(vocabulary):
    ids = vocabulary.encode_image(picture(20, 30), budget=40)
    assert len(ids) - 4 <= 40 and vocabulary.decode_image(ids).shape == (40, 56, 3)


def test_audio_span(vocabulary):
    ids = vocabulary.encode_audio(sound(0.5))
    assert len(ids) == 2 + 13 and vocabulary.name(ids[0]) == "<audio>" and vocabulary.name(ids[-1]) == "</audio>"
    back = vocabulary.decode_audio(ids)
    assert back.dtype == np.float32 and len(back) == 13 * 640
    assert abs(np.abs(np.fft.rfft(back[:8000])).argmax() * 2 - 440) < 30


def test_described_document_goes_both_ways(vocabulary):
    span = vocabulary.encode_image(picture(2, 2))
    seen = set()
    for number in range(40):
        identifier = f"{number:032x}"
        ids = streams.described_document(vocabulary, identifier, "a caption", span)
        order = tuple(kinds(vocabulary.modality_spans(ids)))
        assert order == (
            ("image", "text", "control") if streams.span_first(identifier) else ("text", "image", "control")
        )
        seen.add(order)
        assert vocabulary.decode(ids) == "a caption"
    assert len(seen) == 2


def test_order_never_drifts():
    assert [streams.span_first(f"{n:032x}") for n in range(12)] == GOLDEN_ORDER


GOLDEN_ORDER = [False, False, False, True, True, False, False, False, True, False, False, True]


def test_video_span_interleaves_in_time(vocabulary):
    frames = [picture(2, 3, i) for i in range(3)]
    ids = streams.video_span(vocabulary, frames, [0.0, 1.0, 2.0], sound(2.5), frame_budget=6)
    (segment,) = vocabulary.modality_spans(ids)
    assert segment.kind == "video" and segment.value.order == ("frame", "audio") * 3
    assert [f.shape for f in segment.value.frames] == [(16, 24, 3)] * 3
    assert len(segment.value.waveform) == 63 * 640
    lengths = [len(s.ids) - 2 for s in vocabulary.modality_spans(ids[1:-1]) if s.kind == "audio"]
    assert lengths == [25, 25, 13]
    whole = [i for i in vocabulary.encode_audio(sound(2.5)) if i in vocabulary.audio_range]
    assert [i for i in ids if i in vocabulary.audio_range] == whole


def test_video_without_sound_without_frames_and_with_sound_before_the_first_frame(vocabulary):
    frames = [picture(2, 2)] * 2
    silent = vocabulary.modality_spans(streams.video_span(vocabulary, frames, [0.0, 1.0], None, 4))[0].value
    assert silent.order == ("frame", "frame") and silent.waveform is None
    late = vocabulary.modality_spans(streams.video_span(vocabulary, frames, [0.4, 0.5], sound(0.6), 4))[0].value
    assert late.order == ("audio", "frame", "audio", "frame", "audio")
    heard = vocabulary.modality_spans(streams.video_span(vocabulary, [], [], sound(0.6), 4))[0].value
    assert heard.order == ("audio",) and not heard.frames
    short = streams.video_span(vocabulary, frames, [0.0, 5.0], sound(0.2), 4)
    assert vocabulary.modality_spans(short)[0].value.order == ("frame", "audio", "frame")


def test_damaged_spans(vocabulary):
    v = vocabulary
    whole = v.encode_image(picture(4, 5))
    cut = v.modality_spans(whole[:10])[0]
    assert cut.kind == "image" and cut.value.shape == (32, 40, 3)
    assert v.modality_spans(whole[3:10])[0].value.shape == (24, 24, 3)  # seven codes without a size
    assert v.modality_spans([whole[0], whole[2], *whole[3:10]])[0].value.shape == (16, 40, 3)  # one size: columns
    surplus = v.modality_spans([*whole[:-1], *whole[3:9], whole[-1]])
    assert kinds(surplus) == ["image"] and surplus[0].value.shape == (32, 40, 3)
    assert v.modality_spans([v.control("<image>"), v.control("</image>")])[0].value is None
    assert v.modality_spans([v.control("<audio>"), v.eos_id])[0].value is None
    assert kinds(v.modality_spans([v.control("<video>"), v.control("<size_3>"), v.control("</video>")])) == [
        "video",
        "control",
        "control",
    ]
    assert kinds(v.modality_spans([0, 0, 0, 1, 0])) == ["control"] * 3
    assert v.modality_spans([-5, v.vocab_size + 7])[0].value == "<invalid_-5>"


@given(st.data())
@settings(derandomize=True, deadline=None, max_examples=150)
def test_any_ids_are_cut_into_segments(vocabulary, data):
    v = vocabulary
    names = ("<image>", "</image>", "<audio>", "</audio>", "<video>", "</video>", "<frame>", "<size_2>", "<size_3>")
    grammar = st.sampled_from([v.control(name) for name in names])
    edges = [i for span in (v.text_range, v.image_range, v.audio_range) for i in (span.start, span.stop - 1)]
    some = st.sampled_from([*edges, 0, 1, -1, 2**40])
    ids = data.draw(st.lists(st.one_of(grammar, some, st.integers(0, v.vocab_size - 1)), max_size=40))
    found = v.modality_spans(ids, decode=data.draw(st.booleans()))
    assert [i for segment in found for i in segment.ids] == ids
    assert all(segment.kind in streams.KINDS for segment in found)
    assert all((segment.value is not None) for segment in found if segment.kind in ("text", "control"))


def test_a_text_vocabulary_refuses_pictures():
    v = Vocabulary(sentencepieces.train(["text"], 512))
    with pytest.raises(VocabularyError, match="no image codes"):
        v.encode_image(picture(1, 1))
    assert v.modality_spans([v.control("<image>"), v.control("<size_2>")])[0].value is None

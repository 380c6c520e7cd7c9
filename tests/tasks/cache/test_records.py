"""Record bytes: exactly TensorFlow's, checked on every read, and no damaged length ever allocates."""

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from castor.tasks.cache import records
from castor.tasks.errors import CacheError

INT64 = st.integers(-(2**63), 2**63 - 1)


def test_bytes_are_tensorflows():
    # As TensorFlow 2.21 writes tf.train.Example(...).SerializeToString(deterministic=True) and tf.io.TFRecordWriter.
    example = records.encode_example({"x": np.array([0.5]), "targets": np.array([1, 300, 1 << 14])})
    assert example.hex() == "0a260a150a0774617267657473120a1a080a0601ac028080010a0d0a0178120812060a040000003f"
    assert records.frame(b"castor").hex() == "06000000000000007369d537636173746f72795331c3"


@settings(derandomize=True, deadline=None)
@given(st.lists(INT64, max_size=40), st.lists(st.floats(width=32, allow_nan=False), max_size=10), st.text(max_size=5))
def test_examples_come_back(integers, floats, name):
    payload = records.encode_example(
        {"targets": np.array(integers, np.int64), "f" + name: np.array(floats, np.float32)}
    )
    decoded = records.decode_example(payload)
    assert decoded["targets"].tolist() == integers
    assert decoded["f" + name].tolist() == floats
    assert payload == records.encode_example(
        {"f" + name: np.array(floats, np.float32), "targets": np.array(integers, np.int64)}
    )


@settings(derandomize=True, deadline=None)
@given(
    st.lists(st.one_of(INT64, st.integers(0, 300)), max_size=40),
    st.integers(0, 45),
    st.one_of(st.none(), st.integers(0, 45)),
)
def test_slices_are_decoded_alone(integers, start, stop):
    payload = records.encode_example(
        {"a": np.array([1.0]), "targets": np.array(integers, np.int64), "z": np.array([9])}
    )
    assert records.decode_int64(payload, "targets", start, stop).tolist() == integers[start:stop]
    assert records.decode_int64(payload, "z").tolist() == [9]
    assert records.decode_int64(payload, "missing").tolist() == []


@settings(derandomize=True, deadline=None)
@given(
    st.lists(st.floats(width=32, allow_nan=False), max_size=40),
    st.integers(0, 45),
    st.one_of(st.none(), st.integers(0, 45)),
)
def test_slices_of_floats_too(floats, start, stop):
    payload = records.encode_example({"a": np.array([300]), "mel": np.array(floats, np.float32), "z": np.array([9.5])})
    values = records.decode_float32(payload, "mel", start, stop)
    assert values.dtype == np.float32 and values.tolist() == floats[start:stop]
    assert records.decode_float32(payload, "z").tolist() == [9.5]
    assert records.decode_float32(payload, "missing").tolist() == []


def test_unpacked_examples_are_read_too():
    int64_list = bytes([0x08, 5, 0x08, 0xAC, 0x02])  # value: 5, value: 300, each with its own tag
    feature = bytes([0x1A, len(int64_list)]) + int64_list
    entry = bytes([0x0A, 7]) + b"targets" + bytes([0x12, len(feature)]) + feature
    features = bytes([0x0A, len(entry)]) + entry
    payload = bytes([0x0A, len(features)]) + features
    assert records.decode_int64(payload, "targets").tolist() == [5, 300]
    assert records.decode_int64(payload, "targets", 1).tolist() == [300]
    float_list = b"".join(bytes([0x0D]) + struct.pack("<f", value) for value in (0.5, -2.0))
    feature = bytes([0x12, len(float_list)]) + float_list
    entry = bytes([0x0A, 3]) + b"mel" + bytes([0x12, len(feature)]) + feature
    features = bytes([0x0A, len(entry)]) + entry
    assert records.decode_float32(bytes([0x0A, len(features)]) + features, "mel", 0, 2).tolist() == [0.5, -2.0]


@settings(derandomize=True, deadline=None)
@given(st.binary(max_size=60))
def test_garbage_is_no_example_or_a_clear_error(data):
    for read in (
        records.decode_example,
        lambda d: records.decode_int64(d, "targets"),
        lambda d: records.decode_float32(d, "mel"),
    ):
        try:
            read(data)
        except CacheError as error:
            assert "record" in str(error)


def test_other_kinds_are_refused():
    with pytest.raises(TypeError, match="targets"):
        records.encode_example({"targets": np.array(["a"])})


def test_records_of_a_file_in_order():
    payloads = [b"", b"a", b"bc" * 1000]
    data = b"".join(records.frame(p) for p in payloads)
    assert [p for _, p in records.iterate_records(data, "f")] == payloads
    for offset, payload in records.iterate_records(data, "f"):
        assert records.read_record(memoryview(data), offset, "f") == payload


def test_every_flipped_bit_is_found():
    data = records.frame(b"castor")
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << (bit % 8)
        with pytest.raises(CacheError, match="file.tfrecord.*byte 0"):
            list(records.iterate_records(bytes(damaged), "file.tfrecord"))


def test_every_cut_is_found():
    data = records.frame(b"castor") + records.frame(b"pollux")
    for size in range(1, len(data)):
        if size != len(data) // 2:
            with pytest.raises(CacheError, match="file.tfrecord"):
                list(records.iterate_records(data[:size], "file.tfrecord"))


@pytest.mark.parametrize("length", [1 << 40, (1 << 64) - 1, records.MAX_RECORD_BYTES + 1, 100])
@pytest.mark.parametrize("sound_crc", [True, False])
def test_a_huge_length_is_an_error_and_no_allocation(length, sound_crc):
    field = struct.pack("<Q", length)
    data = field + struct.pack("<I", records.masked_crc(field) ^ (not sound_crc)) + b"x" * 16
    tracemalloc.start()
    with pytest.raises(CacheError, match=str(length)):
        records.read_record(data, 0, "f")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_offsets_outside_the_file_are_errors():
    data = records.frame(b"castor")
    for offset in (-1, 1 << 60, len(data), len(data) - 3):
        with pytest.raises(CacheError):
            records.read_record(data, offset, "f")


@pytest.mark.parametrize(
    "name", ["tfrecord_bad_crc.tfrecord", "tfrecord_huge_length.tfrecord", "tfrecord_truncated.tfrecord"]
)
def test_bad_files(real_data, name):
    data = (real_data / "bad" / name).read_bytes()
    with pytest.raises(CacheError, match=name):
        list(records.iterate_records(data, name))

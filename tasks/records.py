"""The bytes of a record: TFRecord framing and `tf.train.Example`, without TensorFlow.

A TFRecord is `uint64 length, uint32 masked CRC of the length, payload, uint32 masked CRC of the payload`, little-endian
(tensorflow/core/lib/io/record_writer.h). An Example is a map from names to lists of int64, float32 or bytes
(tensorflow/core/example/example.proto); its descriptor is built here, in a pool of its own, so that it never collides with TensorFlow's.
Both checks are made on every read, and no length field is believed before it is checked: a damaged file costs an error, never memory.
"""

import functools
import struct
from collections.abc import Iterator, Mapping

import google_crc32c
import numpy as np

from tasks.errors import CacheError

HEADER_BYTES = 12
FOOTER_BYTES = 4
MAX_RECORD_BYTES = 1 << 30
"""No record is written or read beyond this: protobuf itself ends at 2 GiB."""

_CRC_MASK_DELTA = 0xA282EAD8
_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")
_REBUILD = "The file is damaged: run castor tasks verify on the cache, then make it again."


def masked_crc(data: bytes) -> int:
    """CRC-32C, rotated and offset as TFRecord stores it."""
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + _CRC_MASK_DELTA) & 0xFFFFFFFF


def frame(payload: bytes) -> bytes:
    """One TFRecord: payload with its length and both checksums. Raises CacheError beyond MAX_RECORD_BYTES."""
    if len(payload) > MAX_RECORD_BYTES:
        raise CacheError(
            f"a record of {len(payload)} bytes is over the limit of {MAX_RECORD_BYTES}.", "Cut the document before it is tokenized."
        )
    length = _LENGTH.pack(len(payload))
    return b"".join((length, _CRC.pack(masked_crc(length)), payload, _CRC.pack(masked_crc(payload))))


def read_record(data: memoryview | bytes, offset: int, where: str) -> bytes:
    """The payload of the record that starts at `offset` of a file's content. Raises CacheError naming `where` on any damage."""
    size = len(data)
    if not 0 <= offset <= size - HEADER_BYTES - FOOTER_BYTES:
        raise CacheError(f"{where}: no record fits at byte {offset} of {size}; the file is cut or its index is wrong.", _REBUILD)
    header = bytes(data[offset : offset + HEADER_BYTES])
    length = _LENGTH.unpack_from(header)[0]
    if masked_crc(header[:8]) != _CRC.unpack_from(header, 8)[0]:
        raise CacheError(f"{where}: the record at byte {offset} has a wrong length checksum (its length field says {length}).", _REBUILD)
    if length > MAX_RECORD_BYTES or length > size - offset - HEADER_BYTES - FOOTER_BYTES:
        raise CacheError(f"{where}: the record at byte {offset} claims {length} bytes, more than the file or the limit holds.", _REBUILD)
    start = offset + HEADER_BYTES
    payload = bytes(data[start : start + length])
    if masked_crc(payload) != _CRC.unpack(bytes(data[start + length : start + length + FOOTER_BYTES]))[0]:
        raise CacheError(f"{where}: the record at byte {offset} has a wrong data checksum.", _REBUILD)
    return payload


def iterate_records(data: memoryview | bytes, where: str) -> Iterator[tuple[int, bytes]]:
    """Yields (byte offset, payload) of every record of a file's content, checked. Raises CacheError on the first damaged one."""
    offset = 0
    while offset < len(data):
        payload = read_record(data, offset, where)
        yield offset, payload
        offset += HEADER_BYTES + len(payload) + FOOTER_BYTES


def encode_example(features: Mapping[str, np.ndarray]) -> bytes:
    """Serializes arrays as a tf.train.Example: integers and booleans as int64 lists, floats as float32 lists, flattened in C order.

    The same features give the same bytes: map entries are sorted by name. Raises TypeError for arrays of other kinds.
    """
    example = _example_class()()
    for name in sorted(features):
        array = np.asarray(features[name])
        feature = example.features.feature[name]
        if array.dtype.kind in "iub":
            feature.int64_list.value.extend(array.ravel().tolist())
        elif array.dtype.kind == "f":
            feature.float_list.value.extend(array.astype(np.float32).ravel().tolist())
        else:
            raise TypeError(f"feature {name!r} has dtype {array.dtype}; a cache stores integers and floats")
    return example.SerializeToString(deterministic=True)


def decode_example(payload: bytes, where: str = "record") -> dict[str, np.ndarray]:
    """Parses a tf.train.Example into flat arrays: int64[n], float32[n], or object[n] of bytes. Raises CacheError if it is none."""
    message = _parse(payload, where)
    features = {}
    for name, feature in message.features.feature.items():
        kind = feature.WhichOneof("kind")
        if kind == "int64_list":
            features[name] = np.array(feature.int64_list.value, dtype=np.int64)
        elif kind == "float_list":
            features[name] = np.array(feature.float_list.value, dtype=np.float32)
        elif kind == "bytes_list":
            features[name] = np.array(list(feature.bytes_list.value), dtype=object)
        else:
            features[name] = np.zeros(0, dtype=np.int64)
    return features


def decode_int64(payload: bytes, name: str, start: int = 0, stop: int | None = None, where: str = "record") -> np.ndarray:
    """Values [start:stop] of one int64 feature of an Example, int64 [n], decoding no more than these.

    The packed varints are taken straight from the payload and decoded by numpy; an Example laid out in another way goes through protobuf.
    """
    packed = _packed_int64(payload, name)
    if packed is None:
        return decode_example(payload, where).get(name, np.zeros(0, np.int64))[start:stop]
    ends = np.flatnonzero(packed < 0x80) + 1
    last = len(ends) if stop is None else min(stop, len(ends))
    if start >= last:
        return np.zeros(0, np.int64)
    origin = int(ends[start - 1]) if start else 0
    ends = ends[start:last] - origin
    packed = packed[origin : origin + int(ends[-1])]
    sizes = np.diff(ends, prepend=0)
    begins = ends - sizes
    values = (packed[begins] & 0x7F).astype(np.uint64)
    for place in range(1, int(sizes.max())):
        longer = np.flatnonzero(sizes > place)
        values[longer] |= (packed[begins[longer] + place] & 0x7F).astype(np.uint64) << np.uint64(7 * place)
    return values.view(np.int64)


def _packed_int64(payload: bytes, name: str) -> np.ndarray | None:
    """The varints of a feature as uint8 [bytes], if the Example has the layout every serializer gives it; else None."""
    wanted = name.encode()
    features = _only_field(payload, 0, len(payload), 0x0A)  # Example.features
    if features is None:
        return None
    position, end = features
    while position < end:
        entry = _field(payload, position, end, 0x0A)  # Features.feature, one entry of the map
        if entry is None:
            return None
        position = entry[1]
        key = _field(payload, *entry, 0x0A)
        if key is None:
            return None
        if payload[key[0] : key[1]] == wanted:
            span = _only_field(payload, key[1], entry[1], 0x12)  # the entry's Feature
            span = span and _only_field(payload, *span, 0x1A)  # Feature.int64_list
            span = span and _only_field(payload, *span, 0x0A)  # Int64List.value, packed
            if span is None or (span[1] > span[0] and payload[span[1] - 1] >= 0x80):
                return None
            return np.frombuffer(payload, np.uint8, span[1] - span[0], span[0])
    return None


def _only_field(data: bytes, position: int, end: int, tag: int) -> tuple[int, int] | None:
    """The content of a message that is one length-delimited field and nothing else."""
    span = _field(data, position, end, tag)
    return span if span and span[1] == end else None


def _field(data: bytes, position: int, end: int, tag: int) -> tuple[int, int] | None:
    """Content of the length-delimited field at `position`, if its tag (one byte) is `tag`."""
    if position >= end or data[position] != tag:
        return None
    length, shift, position = 0, 0, position + 1
    while position < end and shift < 35:
        byte = data[position]
        length |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return (position, position + length) if position + length <= end else None
        shift += 7
    return None


def _parse(payload: bytes, where: str):
    from google.protobuf.message import DecodeError

    try:
        return _example_class().FromString(payload)
    except DecodeError as error:
        raise CacheError(f"{where}: a record is no tf.train.Example ({error}).", _REBUILD) from error


@functools.cache
def _example_class():
    """The message class of tensorflow.Example, from a descriptor written out by hand."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="castor/example.proto", package="tensorflow", syntax="proto3")
    for name, kind in (("BytesList", field.TYPE_BYTES), ("FloatList", field.TYPE_FLOAT), ("Int64List", field.TYPE_INT64)):
        message = file.message_type.add(name=name)
        value = message.field.add(name="value", number=1, type=kind, label=field.LABEL_REPEATED)
        if kind != field.TYPE_BYTES:
            value.options.packed = True
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(("BytesList", "FloatList", "Int64List"), start=1):
        feature.field.add(
            name=("bytes_list", "float_list", "int64_list")[number - 1],
            number=number,
            type=field.TYPE_MESSAGE,
            type_name=f".tensorflow.{name}",
            label=field.LABEL_OPTIONAL,
            oneof_index=0,
        )
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    entry.field.add(name="value", number=2, type=field.TYPE_MESSAGE, type_name=".tensorflow.Feature", label=field.LABEL_OPTIONAL)
    features.field.add(
        name="feature", number=1, type=field.TYPE_MESSAGE, type_name=".tensorflow.Features.FeatureEntry", label=field.LABEL_REPEATED
    )
    example = file.message_type.add(name="Example")
    example.field.add(name="features", number=1, type=field.TYPE_MESSAGE, type_name=".tensorflow.Features", label=field.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))

"""The bytes of a record: TFRecord framing and `tf.train.Example`, without TensorFlow.

A TFRecord is `uint64 length, uint32 masked CRC of the length, payload, uint32 masked CRC of the payload`,
little-endian (tensorflow/core/lib/io/record_writer.h). A payload of 3 bytes makes a record of 8 + 4 + 3 + 4 = 19
bytes. An Example maps names to lists of int64, float32 or bytes (tensorflow/core/example/example.proto). Its
descriptor is built here in a separate pool, so that it does not collide with TensorFlow's. Every read checks both
CRCs, and no length is used before its CRC is checked: a damaged file raises an error and never exhausts memory.
"""

import functools
import struct
from collections.abc import Iterator, Mapping

import google_crc32c
import numpy as np

from castor.tasks.errors import CacheError

HEADER_BYTES = 12
FOOTER_BYTES = 4
MAX_RECORD_BYTES = 1 << 30
"""Largest record that is written or read; protobuf's own limit is 2 GiB."""

_HEAD_BYTES = 256
"""Bytes of a payload that are parsed first: with few features, the wanted feature starts here."""

_FLOAT_LIST, _INT64_LIST = 0x12, 0x1A
"""Tags of Feature.float_list and Feature.int64_list."""

_CRC_MASK_DELTA = 0xA282EAD8
_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")
_REBUILD = "The file is damaged: run castor tasks verify on the cache, then remake it."


def crc32c(data: bytes | np.ndarray) -> int:
    """CRC-32C of bytes or of a uint8 array, as an unsigned 32-bit integer."""
    return google_crc32c.value(data)


def masked_crc(data: bytes | np.ndarray) -> int:
    """CRC-32C, rotated and offset as TFRecord stores it, as an unsigned 32-bit integer."""
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + _CRC_MASK_DELTA) & 0xFFFFFFFF


def frame(payload: bytes) -> bytes:
    """A payload as a TFRecord: with its length and both CRCs. Raises CacheError beyond MAX_RECORD_BYTES."""
    if len(payload) > MAX_RECORD_BYTES:
        raise CacheError(
            f"a record of {len(payload)} bytes is over the limit of {MAX_RECORD_BYTES}.",
            "Split the document before it is tokenized.",
        )
    length = _LENGTH.pack(len(payload))
    return b"".join((length, _CRC.pack(masked_crc(length)), payload, _CRC.pack(masked_crc(payload))))


def read_record(data: memoryview | bytes, offset: int, where: str) -> bytes:
    """The payload of one record.

    data: content of the file.

    offset: first byte of the record.

    where: file name for error messages.

    Raises CacheError for any damage.
    """
    size = len(data)
    if not 0 <= offset <= size - HEADER_BYTES - FOOTER_BYTES:
        raise CacheError(
            f"{where}: no record fits at byte {offset} of {size}; the file is truncated or its index is wrong.",
            _REBUILD,
        )
    header = bytes(data[offset : offset + HEADER_BYTES])
    length = _LENGTH.unpack_from(header)[0]
    if masked_crc(header[:8]) != _CRC.unpack_from(header, 8)[0]:
        raise CacheError(
            f"{where}: the record at byte {offset} has a wrong length checksum (its length field is {length}).",
            _REBUILD,
        )
    if length > MAX_RECORD_BYTES or length > size - offset - HEADER_BYTES - FOOTER_BYTES:
        raise CacheError(
            f"{where}: the record at byte {offset} claims {length} bytes, more than the file has or the limit allows.",
            _REBUILD,
        )
    start = offset + HEADER_BYTES
    payload = bytes(data[start : start + length])
    if masked_crc(payload) != _CRC.unpack(bytes(data[start + length : start + length + FOOTER_BYTES]))[0]:
        raise CacheError(f"{where}: the record at byte {offset} has a wrong data checksum.", _REBUILD)
    return payload


def check_record(data: np.ndarray, offset: int, end: int, where: str) -> None:
    """Checks the CRCs of one record without decoding it.

    data: uint8 [file size], content of the file.

    offset: first byte of the record.

    end: last byte of the record plus 1.

    where: file name for error messages.

    Raises CacheError for any damage.
    """
    length = _LENGTH.pack(end - offset - HEADER_BYTES - FOOTER_BYTES)
    payload = data[offset + HEADER_BYTES : end - FOOTER_BYTES]
    if data[offset : offset + HEADER_BYTES].tobytes() != length + _CRC.pack(masked_crc(length)) or data[
        end - FOOTER_BYTES : end
    ].tobytes() != _CRC.pack(masked_crc(payload)):
        read_record(memoryview(data), offset, where)  # raises an error that names the damage
        raise CacheError(f"{where}: the record at byte {offset} does not end at byte {end}.", _REBUILD)


def iterate_records(data: memoryview | bytes, where: str) -> Iterator[tuple[int, bytes]]:
    """Yields (byte offset, payload) of every record of a file. Raises CacheError at the first damaged record.

    data: content of the file.

    where: file name for error messages.
    """
    offset = 0
    while offset < len(data):
        payload = read_record(data, offset, where)
        yield offset, payload
        offset += HEADER_BYTES + len(payload) + FOOTER_BYTES


def encode_example(features: Mapping[str, np.ndarray]) -> bytes:
    """Serializes arrays as a tf.train.Example, flattened in C order.

    Map entries are sorted by name, so equal features give equal bytes.

    features: name -> array. Integers and booleans become int64 lists, floats become float32 lists.

    Raises TypeError for arrays of other kinds.
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
            raise TypeError(f"feature {name!r} has dtype {array.dtype}; a cache stores only integers and floats")
    return example.SerializeToString(deterministic=True)


def decode_example(payload: bytes, where: str = "record") -> dict[str, np.ndarray]:
    """Parses a tf.train.Example into flat arrays: int64 [n], float32 [n], or object [n] of bytes.

    payload: serialized Example.

    where: file and record for error messages.

    Raises CacheError if the payload is not an Example.
    """
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


def decode_int64(
    payload: bytes, name: str, start: int = 0, stop: int | None = None, where: str = "record"
) -> np.ndarray:
    """Values [start:stop] of one int64 feature of an Example, int64 [n]; other values are not decoded."""
    packed = _packed(payload, len(payload), name.encode(), _INT64_LIST)
    if packed is None or (packed[0] < packed[1] and payload[packed[1] - 1] >= 0x80):
        return decode_example(payload, where).get(name, np.zeros(0, np.int64))[start:stop]
    return decode_varints(cut_varints(np.frombuffer(payload, np.uint8)[slice(*packed)], start, stop))


def decode_float32(
    payload: bytes, name: str, start: int = 0, stop: int | None = None, where: str = "record"
) -> np.ndarray:
    """Values [start:stop] of one float feature of an Example, float32 [n]: a read-only view of the payload."""
    packed = _packed(payload, len(payload), name.encode(), _FLOAT_LIST)
    if packed is None or (packed[1] - packed[0]) % 4:
        return decode_example(payload, where).get(name, np.zeros(0, np.float32))[start:stop]
    return np.frombuffer(payload, "<f4", (packed[1] - packed[0]) // 4, packed[0])[start:stop]


def read_packed_int64(data: np.ndarray, offset: int, name: str, where: str) -> np.ndarray:
    """The encoded varints of one int64 feature of a record, uint8 [bytes]: a view with checked CRC, for
    `decode_varints`.

    An Example with an unusual layout, which no serializer writes, is parsed by protobuf.

    data: uint8 [file size], content of the file.

    offset: first byte of the record.

    name: feature name.

    where: file name for error messages.

    Raises CacheError for any damage.
    """
    end = offset + HEADER_BYTES
    header = data[offset:end].tobytes()
    if len(header) == HEADER_BYTES and masked_crc(header[:8]) == _CRC.unpack_from(header, 8)[0]:
        stop = end + _LENGTH.unpack_from(header)[0]
        footer = data[stop : stop + FOOTER_BYTES].tobytes()
        payload = data[end:stop]
        if len(footer) == FOOTER_BYTES and masked_crc(payload) == _CRC.unpack(footer)[0]:
            encoded = name.encode()
            try:
                packed = _packed(payload[:_HEAD_BYTES].tobytes(), len(payload), encoded, _INT64_LIST)
            except IndexError:  # the feature starts beyond the parsed bytes
                packed = _packed(payload.tobytes(), len(payload), encoded, _INT64_LIST)
            if packed is not None and (packed[0] == packed[1] or payload[packed[1] - 1] < 0x80):
                return payload[slice(*packed)]
            values = decode_example(payload.tobytes(), where).get(name, np.zeros(0, np.int64))
            return np.frombuffer(b"".join(map(_varint, values.tolist())), np.uint8)
    read_record(memoryview(data), offset, where)  # raises an error that names the damage
    raise CacheError(f"{where}: the record at byte {offset} is damaged.", _REBUILD)


def cut_varints(packed: np.ndarray, start: int, stop: int | None) -> np.ndarray:
    """The bytes of values [start:stop] in a sequence of varints, as a view. packed: uint8 [bytes]."""
    ends = np.flatnonzero(packed < 0x80)
    last = len(ends) if stop is None else min(stop, len(ends))
    if start >= last:
        return packed[:0]
    return packed[int(ends[start - 1]) + 1 if start else 0 : int(ends[last - 1]) + 1]


def decode_varints(packed: np.ndarray) -> np.ndarray:
    """The values of consecutive varints, int64 [n]. packed: uint8 [bytes], ending with a complete varint.

    Example: the bytes 05 AC 02 are the values 5 and 300 (0xAC 0x02 is 0x2C + (2 << 7)).

    Raises CacheError for a varint longer than 10 bytes.
    """
    ends = np.flatnonzero(packed < 0x80)
    begins = np.empty_like(ends)
    begins[:1], begins[1:] = 0, ends[:-1] + 1
    more = ends - begins  # bytes beyond the first
    longest = int(more.max(initial=0))
    if longest > 9:
        raise CacheError(f"a varint of {longest + 1} bytes is not an int64.", _REBUILD)
    values = (packed[begins] & 0x7F).astype(np.int32 if longest < 4 else np.uint64)
    for byte in range(1, longest + 1):
        longer = np.flatnonzero(more >= byte)
        bits = (packed[begins[longer] + byte] & 0x7F).astype(values.dtype)
        values[longer] |= bits << values.dtype.type(7 * byte)
    return values.astype(np.int64) if longest < 4 else values.view(np.int64)


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _packed(head: bytes, size: int, name: bytes, kind: int) -> tuple[int, int] | None:
    """The byte range of a feature's values in a payload; None unless the payload has the layout of ordinary
    serializers.

    head: the payload or its start.

    size: bytes of the whole payload.

    name: feature name.

    kind: tag of the list that holds the values.

    Raises IndexError if `head` is too short.
    """
    features = _only_field(head, 0, size, 0x0A)  # Example.features
    if features is None:
        return None
    position, end = features
    while position < end:
        entry = _field(head, position, end, 0x0A)  # Features.feature, one entry of the map
        if entry is None:
            return None
        position = entry[1]
        key = _field(head, *entry, 0x0A)
        if key is None:
            return None
        if key[1] > len(head):
            raise IndexError
        if head[key[0] : key[1]] == name:
            span = _only_field(head, key[1], entry[1], 0x12)  # the entry's Feature
            span = span and _only_field(head, *span, kind)
            return span and _only_field(head, *span, 0x0A)  # Int64List.value or FloatList.value, packed
    return None


def _only_field(data: bytes, position: int, end: int, tag: int) -> tuple[int, int] | None:
    """The content range of a message that consists of exactly one length-delimited field with this tag; else None."""
    span = _field(data, position, end, tag)
    return span if span and span[1] == end else None


def _field(data: bytes, position: int, end: int, tag: int) -> tuple[int, int] | None:
    """The content range of the length-delimited field at `position` if its one-byte tag is `tag`; else None."""
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
        raise CacheError(f"{where}: a record is not a tf.train.Example ({error}).", _REBUILD) from error


@functools.cache
def _example_class():
    """The message class of tensorflow.Example, from a descriptor built by hand."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="castor/example.proto", package="tensorflow", syntax="proto3")
    for name, kind in (
        ("BytesList", field.TYPE_BYTES),
        ("FloatList", field.TYPE_FLOAT),
        ("Int64List", field.TYPE_INT64),
    ):
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
    entry.field.add(
        name="value", number=2, type=field.TYPE_MESSAGE, type_name=".tensorflow.Feature", label=field.LABEL_OPTIONAL
    )
    features.field.add(
        name="feature",
        number=1,
        type=field.TYPE_MESSAGE,
        type_name=".tensorflow.Features.FeatureEntry",
        label=field.LABEL_REPEATED,
    )
    example = file.message_type.add(name="Example")
    example.field.add(
        name="features", number=1, type=field.TYPE_MESSAGE, type_name=".tensorflow.Features", label=field.LABEL_OPTIONAL
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))

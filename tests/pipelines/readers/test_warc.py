"""WARC and ARC: all records of a sound file, one fault for each other one, and the records after a fault."""

import gzip
import random

import pytest

from castor.pipelines.readers import compressed, warc


def record(body, length=None, kind="response", uri="http://example.org/", extra=b"", end=b"\r\n\r\n"):
    length = len(body) if length is None else length
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {uri}\r\nContent-Length: {length}\r\n".encode()
    return head + extra + b"\r\n" + body + end


BODIES = [b"first " * 50, b"second\r\n\r\n" * 30, b"third" * 10_000]


def read(tmp_path, data, name="x.warc.gz", reader=warc.read_warc, limit=1 << 20):
    path = tmp_path / name
    path.write_bytes(data)
    with open(path, "rb") as file:
        return list(reader(compressed.open_members(file, name), limit))


def bodies(items):
    return [i.body for i in items if isinstance(i, warc.Record)]


def faults(items):
    return [i.error for i in items if isinstance(i, warc.Fault)]


def packings():
    records = [record(b) for b in BODIES]
    blocks = b"".join(records)
    yield "x.warc", blocks
    yield "x.warc.gz", b"".join(map(gzip.compress, records))
    yield "x.warc.gz", gzip.compress(blocks)
    yield (
        "x.warc.gz",
        b"".join(gzip.compress(blocks[i : i + 1000]) for i in range(0, len(blocks), 1000)),
    )  # as bgzip cuts


@pytest.mark.parametrize("name, data", list(packings()), ids=["plain", "a member a record", "one member", "blocks"])
def test_every_packing_gives_the_same_records(tmp_path, name, data):
    items = read(tmp_path, data, name)
    assert bodies(items) == BODIES and not faults(items)
    assert len({i.key for i in items}) == 3
    assert items[0].headers == {
        "warc-type": "response",
        "warc-target-uri": "http://example.org/",
        "content-length": str(len(BODIES[0])),
    }


def test_keys_are_offsets_of_members(tmp_path):
    packed = [gzip.compress(record(b), mtime=0) for b in BODIES]
    keys = [i.key for i in read(tmp_path, b"".join(packed))]
    assert keys == ["offset=0", f"offset={len(packed[0])}", f"offset={len(packed[0]) + len(packed[1])}"]


@pytest.mark.parametrize("length", [-5, 10**12, "x", "", 650, 10])
@pytest.mark.parametrize("pack", [gzip.compress, bytes], ids=["one member", "plain"])
def test_a_record_that_lies_about_its_length_costs_itself_alone(tmp_path, length, pack):
    lying = record(BODIES[0], length)
    items = read(
        tmp_path,
        pack(record(b"before") + lying + record(BODIES[1]) + record(BODIES[2])),
        "x.warc.gz" if pack is gzip.compress else "x.warc",
    )
    assert bodies(items) == [b"before", *BODIES[1:]] and len(faults(items)) == 1


def test_lengths_that_end_in_another_member(tmp_path):
    items = read(
        tmp_path,
        b"".join(
            gzip.compress(r) for r in [record(b"before"), record(BODIES[0], len(BODIES[0]) + 500), record(BODIES[1])]
        ),
    )
    assert bodies(items) == [b"before", BODIES[1]] and faults(items) == ["short_record"]


def test_a_cut_file_gives_no_cut_record(tmp_path):
    for name, data in packings():
        for cut in (3, 30, len(data) // 2, len(data) - 20):
            items = read(tmp_path, data[:cut], name)
            assert set(bodies(items)) <= set(BODIES) and faults(items), (name, cut)


def test_flipped_bytes_cost_one_record(tmp_path):
    packed = [gzip.compress(record(random.Random(i).randbytes(5000))) for i in range(3)]
    for position in range(20, len(packed[1]), 97):
        damaged = bytearray(packed[1])
        damaged[position] ^= 0xFF
        items = read(tmp_path, packed[0] + bytes(damaged) + packed[2])
        assert bodies(items) == [random.Random(i).randbytes(5000) for i in (0, 2)]
        assert len(faults(items)) >= 1


def test_garbage_and_headers_without_end(tmp_path):
    huge = b"WARC/1.0\r\nX: " + b"a" * 200_000
    assert faults(read(tmp_path, b"no archive", "x.warc")) == ["not_warc"]
    assert faults(read(tmp_path, gzip.compress(huge))) == ["huge_header"]
    items = read(tmp_path, gzip.compress(huge + b"\r\n\r\n" + record(BODIES[0])))
    assert faults(items) == ["huge_header"] and bodies(items) == BODIES[:1]
    assert faults(read(tmp_path, b"")) == ["empty"]
    items = read(
        tmp_path, gzip.compress(record(BODIES[0])) + b"\x1f\x8b\x08 not really" + gzip.compress(record(BODIES[1]))
    )
    assert bodies(items) == BODIES[:2] and faults(items)


def test_header_lines_are_judged(tmp_path):
    items = read(
        tmp_path,
        gzip.compress(
            record(b"x", extra=b"X-Bad: \xff\xfe\r\n") + record(BODIES[1], uri="http://a/\x00b") + record(BODIES[2])
        ),
    )
    assert faults(items) == ["bad_header", "bad_header"] and bodies(items) == BODIES[2:]
    # A record that was cut besides ends before its Content-Length, which reaches into the sound record after it.
    for bad in (record(b"x" * 500, extra=b"X-Bad: \xff\xfe\r\n"), record(b"x" * 500, uri="http://a/\x00b")):
        for data in (bad[:-300], bad[:-300] + b"\r\n\r\n"):
            items = read(tmp_path, data + record(BODIES[0]) + record(BODIES[1]), "x.warc")
            assert faults(items) == ["bad_header"] and bodies(items) == BODIES[:2]
    [item] = read(tmp_path, record(b"x", extra=b"X-Folded: a\r\n  b\r\nx-folded: second\r\n"), "x.warc")
    assert item.headers["x-folded"] == "a b"


def test_a_page_about_warc_is_a_page(tmp_path):
    page = b"<pre>\r\n\r\nWARC/1.0\r\nWARC-Type: response\r\n</pre>"
    assert bodies(read(tmp_path, gzip.compress(record(page) + record(b"next")))) == [page, b"next"]


def test_arc(tmp_path):
    def arc(uri, body, length=None):
        return (
            f"{uri} 127.0.0.1 20140216050221 text/html {len(body) if length is None else length}\n".encode()
            + body
            + b"\n"
        )

    sound = [
        arc("filedesc://x.arc", b"1 0 x\n"),
        arc("http://a/", b"HTTP/1.1 200 OK\r\n\r\none"),
        arc("http://b/ c", b"HTTP/1.1 200 OK\r\n\r\ntwo"),
    ]
    for data in (b"".join(sound), gzip.compress(b"".join(sound)), b"".join(map(gzip.compress, sound))):
        items = read(tmp_path, data, "x.arc.gz" if data[:2] == b"\x1f\x8b" else "x.arc", warc.read_arc)
        assert [i.headers["warc-type"] for i in items] == ["warcinfo", "response", "response"]
        assert items[2].headers["warc-target-uri"] == "http://b/ c" and items[2].body.endswith(b"two")
    items = read(
        tmp_path, sound[0] + b"http://bad 1.2.3.4 null text/html 5\nhello\n" + sound[1], "x.arc", warc.read_arc
    )
    assert faults(items) == ["not_arc"] and len(bodies(items)) == 2


@pytest.mark.parametrize("keep", [14, 40, 60, 90, 120, 200, 380])
def test_a_record_cut_short_costs_itself_alone_where_borders_are_all_there_is(tmp_path, keep):
    first, second, third = (record(b) for b in BODIES)
    items = read(tmp_path, first[:keep] + second + third, "x.warc")
    assert bodies(items) == BODIES[1:] and len(faults(items)) == 1


def test_a_header_without_end_at_the_end_is_one_fault(tmp_path):
    items = read(
        tmp_path, record(BODIES[0]) + b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://x", "x.warc"
    )
    assert bodies(items) == BODIES[:1] and faults(items) == ["short_header"]

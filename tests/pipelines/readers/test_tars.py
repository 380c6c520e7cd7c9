import io
import tarfile
import tracemalloc

import hypothesis
import hypothesis.strategies as st
import pytest
import small_media

from castor.pipelines.readers import tars

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
CONTENT = [
    ("a/000000.jpg", b"x" * 700),
    ("a/000000.txt", b"caption"),
    ("a/000001.jpg", b""),
    ("a/000001.txt", b"y" * 512),
]


def read(data, limit=1 << 20):
    return list(tars.read_members(io.BytesIO(data), limit))


def members(data, limit=1 << 20):
    return [(m.name, m.data) for m in read(data, limit) if isinstance(m, tars.Member)]


def faults(data, limit=1 << 20):
    return [(f.error, f.name) for f in read(data, limit) if isinstance(f, tars.Fault)]


@pytest.mark.parametrize("format", FORMATS)
def test_members_come_back_as_written(format):
    content = [*CONTENT, ("d" * 90 + "/" + "e" * 60 + ".jpg", b"1")]
    if format != tarfile.USTAR_FORMAT:
        content += [("f" * 300 + ".jpg", b"2"), ("café 8.jpg", b"3")]
    data = small_media.tar(content, format)
    assert members(data) == content and faults(data) == []
    assert [m.offset % 512 for m in read(data)] == [0] * len(content)


@hypothesis.settings(derandomize=True, deadline=None, max_examples=60)
@hypothesis.given(
    format=st.sampled_from(FORMATS),
    content=st.lists(
        st.tuples(
            st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=150),
            st.binary(max_size=1500),
        ),
        max_size=6,
    ),
    tail=st.integers(0, 3),
)
def test_agrees_with_tarfile(format, content, tail):
    hypothesis.assume(format != tarfile.USTAR_FORMAT or all(len(name) <= 100 for name, _ in content))
    data = small_media.tar(content, format) + bytes(512 * tail)
    assert members(data) == content and faults(data) == []


@hypothesis.settings(derandomize=True, deadline=None, max_examples=80)
@hypothesis.given(share=st.floats(0, 1))
def test_what_lies_before_a_cut_comes_through(share):
    data = small_media.tar(CONTENT)[: int(share * 8 * 512)]
    ends = [512 + 700, 2048 + len(b"caption"), 3072, 4096]  # of the content of each member
    assert members(data) == [member for member, end in zip(CONTENT, ends) if end <= len(data)]
    assert faults(data), "a cut archive is never passed over in silence"


def test_a_bad_header_loses_its_member_only():
    data = bytearray(small_media.tar(CONTENT))
    data[5] ^= 1
    assert members(bytes(data)) == CONTENT[1:] and faults(bytes(data)) == [("bad_header", "")]


def test_a_size_that_does_not_fit_loses_its_member_only():
    huge = tarfile.TarInfo("huge.bin")
    huge.size = 8 << 40
    data = huge.tobuf(tarfile.GNU_FORMAT) + small_media.tar(CONTENT)
    tracemalloc.start()
    assert members(data) == CONTENT and faults(data) == [("truncated", "huge.bin")]
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_large_members_are_passed_over_unread():
    data = small_media.tar(CONTENT)
    assert faults(data, limit=600) == [("too_large", "a/000000.jpg")] and members(data, limit=600) == CONTENT[1:]


def test_links_and_devices_are_named_not_followed():
    odd = []
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
        information = tarfile.TarInfo(f"odd{kind!r}")
        information.type, information.linkname = kind, "/etc/passwd"
        odd.append(information)
    folder = tarfile.TarInfo("folder")
    folder.type = tarfile.DIRTYPE
    data = small_media.tar([*odd, folder, *CONTENT])
    assert [f[0] for f in faults(data)] == ["not_a_file"] * 4 and members(data) == CONTENT


def test_what_is_no_archive():
    assert faults(b"") == [("empty", "")]
    assert faults(b"<html>" * 200) == [("bad_header", "")]
    assert faults(small_media.tar(CONTENT)[: 512 * 8]) == [("no_end_of_archive", "")]


@hypothesis.settings(derandomize=True, deadline=None, max_examples=300)
@hypothesis.given(
    format=st.sampled_from(FORMATS), changes=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=12)
)
def test_mutations_never_crash(format, changes):
    data = bytearray(
        small_media.tar([*CONTENT, ("g" * 200 + ".jpg" if format != tarfile.USTAR_FORMAT else "g", b"z")], format)
    )
    used = 512 * 12
    for place, value in changes:
        data[int(place * used)] = value
    for part in read(bytes(data)):
        assert part.name.encode() is not None and 0 <= part.offset <= len(data)


@pytest.mark.parametrize("kept", [10_000, 512 * 3])
@pytest.mark.parametrize("shift", [-1500, -511, -1, 1, 77, 512, 5000])
def test_members_after_bytes_lost_or_added_come_through(shift, kept):
    content = [(f"m{i}", bytes([65 + i]) * kept) for i in range(4)]
    data = small_media.tar(content, tarfile.USTAR_FORMAT)
    place = 512 + -(-kept // 512) * 512 + 512 + 20  # in the content of the second member
    hurt = data[:place] + data[place - shift :] if shift < 0 else data[:place] + b"+" * shift + data[place:]
    found = members(hurt)
    assert [m for m in content if m[0] != "m1"] == [m for m in found if m[0] != "m1"]
    assert shift % 512 == 0 or faults(hurt)


@hypothesis.given(data=st.data())
def test_a_reader_that_only_goes_forward_sees_the_same(data):
    content = data.draw(st.lists(st.tuples(st.sampled_from(["a", "b" * 120]), st.binary(max_size=3000)), max_size=5))
    hurt = bytearray(small_media.tar(content, tarfile.GNU_FORMAT))
    for _ in range(data.draw(st.integers(0, 3))):
        begin = data.draw(st.integers(0, len(hurt)))
        hurt[begin : begin + data.draw(st.integers(0, 900))] = data.draw(st.binary(max_size=700))
    assert list(tars.read_members(Forward(bytes(hurt)), 2000)) == read(bytes(hurt), 2000)


class Forward(io.BytesIO):
    """Raises on a read before the end of an earlier one."""

    furthest = 0

    def read(self, count=-1):
        assert self.tell() >= self.furthest, "read backwards"
        found = super().read(count)
        self.furthest = self.tell()
        return found

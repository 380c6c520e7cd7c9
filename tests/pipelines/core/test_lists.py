"""Lists: parsing, hashed lookups, substring search, and the job's fingerprint of their content."""

import gzip

import pytest
import small_job
from hypothesis import given
from hypothesis import strategies as st

from castor.pipelines.core import lists
from castor.pipelines.filters import url_lists
from castor.tasks.errors import ConfigurationError


def test_lines(tmp_path):
    (tmp_path / "a.txt").write_bytes("# comment\n\n One\r\ntwo words \nÉté\n".encode())
    (tmp_path / "b.gz").write_bytes(gzip.compress(b"three"))
    assert list(lists.lines(str(tmp_path / "a.txt"))) == ["one", "two words", "été"]
    assert list(lists.lines(str(tmp_path / "b.gz"))) == ["three"]
    assert lists.words((str(tmp_path / "a.txt"), str(tmp_path / "b.gz"))) == {"one", "two words", "été", "three"}
    with pytest.raises(ConfigurationError, match="absent.txt does not exist. .*castor/url_hard.txt"):
        lists.find(str(tmp_path / "absent.txt"))
    (tmp_path / "c.txt").write_bytes(b"ok\n\xff\n")
    with pytest.raises(ConfigurationError, match="line 2 of the list .*c.txt is not UTF-8"):
        list(lists.lines(str(tmp_path / "c.txt")))


def test_what_is_kept_of_a_file_is_forgotten_when_asked(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one")
    assert lists.words((str(path),)) == {"one"}
    path.write_text("two")
    assert lists.words((str(path),)) == {"one"}
    lists.forget()
    assert lists.words((str(path),)) == {"two"}


def test_every_list_of_our_own_is_sound():
    names = [lists.OWN + path.name for path in sorted(lists._FOLDER.glob("*.txt"))]
    assert len(names) >= 7
    for name in names:
        entries = list(lists.lines(name))
        assert entries and len(set(entries)) == len(entries), name


def test_hashed_set():
    known = lists.HashedSet(["a.org", "b.org"])
    assert len(known) == 2 and known.first(["c.org", "b.org", "a.org"]) == "b.org"
    assert known.first(["c.org"]) is None and known.first([]) is None and lists.HashedSet([]).first(["a.org"]) is None


@given(st.sets(st.text(alphabet="abc", min_size=1, max_size=4), max_size=8), st.text(alphabet="abc", max_size=20))
def test_substrings_agree_with_a_search_one_by_one(entries, text):
    found = lists.Substrings(entries).first(text)
    assert (found is None) == (not any(entry in text for entry in entries))
    if found is not None:
        assert found in entries and min(text.find(e) for e in entries if e in text) == text.find(found)


def test_a_fingerprint_follows_the_lists(tmp_path):
    (tmp_path / "in.txt").write_text("x\n")
    (tmp_path / "domains.txt").write_text("a.org\n")

    def job():
        rules = url_lists.Filter(domains=(str(tmp_path / "domains.txt"),))
        return small_job.Job(name="s", input_root=str(tmp_path), inputs=("in.txt",), output="o", filter=rules)

    before, files = job().fingerprint(), job().files_read()
    assert str(tmp_path / "domains.txt") in files and len(files["castor/url_hard.txt"]) == 64
    (tmp_path / "domains.txt").write_text("b.org\n")
    assert job().fingerprint() != before
    plain = small_job.Job(name="s", input_root=str(tmp_path), inputs=("in.txt",), output="o")
    assert plain.files_read() == {}

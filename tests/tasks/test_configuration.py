"""Gin flags, files and complaints."""

import dataclasses
import sys

import pytest

import gin
from castor.tasks import configuration
from castor.tasks.configuration import Flags
from castor.tasks.errors import ConfigurationError


@gin.configurable(module="test_configuration")
@dataclasses.dataclass(frozen=True)
class Thing:
    size: int = 1
    name: str = "thing"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "base.gin").write_text("SIZE = 3\ntest_configuration.Thing.size = %SIZE\n")
    (tmp_path / "more.gin").write_text("include 'base.gin'\ntest_configuration.Thing.name = 'more'\n")
    yield tmp_path
    gin.clear_config()


def test_split_flags_keeps_the_order_of_everything_else():
    flags, rest = configuration.split_flags(
        [
            "a",
            "--gin_file=x.gin",
            "--runner",
            "R",
            "--gin_file",
            "y.gin",
            "--gin.A=1",
            "--gin.b.c='d=e'",
            "--gin_search_paths=p,q",
        ]
    )
    assert flags == Flags(("x.gin", "y.gin"), ("A = 1", "b.c = 'd=e'"), ("p", "q"))
    assert rest == ["a", "--runner", "R"]


def test_files_then_bindings_win(folder):
    configuration.parse(Flags(("more.gin",), ("SIZE = 5",), (str(folder),)))
    assert Thing() == Thing(5, "more")
    assert configuration.macro("SIZE") == 5 and configuration.macro("ABSENT", 7) == 7
    assert "Thing.size" in configuration.operative_config()


def test_parsing_again_starts_anew(folder):
    configuration.parse(Flags(("more.gin",), (), (str(folder),)))
    configuration.parse(Flags())
    assert Thing() == Thing(1, "thing")


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (Flags(("mroe.gin",)), ("mroe.gin",)),
        (Flags(("base.gin",), ("SIZES = 3",)), ("SIZES", "Did you mean SIZE")),
        (Flags((), ("test_configuration.Thing.sise = 3",)), ("sise", "Thing")),
        (Flags((), ("test_configuration.Thnig.size = 3",)), ("Thnig", "Did you mean")),
        (Flags((), ("test_configuration.Thing.name = unquoted text",)), ("unquoted text", "quotes")),
    ],
)
def test_complaints_name_the_thing_and_the_remedy(folder, flags, names):
    with pytest.raises(ConfigurationError) as error:
        configuration.parse(dataclasses.replace(flags, search_paths=(str(folder),)))
    for name in names:
        assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_an_error_in_a_file_names_file_and_line(folder):
    (folder / "bad.gin").write_text("SIZE = 3\ntest_configuration.Thing.sise = 3\n")
    with pytest.raises(ConfigurationError, match=r"bad\.gin"):
        configuration.parse(Flags(("bad.gin",), (), (str(folder),)))


def test_a_name_that_nothing_imported_says_what_to_import(folder, monkeypatch):
    monkeypatch.delitem(sys.modules, "castor.pipelines.filters.datacomp_basic", raising=False)
    with pytest.raises(ConfigurationError, match=r"`import castor\.pipelines\.filters\.datacomp_basic`"):
        configuration.parse(Flags((), ("test_configuration.Thing.name = @datacomp_basic.Nothing()",), (str(folder),)))

"""The web job: filters before and after extraction, one tokenization per text, and published recipes as gin files."""

import dataclasses
import json
from typing import ClassVar

import pytest
from prose import GOOD, PROSE

import gin
from castor.pipelines import web
from castor.pipelines.corpus.reader import read_corpus
from castor.pipelines.execution import launcher
from castor.pipelines.filters import c4, refinedweb
from castor.pipelines.filters.reason import Reason
from castor.pipelines.text.tokenized_text import tokenize
from castor.tasks import configuration
from castor.tasks.errors import ConfigurationError


@dataclasses.dataclass(frozen=True)
class NoMirrors:
    """Rejects pages of mirrors by URL."""

    name: ClassVar[str] = "url"

    def check(self, document):
        return Reason("url.mirror", document.metadata["url"]) if "mirror" in document.metadata.get("url", "") else None


@pytest.fixture
def made(tmp_path):
    """A job on six texts, one per outcome."""
    texts = [GOOD, PROSE["de"], PROSE["zh"], GOOD + "\n\nHome", GOOD + "\n" + GOOD, "Too short to say."]
    rows = [{"text": text, "url": f"http://e.org/{i}"} for i, text in enumerate(texts)] + [
        {"text": PROSE["ko"], "url": "http://mirror.org/"}
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return web.Job(
        name="w",
        input_root=str(tmp_path),
        inputs=("*.jsonl",),
        output=str(tmp_path / "out"),
        num_shards=1,
        admission=(NoMirrors(),),
    )


def test_funnel_of_the_default_rules(made):
    funnel = launcher.run(made, quiet=True)["funnel"]
    assert funnel["rejected"] == {
        "gopher_quality.few_words": 1,
        "gopher_repetition.duplicate_lines": 1,
        "url.mirror": 1,
    }
    assert funnel["kept"] == 3 and funnel["duplicates"] == {
        "exact": 1
    }  # once its menu is gone, a page is another's twin
    assert {d.metadata["language"] for d in read_corpus(made.output)} == {"en", "de", "zh"}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"filters": (c4.Filter,)}, "with parentheses"),
        ({"lines": c4.Filter}, "with parentheses"),
        ({"filters": c4.Filter()}, "not a list"),
        ({"filters": ("c4.Filter",)}, "cannot be one of the rules"),
        ({"duplicates": (c4.Filter(),)}, "cannot be one of the duplicates"),
    ],
)
def test_a_job_put_together_wrongly_says_so_at_once(made, changes, message):
    with pytest.raises(ConfigurationError, match=message):
        launcher.run(dataclasses.replace(made, **changes), quiet=True)


def test_all_rules_of_a_document_share_one_view(made):
    """Steps fuse, so each text is tokenized once; c4.Clean gives one document a second text."""
    tokenize.cache_clear()
    launcher.run(
        dataclasses.replace(made, filters=(*made.filters, refinedweb.Clean(max_words_removed=1.0), c4.Clean())),
        quiet=True,
    )
    info = tokenize.cache_info()
    # The four that are left are searched for personal data and asked for their signatures.
    assert info.misses == 6 + 1 and info.hits == 20 + 4 + 4


@pytest.mark.parametrize("name, reason", [("web", None), ("web_fineweb", "language.unwanted")])
def test_recipes_as_gin_files(name, reason, tmp_path):
    (tmp_path / "in.jsonl").write_text(json.dumps({"text": PROSE["de"]}) + "\n" + json.dumps({"text": GOOD}) + "\n")
    values = (f"INPUT_ROOT={str(tmp_path)!r}", f"OUTPUT={str(tmp_path / 'out')!r}", "NUM_SHARDS=1")
    configuration.parse(configuration.Flags((f"pipelines/{name}.gin",), values))
    try:
        manifest = launcher.run(web.Job(), quiet=True)
    finally:
        gin.clear_config()
    assert manifest["funnel"]["rejected"] == ({reason: 1} if reason else {})
    assert [step["class"].rpartition("filters.")[2] for step in manifest["config"]["filters"]] == [
        "length.Filter", "gopher_repetition.Filter", "gopher_quality.Filter", "c4.Clean", "c4.Filter", "fineweb.Filter", "castor.pipelines.text.pii.Replace",
    ]  # fmt: skip


def test_the_gin_file_and_the_defaults_are_one_recipe():
    try:
        configuration.parse(configuration.Flags(("pipelines/web.gin",), ("INPUT_ROOT = 'raw'", "OUTPUT = 'out'")))
        bound = web.Job()
    finally:
        configuration.parse(configuration.Flags())
    default = web.Job(name="web", input_root="raw", inputs=bound.inputs, output="out")
    assert bound.config() == default.config()

"""Main text of real pages whose text is known: lower bounds on the scores of benchmarks/web/extraction.py."""

import importlib.util
import pathlib

import pytest
from resiliparse.parse.html import HTMLTree

from castor.pipelines.text.maintext import main_text as maintext

pytestmark = pytest.mark.real

SCRIPT = pathlib.Path(__file__).resolve().parent.parent.parent / "benchmarks" / "web" / "extraction.py"


@pytest.fixture(scope="module")
def measured(real_data):
    specification = importlib.util.spec_from_file_location("extraction_benchmark", SCRIPT)
    benchmark = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(benchmark)
    golds, segments, pages = benchmark.load(real_data, crawl=False)
    texts = [maintext.extract(HTMLTree.parse(page)) for page in pages]
    return benchmark.summary(texts, [0.0] * len(texts), golds, segments), pages, texts


def test_text_is_as_good_as_trafilaturas(measured):
    """Trafilatura 2.3.1 has F1 of 0.9535 and 0.9276; resiliparse's own rules 0.9066 and 0.8653."""
    scores = measured[0]
    assert scores["text"]["f1"] >= 0.95 and scores["segments"]["f1"] >= 0.915
    assert min(scores["halves"]["text"]) >= 0.945 and min(scores["halves"]["segments"]) >= 0.91


def test_hardly_a_page_has_no_text(measured):
    assert measured[0]["empty"] <= 5  # of 728


def test_main_text_is_part_of_the_whole(measured):
    for page, text in list(zip(*measured[1:]))[::40]:
        whole = maintext.extract(HTMLTree.parse(page), main_content=False)
        assert set(text.split()) <= set(whole.split()) | {"|", "-"}

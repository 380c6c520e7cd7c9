"""Renders the report of a linear model as one self-contained HTML page, the same for the same model.

The template engine escapes text from crawled documents.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence

from castor.pipelines.core.funnel import Funnel, rows
from castor.pipelines.quality.linear_model import HIGH, LinearModel

FILE = "report.html"
_TEMPLATE = pathlib.Path(__file__).with_name("report.html")


def render(model: LinearModel, ngrams: Mapping[str, Sequence[tuple[str, float]]]) -> str:
    """The report as HTML.

    ngrams: "for" and "against" -> (words, weight), strongest first.
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        manifest=model.manifest,
        measures=model.manifest["measures"],
        side="at least" if model.keep == HIGH else "at most",
        funnel=rows(Funnel.from_json(model.manifest["funnel"])),
        ngrams=ngrams,
        config=json.dumps(model.manifest["config"], indent=1, sort_keys=True, ensure_ascii=False),
    )

"""Labels, credits, calls."""

import pytest

from castor.pipelines.text.maintext import phrases


@pytest.mark.parametrize(
    "text",
    [
        "Advertisement",
        "» Read more …",
        "ANZEIGE",
        "Czytaj więcej",
        "広告",
        "© dpa",
        "Foto: Anna Muster/dpa",
        "Image credits: NASA",
    ],
)
def test_labels(text):
    assert phrases.is_label(text)


@pytest.mark.parametrize(
    "text",
    [
        "Advertisement pays for this page, we were told.",
        "More than ever",
        "Photographs were lost in the fire.",
        "Mehr Licht!",
    ],
)
def test_no_labels(text):
    assert not phrases.is_label(text)


def test_calls():
    assert phrases.is_call("Sign up for our weekly newsletter.") and phrases.is_call("Folgen Sie uns auf Instagram")
    assert not phrases.is_call("The letter was new to her.") and not phrases.is_call(
        "The newsletter of the guild " + "told of it. " * 40
    )

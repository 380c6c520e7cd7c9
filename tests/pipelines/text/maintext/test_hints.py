"""What names say."""

import pytest

from castor.pipelines.text.maintext import hints


@pytest.mark.parametrize(
    "attributes, expected",
    [
        (' class="post-relatedArticles__list"', hints.BOILERPLATE),
        (' id="sidebar"', hints.BOILERPLATE),
        (' class="sidebar-grid__content"', 0),
        (' class="layout has-sidebar md:hidden"', 0),
        (' class="post tag-share category-newsletter"', 0),
        (' class="elementor-widget-container"', 0),
        (' id="id-klrfAcpqADlHB"', 0),
        (' class="shadow download header-upload"', 0),
        (' class="socialMedia"', hints.BOILERPLATE),
        (' class="box read-more"', hints.BOILERPLATE),
        (' class="entry-content clear"', hints.CONTENT),
        (' itemprop="articleBody"', hints.CONTENT),
        (' class="entry-content" style="display: none"', hints.HIDDEN),
        (' class="d-none"', hints.HIDDEN),
        (' aria-hidden="true"', hints.HIDDEN),
        (' aria-hidden="false"', 0),
        (' class="entry-byline"', hints.MINOR),
        (' class="widget comment-list"', hints.COMMENTS),
        (' role="navigation"', hints.BOILERPLATE),
        (' role="main"', 0),
        (' class="thread-moreover"', hints.BOILERPLATE),
        (' class="spread" id="more"', 0),
        (' class="cookiebanner"', hints.BOILERPLATE),
        (' class="Box ReadMore"', hints.BOILERPLATE),
        (' class="a" data-x="sidebar"', 0),
        ("", 0),
    ],
)
def test_verdict(attributes, expected):
    assert hints.verdict(attributes) == expected == hints.verdict(attributes)


def test_the_memory_of_tokens_is_bounded(monkeypatch):
    monkeypatch.setattr(hints, "_MAX_TOKENS_KEPT", 10)
    monkeypatch.setattr(hints, "_kept", {})
    for number in range(100):
        assert hints.verdict(f' class="related-{number}"') == hints.BOILERPLATE
    assert len(hints._kept) <= 10

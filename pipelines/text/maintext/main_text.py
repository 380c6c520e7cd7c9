"""The main text of a parsed page: the author's text, without the boilerplate of the site.

    lexbor tree --stream--> nodes and blocks --hints, boilerplate--> blocks alive --choose--> main text --render--> text

Every step is a pure function of the page, linear in its size. The rules have round thresholds with their reasons next
to them. Nothing was fitted to a corpus, so no site is favoured. `docs/extraction.md` describes the result.
"""

from castor.pipelines.text.maintext import choose, render, stream


def extract(
    tree, main_content: bool = True, links: bool = False, alt_texts: bool = False, comments: bool = False
) -> str:
    """The text of a resiliparse HTMLTree; empty if the page has none. Removes invisible elements from the tree.

    main_content: False keeps every visible block.

    links: write links as `text (address)`.

    alt_texts: include the alternative texts of images.

    comments: include readers' comments.
    """
    if tree.body is None:
        return ""
    page = stream.read(stream.canonical(tree), links, alt_texts)
    return render.render(page, choose.choose(page, comments) if main_content else range(len(page.text)))

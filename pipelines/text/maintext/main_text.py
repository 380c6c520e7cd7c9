"""The main text of a parsed page: what its author wrote, without the furniture of the site.

    lexbor tree --stream--> nodes and blocks --hints, boilerplate--> blocks alive --choose--> main text --render--> text

Every step is a pure function of the page, linear in its size, and made of rules with round thresholds whose reasons are written beside
them: nothing here was fitted to a corpus, so nothing leans towards the sites of one. `docs/extraction.md` says what comes out.
"""

from castor.pipelines.text.maintext import choose, render, stream


def extract(
    tree, main_content: bool = True, links: bool = False, alt_texts: bool = False, comments: bool = False
) -> str:
    """The text of a resiliparse HTMLTree, whose invisible elements this removes. Empty if the page has none.

    main_content: False keeps every visible block. links: `text (address)`. alt_texts: of pictures. comments: of readers, too.
    """
    if tree.body is None:
        return ""
    page = stream.read(stream.canonical(tree), links, alt_texts)
    return render.render(page, choose.choose(page, comments) if main_content else range(len(page.text)))

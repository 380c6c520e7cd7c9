"""Classifies elements by their names: class, id, role, microdata and the like.

Names are split into words (`post-relatedArticles__list` gives post, related, articles, list), since words are all that
sites have in common. The word lists come from common content management systems (WordPress, Drupal, Typo3, Joomla,
Blogger, news systems) and style frameworks.
"""

import re

# In ascending order of precedence, for elements whose tokens differ.
CONTENT, BOILERPLATE, MINOR, COMMENTS, HIDDEN = 1, 2, 3, 4, 5

_ATTRIBUTE = re.compile(r' (class|id|role|itemprop|style|aria-hidden|hidden)="([^"]*)"')
_CLASS = ' class="'
_INVISIBLE = re.compile(r"display:\s*none|visibility:\s*hidden")
_SEPARATORS = re.compile(r"[^A-Za-z]+")
_CAMEL = re.compile(r"(?:[a-z]{2,}|[A-Z][a-z]+)(?:[A-Z][a-z]+)+")
_CAPITALISED = re.compile(r"[A-Z]?[a-z]+")
_LOWER_CASE = re.compile(r"[a-z]+")

# Whole tokens that name the element around an article's text.
_CONTENT = frozenset(
    (
        "articlebody article-body article__body article_body article-content article__content article_content "
        "articlecontent article-text "
        "article_text articletext article-copy article-main-text entry-content entrycontent entry_content entry-body "
        "post-content postcontent "
        "post__content post_content post-body post-entry td-post-content story-body storybody story__body story_body "
        "story-content story__content "
        "story-text body-copy bodycopy body-text bodytext news-content news-body newsbody news-text content-body "
        "content-article single-content "
        "blog-content text-content main-text maintext field-name-body field--name-body mw-parser-output"
    ).split()
)
_COMMENT_WORDS = frozenset(
    (
        "comment comments commentlist commentform commentaire commentaires kommentar kommentare "
        "kommentarer komentarze komentare comentarios commenti "
        "reacties yorum yorumlar pinglun disqus respond replies livefyre"
    ).split()
)
# Words for parts that accompany every text of the site.
_BOILERPLATE_WORDS = frozenset(
    (
        "nav navbar navi navigation subnav topnav mainnav menu menus submenu mainmenu megamenu footer "
        "subfooter sidebar sidebars sidenav widget widgets "
        "breadcrumb breadcrumbs share shares sharing sharebar sharetools sharedaddy social socials sociallinks "
        "socialmedia addthis addtoany likes "
        "subscribe subscription newsletter signup related relatedposts recommend recommended recommendation "
        "recommendations recirc recirculation "
        "outbrain taboola teaser teasers promo promos promotion ad ads adv advert adverts advertisement advertising "
        "sponsor sponsored adsbygoogle "
        "werbung anzeige publicidad publicite cookie cookies consent gdpr cmp modal popup overlay lightbox tooltip "
        "pagination pager paging "
        "toolbar mostread trending noprint "
        # The same in other languages of the web, in the spelling used in names.
        "empfehlungen verwandte teilen annonce advertentie annons reklama reklam reklame hirdetes guanggao pubblicita "
        "partage partager lireaussi "
        "relacionados relacionadas compartir compartilhar correlati condividi udostepnij polecane powiazane "
        "gerelateerd delen dela souvisejici "
        "kapcsolodo paylas ilgili tuijian xiangguan fenxiang daohang kanren osusume"
    ).split()
)
# Words for parts that belong to one text without being its text, and words with several uses.
_MINOR_WORDS = frozenset(
    (
        "tags taglist tagcloud keywords byline author authors authorbox vcard meta metadata postmeta toc popular "
        "latest recent login register "
        "copyright legal disclaimer imprint caption captions credit credits gallery slideshow carousel slider swiper "
        "rating ratings feedback search "
        "banner follow timestamp dateline date tools print categories fact"
    ).split()
)
# Prefixes of compound words: socialshare, cookiebanner.
_PREFIXES = tuple(
    (
        "breadcrumb cookie newsletter advert subscri socials socialm sharebu sharetoo modald modalw "
        "modalc popupw relateda relatedc relatedl relatedp "
        "recommend outbrain taboola pagination sidebar navbar mostread mostpop"
    ).split()
)
_SHORTEST_PREFIX = min(map(len, _PREFIXES))
_PREFIX_BEGINNINGS = frozenset(prefix[:_SHORTEST_PREFIX] for prefix in _PREFIXES)
_PHRASES = (
    "read more",
    "more on",
    "see also",
    "also read",
    "read also",
    "read next",
    "up next",
    "sign up",
    "most read",
)
_IN_PHRASES = re.compile("read|more|also|next|sign")  # every phrase contains one of these
_HIDING = frozenset(
    "hidden hide d-none visually-hidden visuallyhidden sr-only screen-reader-text screenreader invisible "
    "u-hidden is-hidden noscreen".split()
)
# First words of names that describe a state of the page, its place in a taxonomy (WordPress) or a page builder's box,
# not content.
_STATES = frozenset("has no is with not without tag category format type status elementor et vc wpb fusion".split())
# Words that in a name of the form block__element describe the block, not the element.
_FRAMES = frozenset("nav navbar navigation menu footer sidebar sidebars widget widgets banner modal overlay".split())
_ROLES = frozenset(
    "navigation banner contentinfo complementary search menu menubar dialog alert alertdialog toolbar tablist".split()
)

_MOST_WORDS_OF_ID = 3
# Sections in Sphinx, Pandoc, DocBook and AsciiDoc.
_SECTIONS = frozenset("section level1 level2 level3 level4 sect1 sect2 sect3 sect4".split())

_LONGEST_NAME = 100  # characters
_MAX_TOKENS_KEPT = 100_000
_kept: dict[str, int] = {}  # cached classes of tokens, which repeat within and between sites


def verdict(attributes: str) -> int:
    """CONTENT, BOILERPLATE, MINOR, COMMENTS, HIDDEN or 0, for the attributes of an element in canonical HTML."""
    # Most elements have a class and nothing else.
    if attributes.startswith(_CLASS) and attributes.find('"', len(_CLASS)) == len(attributes) - 1:
        return _of_tokens(attributes[len(_CLASS) : -1])
    result = 0
    found_attributes = _ATTRIBUTE.findall(attributes)
    for name, value in found_attributes:
        if name == "class" or name == "id":
            if name == "id" and _is_slug(value, found_attributes):
                continue
            result = max(result, _of_tokens(value))
        elif name == "style":
            if _INVISIBLE.search(value):
                return HIDDEN
        elif name == "hidden" or name == "aria-hidden":
            if value != "false":
                return HIDDEN
        elif name == "itemprop":
            if value == "articleBody":
                return CONTENT
        elif value in _ROLES:
            result = max(result, BOILERPLATE)
    return result


def _of_tokens(value: str) -> int:
    """The highest class of the tokens of a class or id."""
    result = 0
    for token in value.split():
        found = _kept.get(token)
        if found is None:
            found = _learn(token)
        if found > result:
            result = found
    return result


def _learn(token: str) -> int:
    if len(token) > _LONGEST_NAME:
        return 0
    if len(_kept) >= _MAX_TOKENS_KEPT:
        _kept.clear()
    _kept[token] = _token(token)
    return _kept[token]


def _token(token: str) -> int:
    lower = token.lower()
    if lower in _HIDING:
        return HIDDEN
    if lower in _CONTENT:
        return CONTENT
    if ":" in token or "[" in token:  # utility classes of style frameworks: md:hidden
        return 0
    words = _words(token, lower)
    if not words or words[0] in _STATES:
        return 0
    element = token.partition("__")[2]
    if element:
        inner = _words(element, element.lower())
        words = [word for word in words if word not in _FRAMES or word in inner]
    if not _COMMENT_WORDS.isdisjoint(words):
        return COMMENTS
    if not _BOILERPLATE_WORDS.isdisjoint(words):
        return BOILERPLATE
    for word in words:
        if word[:_SHORTEST_PREFIX] in _PREFIX_BEGINNINGS and word.startswith(_PREFIXES):
            return BOILERPLATE
    if not _MINOR_WORDS.isdisjoint(words):
        return MINOR
    if _IN_PHRASES.search(lower):  # few match, and joining is slow
        joined = " ".join(words)
        for phrase in _PHRASES:
            if phrase in joined:
                return BOILERPLATE
    return 0


def _is_slug(identifier: str, attributes: list[tuple[str, str]]) -> bool:
    """Whether an id is made of the words of a heading, as in manuals, where ids describe the topic of a section."""
    if len(_SEPARATORS.split(identifier)) > _MOST_WORDS_OF_ID:
        return True
    return any(name == "class" and not _SECTIONS.isdisjoint(value.split()) for name, value in attributes)


def _words(token: str, lower: str) -> list[str]:
    """The lower-case words of a name, with camelCase split; the letters of a random identifier stay together.

    lower: the name in lower case.
    """
    if token == lower:
        return _LOWER_CASE.findall(token)
    words = []
    for part in _SEPARATORS.split(token):
        if _CAMEL.fullmatch(part):
            words += _CAPITALISED.findall(part)
        words.append(part)
    return [word.lower() for word in words if word]


def content_names(attributes: str) -> frozenset[str]:
    """The class tokens that name an element as the one around an article's text."""
    return (
        frozenset(
            token
            for name, value in _ATTRIBUTE.findall(attributes)
            if name == "class"
            for token in value.lower().split()
        )
        & _CONTENT
    )


def class_of(attributes: str) -> str:
    """The value of the attribute class; empty without one."""
    return next((value for name, value in _ATTRIBUTE.findall(attributes) if name == "class"), "")

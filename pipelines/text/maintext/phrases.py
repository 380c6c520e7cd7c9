"""Recognizes short blocks that recur on every page: interface labels, picture credits, calls to subscribe.

The lists cover the most frequent languages of the web. Only whole blocks match: a sentence about advertisements stays.
"""

import re

_TRIMMED = " \t\n:.…!»«›‹→>|[]()+*–—-"
_LABELS = frozenset(
    (
        "advertisement|advertisements|advertising|article continues below|sponsored|sponsored content|"
        "read more|continue reading|more|share|share this|"
        "share this article|share on facebook|tweet|print|embed|related|related articles|related stories|"
        "related posts|read also|see also|you may also like|"
        "recommended|recommended videos|most read|comments|leave a comment|loading|copy link|"
        "link copied|follow us|subscribe|sign up|log in|back to top|"
        "anzeige|werbung|weiterlesen|mehr|mehr lesen|mehr zum thema|lesen sie auch|auch interessant|das könnte sie "
        "auch interessieren|teilen|"
        "artikel teilen|drucken|kommentare|empfohlener redaktioneller inhalt|externen inhalt anzeigen|"
        "player wird geladen|nach oben|dieses thema im programm|"
        "publicité|lire la suite|lire aussi|à lire aussi|partager|imprimer|commentaires|en savoir plus|sur le même "
        "sujet|"
        "publicidad|leer más|lea también|lee también|te puede interesar|compartir|imprimir|comentarios|noticias "
        "relacionadas|"
        "publicidade|leia mais|leia também|leia tambem|compartilhar|partilhar|continua após a publicidade|"
        "pubblicità|leggi anche|leggi tutto|condividi|stampa|commenti|potrebbe interessarti|"
        "reklama|czytaj więcej|czytaj też|czytaj także|zobacz także|udostępnij|komentarze|reklam|annons|"
        "läs mer|läs också|dela|annonse|les mer|les også|"
        "læs mere|læs også|advertentie|lees meer|lees ook|delen|mainos|lue lisää|lue myös|hirdetés|olvasson tovább"
        "|publicitate|citește și|"
        "devamını oku|paylaş|ilgili haberler|реклама|читайте также|читайте ещё|читать далее|поделиться|комментарии"
        "|подписаться|читайте також|"
        "広告|関連記事|続きを読む|シェア|印刷する|"
        "分享|为你推荐|广告|相关阅读|相关新闻|相关文章|阅读全文|分享到|推荐阅读|责任编辑|"
        "廣告|相關新聞|광고|관련기사|공유하기|댓글|إعلان|اقرأ أيضا"
        "|شارك|विज्ञापन|यह भी पढ़ें"
    ).split("|")
)
_CREDIT = re.compile(
    r"(?:©|\(c\)|copyright\b|all rights reserved|(?:foto|photo|image|bild|picture|fotograf|titelbild|"
    r"imagen|immagine|zdjęcie|фото)s?(?: credits?| by)?:|"
    r"credits?:|crédits?|写真[:：＝=]|图片来源|사진[=:])",
    re.IGNORECASE,
)
_CALL = re.compile(
    r"newsletter|sign(?:ing)? up (?:for|to)|subscribe to|follow us on|follow .{0,30} on (?:twitter|facebook|instagram"
    r"|x\b)|bookmark our|"
    r"folgen sie uns|abonnieren|abonnez-vous|suscríb|síguenos|iscriviti|seguici|inscreva-se|siga-nos|prenumerera"
    r"|подпис[аы]|구독",
    re.IGNORECASE,
)
# Consent notices that German and French law requires in place of an embedded post or film.
_CONSENTS = (
    "einverstanden, dass mir",
    "externe inhalte",
    "externer inhalt",
    "externen inhalt",
    "an drittplattformen übermittelt",
    "redaktioneller inhalt",
    "contenu bloqué",
    "a été bloqué car vous n'avez pas accepté",
)
_SHORTEST_CONSENT = min(map(len, _CONSENTS))
_LONGEST_LABEL, _LONGEST_CREDIT, _LONGEST_CALL, _LONGEST_CONSENT = 40, 120, 300, 500


def is_label(text: str) -> bool:
    """Whether a block is an interface label, a picture credit or a request for consent, at any position."""
    size = len(text)
    if size > _LONGEST_CONSENT:
        return False
    lower = text.casefold()
    if size <= _LONGEST_LABEL and lower.strip(_TRIMMED) in _LABELS or size <= _LONGEST_CREDIT and _CREDIT.match(lower):
        return True
    if size < _SHORTEST_CONSENT:
        return False
    for consent in _CONSENTS:  # a plain loop, since this runs on every block
        if consent in lower:
            return True
    return False


def is_call(text: str) -> bool:
    """Whether a block is a call to subscribe or follow, which is boilerplate at the end of a text."""
    return len(text) <= _LONGEST_CALL and _CALL.search(text) is not None

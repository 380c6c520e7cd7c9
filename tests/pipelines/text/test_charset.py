"""Text in the right characters, or none."""

import pytest
import webencodings.labels

from castor.pipelines.document import BadInput
from castor.pipelines.text import charset

TEXTS = {
    "ja": "日本語の文章です。これはテストのためのページで、いくつかの文が含まれています。東京は日本の首都である。",
    "ko": "한국어 문장입니다. 이것은 시험을 위한 페이지입니다. 서울은 대한민국의 수도이다.",
    "zh": "这是一个中文网页的例子，用来测试编码的识别。北京是中华人民共和国的首都。",
    "zh-tw": "這是一個中文網頁的例子，用來測試編碼的識別。臺北是中華民國的首都。",
    "ru": "Это пример русского текста для проверки определения кодировки. Москва является столицей России.",
    "el": "Αυτό είναι ένα παράδειγμα ελληνικού κειμένου. Η Αθήνα είναι η πρωτεύουσα της Ελλάδας.",
    "fr": "Voilà un exemple de texte français, où l'été est déjà là, près de la forêt. Ça a été très agréable.",
    "de": "Die Größe der Häuser überrascht die Gäste aus Österreich; schön für alle, süß.",
    "es": "¿Dónde está el niño? ¡Qué mañana tan bonita en España! El corazón de la nación.",
    "pl": "Zażółć gęślą jaźń. To jest przykładowy tekst polski, żeby sprawdzić kodowanie. Łódź jest dużym miastem.",
    "cs": "Příliš žluťoučký kůň úpěl ďábelské ódy. Město je krásné a řeka je široká.",
    "hu": "Árvíztűrő tükörfúrógép. Az időjárás nagyon szép Magyarországon, hűvös szellő.",
    "tr": "İstanbul'da güneşli bir gün yaşanıyor, çocuklar dışarıda oynuyor. Şehir çok kalabalık, ağaçlar yeşil.",
    "is": "Þetta er íslenskur texti um veðrið í Reykjavík; það er kalt úti og við förum heim.",
}
ENCODINGS = [
    *((language, encoding) for language in TEXTS for encoding in ("utf-8", "utf-8-sig", "utf-16-le", "utf-16")),
    *(("ja", e) for e in ("cp932", "euc_jp", "iso2022_jp")),
    *(
        ("ko", "cp949"),
        ("zh", "gb18030"),
        ("zh-tw", "big5"),
        ("ru", "cp1251"),
        ("ru", "koi8-r"),
        ("el", "iso8859-7"),
        ("el", "cp1253"),
    ),
    *((language, "cp1252") for language in ("fr", "de", "es", "is")),
    *((language, encoding) for language in ("pl", "cs") for encoding in ("cp1250", "iso8859-2")),
    *(("hu", "cp1250"), ("tr", "cp1254")),
]


def page(language, head=""):
    return f"<html><head>{head}<title>{TEXTS[language]}</title></head><body><p>{(TEXTS[language] + ' ') * 3}</p></body></html>"


def test_every_label_of_the_standard_has_a_codec():
    labels = webencodings.labels.LABELS
    unknown = {label for label, name in labels.items() if charset.python_name(label) is None}
    assert not {labels[label] for label in unknown} - {"replacement", "x-user-defined"}
    names = {"x-cp1251": "cp1251", "l1": "cp1252", "x-x-big5": "big5hkscs", "korean": "cp949", "csunicode": "utf-16-le"}
    other = {
        "latin-1": "cp1252",
        "uhc": "cp949",
        "hz-gb-2312": "hz",
        " UTF8 ": "utf-8",
        "cp437": "cp437",
        "no-such": None,
    }
    for label, name in {**names, **other}.items():
        assert charset.python_name(label) == name, label


@pytest.mark.parametrize("language, encoding", ENCODINGS)
def test_found_without_a_declaration(language, encoding):
    text, _ = charset.decode_html(page(language).encode(encoding))
    assert text == page(language)


@pytest.mark.parametrize("language, encoding", ENCODINGS)
def test_a_right_declaration_and_a_wrong_one_give_the_same(language, encoding):
    assert charset.decode_html(page(language).encode(encoding), encoding)[0] == page(language)
    if encoding != "iso2022_jp":
        wrong = page(language, '<meta charset="utf-8">')
        assert charset.decode_html(wrong.encode(encoding))[0] == wrong


def test_declarations():
    data = "déjà".encode("latin-1")
    assert charset.decode(data, ["iso-8859-1"]) == ("déjà", "cp1252")
    assert charset.decode(b"it\x92s \x80 5", ["latin1"]) == ("it\u2019s \u20ac 5", "cp1252")
    assert charset.decode("中文".encode("gb18030"), ["GB2312"]) == ("中文", "gb18030")
    assert charset.decode("déjà".encode(), ["latin-1"])[0] == "déjà"  # valid UTF-8 is UTF-8, whatever is declared
    head = b'<?xml version="1.0" encoding="euc-jp"?><html>'
    assert charset.decode_html(head + "日本".encode("euc-jp")) == (
        '<?xml version="1.0" encoding="euc-jp"?><html>日本',
        "euc_jp",
    )
    assert (
        charset.decode_html("<META HTTP-EQUIV=x CONTENT='text/html; charset=windows-1251'>да".encode("cp1251"))[1]
        == "cp1251"
    )
    for label in ("", "no such thing", "hex", "base64", "rot13", "\x00", "undefined"):
        assert charset.decode("déjà".encode(), [label])[1] == "utf-8"


def test_nearly_sound_pages_are_kept_with_replacements():
    data = page("ru").encode() * 5
    assert charset.decode_html(data[:-30] + b"\xd0")[0].endswith("\ufffd")
    assert charset.decode_html(b"<p>" + b"a" * 5000 + "\u00e9".encode() * 9 + b"\xff</p>")[0].count("\ufffd") == 1


@pytest.mark.parametrize(
    "data",
    [
        b"<html><meta charset=utf-8><p>ok \xc3( \xff\xfe \xed\xa0\x80 \xf0(\x8c( \x00 end</p>",
        bytes(range(128, 256)) * 20,
        b"\x00\x01\x02\x03" * 100,
        b"\xff\xfe" + b"\x00\xd8" * 50,
        b"a\x00" * 100 + b"\x00\xd8" * 100,
    ],
)
def test_what_is_no_text_is_refused(data):
    with pytest.raises(BadInput, match="charset"):
        charset.decode_html(data)


def test_empty_and_ascii():
    assert charset.decode(b"") == ("", "utf-8") and charset.decode(b"plain") == ("plain", "utf-8")

"""What rules about words need to know of each language: frequent function words, word lengths, spaces between words.

One table keeps rules made for English from rejecting other languages. The lists are Castor's own: about ten of the most
frequent function words per language. Ordinary prose of a hundred words contains several of them, as with Gopher's eight
for English.

In languages with spaces between words, stop words are compared as tokens of pipelines/text/tokenized_text.py (case and
accents are ignored). In scripts without spaces, and in Korean, whose particles attach to the preceding word, they are
searched anywhere in the text.

Codes are ISO 639-1, as in pipelines/text/language.py. A language without an entry has no such rule.
"""

from collections.abc import Mapping

_STOP_WORDS = {
    "af": "die en van het in is wat nie om te dat met",
    "ar": "في من على أن إلى التي عن هذا مع لا ما هذه كان",
    "az": "və bir bu üçün ilə də da olan o kimi",
    "be": "і ў у на не што з як да за гэта для",
    "bg": "и на в за да се от с е не са че по",
    "bn": "এই ও না করে থেকে জন্য এবং যে একটি তার হয়",
    "bs": "i u je na se da za su od s koji ne sa",
    "ca": "de la i a el que en els un per del amb una les no",
    "cs": "a v na se je že z do s to i o ve pro jako si",
    "cy": "y yn yr a i o ar mae wedi ei am",
    "da": "og i at det en den til er som på de med af for ikke der",
    "de": "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine",
    "el": "και το να του η της με την που για από είναι στο",
    "en": "the be to of and that have with",
    "eo": "la de kaj en al estas ne ke por kun",
    "es": "de la que el en y a los se del las un por con no una su para",
    "et": "ja on ei ta et see ka oli kui või mis aga",
    "eu": "eta da bat ez du ere dira egin zen baina",
    "fa": "و در به از که این را با است برای آن",
    "fi": "ja on ei se että oli ovat mutta myös kun joka sen",
    "fr": "de la le et les des en un du une que est pour qui dans a par plus pas",
    "ga": "an na agus ar a i is go le bhí",
    "gl": "de a o e que do da en un para con os unha non no as se por",
    "gu": "છે અને આ તે માટે કે પણ એક",
    "he": "של את על לא הוא זה עם כי גם אל",
    "hi": "के में की है और से का को पर ने यह",
    "hr": "i u je na se da za su od s koji ne",
    "hu": "a az és hogy nem is egy ez meg de van csak vagy",
    "hy": "և է են որ այս ու",
    "id": "yang dan di ini itu dengan untuk dari pada tidak dalam akan",
    "is": "og að í á sem er um við til en það ekki",
    "it": "di e il la che in un a per è una sono con non del le si da",
    "ja": "の に は を が と で た し て も な",
    "ka": "და არ რომ ეს არის იყო",
    "kk": "және бұл мен бір үшін деп",
    "km": "និង នៃ ជា ក្នុង មាន បាន",
    "ko": "는 이 을 를 의 에 고 한 다. 있 수 하",
    "la": "et in est ad ut cum non sed qui quod",
    "lo": "ແລະ ຂອງ ໃນ ເປັນ ມີ ທີ່",
    "lt": "ir į kad iš su yra tai bet kaip o ne buvo",
    "lv": "un ir ka uz no ar par kas bet ne tas arī",
    "mk": "и на во да се од за со е не што",
    "mr": "आणि आहे या च्या ते हे तर की व",
    "ms": "yang dan di ini itu dengan untuk dari pada tidak dalam akan",
    "my": "သည် နှင့် ကို များ တွင် မှာ",
    "nb": "og i det som en på er av for med den til ikke har å at",
    "nl": "de van het een en in is dat op te voor met zijn die niet aan",
    "nn": "og i det som ein på er av for med den til ikkje har å at",
    "no": "og i det som en på er av for med den til ikke har å at",
    "pa": "ਦੇ ਦੀ ਹੈ ਵਿੱਚ ਅਤੇ ਨੂੰ ਦਾ ਨੇ",
    "pl": "w i na z do się nie to że jest o jak po za od dla",
    "pt": "de a o que e do da em um para com não uma os no na por mais",
    "ro": "de și în a la cu pe un o care din nu este pentru mai să ce",
    "ru": "и в не на что с по как это из к для он от а",
    "sk": "a v na sa je že z do s to aj o vo pre ako si",
    "sl": "in je v na da se za so z ki pa tudi",
    "sq": "të e në dhe i një për me që më nga",
    "sr": "и у је на се да за су од са који не i u je na se da za su od koji ne",
    "sv": "och i att det som en på är av för med den till inte ett har",
    "sw": "ya na wa kwa ni katika la cha za kuwa",
    "ta": "ஒரு மற்றும் இந்த என்று அது உள்ள",
    "te": "మరియు ఈ ఒక ఆ కూడా అని",
    "th": "ที่ และ ใน ของ เป็น มี การ ได้ ไม่ ให้ ว่า",
    "tl": "ang ng sa na mga ay at si ito hindi",
    "tr": "ve bir bu için de da ile olarak çok daha olan gibi ne",
    "uk": "і в не на що з до та за у як це від для й",
    "ur": "کے میں کی ہے اور سے کا کو پر نے یہ",
    "vi": "là của và có cho không được trong một các với này những",
    "zh": "的 是 在 了 和 有 不 一 我 人 這 这 為 为",
}

STOP_WORDS: Mapping[str, tuple[str, ...]] = {
    language: tuple(dict.fromkeys(words.split())) for language, words in _STOP_WORDS.items()
}
"""Most frequent function words of each language."""

ANYWHERE = ("ja", "km", "ko", "lo", "my", "th", "zh")
"""Languages whose stop words are searched anywhere in the text, not as separate words."""

WORD_LENGTHS: Mapping[str, tuple[float, float]] = {
    "fi": (3.0, 12.0),
    "hu": (3.0, 11.0),
    "ko": (1.8, 7.0),  # a syllable is one character
    "vi": (2.2, 8.0),  # spaces separate syllables
}
"""(minimum, maximum) mean word length in characters, for languages that Gopher's bounds of 3 and 10 do not suit."""

TERMINAL = (
    ".!?\"'\u2019\u201d\u2026\u203c\u2047\u2048\u2049\u00bb\u0589\u061f\u06d4\u0964\u0965\u104b\u1362\u17d4"
    "\u3002\uff01\uff0e\uff1f\uff61\u300d\u300f"
)
"""Sentence-final punctuation and closing quotation marks of all scripts, so that every script can end a sentence."""

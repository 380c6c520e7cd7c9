"""Ordinary prose of several languages for the tests of the rules on text, written for them."""

from castor.pipelines.document import Document, document_id

GOOD = """The library keeps every book that was ever lent to it, and its readers have been grateful for that.
In winter the reading room opens at nine and closes when the last lamp has been carried to the desk.
A catalogue of forty thousand cards stands by the door, most of them written by one careful hand.
Whoever wants to borrow a map has to ask, since maps that leave the house seldom find their way back.
Children come on Thursdays with their teacher and are allowed to choose three stories each.
Nobody remembers who gave the globe, though everyone who passes it turns it once."""

GERMAN = """Die Bücherei bewahrt jedes Buch auf, das ihr je geliehen wurde, und die Leser danken es ihr.
Im Winter öffnet der Lesesaal um neun und schließt, wenn die letzte Lampe auf dem Pult steht.
Neben der Tür steht ein Katalog mit vierzigtausend Karten, die meisten von einer sorgfältigen Hand geschrieben.
Wer eine Karte ausleihen will, muss fragen, denn Karten finden selten den Weg zurück in das Haus.
Am Donnerstag kommen Kinder mit ihrer Lehrerin und dürfen sich drei Geschichten aussuchen."""

CHINESE = """这座图书馆保存着每一本借给它的书，读者们对此心怀感激。
冬天阅览室九点开门，最后一盏灯在桌上熄灭时才关门。
门边立着一个有四万张卡片的目录柜，大部分出自同一个人之手。
想借地图的人必须先询问，因为地图一旦离开就很少回来。"""

JAPANESE = """この図書館は借りた本をすべて大切に保存しています。
冬の間、閲覧室は九時に開き、最後の灯りが机に置かれると閉まります。
扉のそばには四万枚のカードが並ぶ目録があり、ほとんどが一人の手で書かれたものです。
地図を借りたい人は、まず尋ねなければなりません。"""

KOREAN = """이 도서관은 빌린 책을 모두 보관하고 있어서 독자들이 감사하게 생각한다.
겨울에는 열람실이 아홉 시에 문을 열고 마지막 등불이 꺼질 때 문을 닫는다.
문 옆에는 카드 사만 장이 들어 있는 목록이 서 있는데 대부분 한 사람이 쓴 것이다.
지도를 빌리고 싶은 사람은 먼저 물어보아야 한다.
아이들은 목요일마다 선생님과 함께 와서 이야기를 세 개씩 고른다.
누가 지구본을 주었는지 아무도 기억하지 못하지만 지나가는 사람마다 한 번씩 돌려 본다.
봄에 강물이 불었을 때 이웃들이 줄을 서서 아래 선반의 책을 한 시간 안에 옮겼다."""

RUSSIAN = """Библиотека хранит каждую книгу, которую ей когда-либо отдали, и читатели благодарны за это.
Зимой читальный зал открывается в девять и закрывается, когда погаснет последняя лампа.
У двери стоит каталог из сорока тысяч карточек, и почти все они написаны одной рукой.
Кто хочет взять карту, должен спросить, потому что карты редко возвращаются."""

ARABIC = """تحتفظ المكتبة بكل كتاب أعير لها، والقراء يشكرونها على ذلك.
في الشتاء تفتح قاعة القراءة في التاسعة وتغلق عندما ينطفئ آخر مصباح.
بجانب الباب فهرس من أربعين ألف بطاقة كتب معظمها شخص واحد.
من أراد استعارة خريطة فعليه أن يسأل أولا، لأن الخرائط نادرا ما تعود إلى البيت.
يأتي الأطفال كل خميس مع معلمتهم ويختارون ثلاث قصص من الرف الأول."""

THAI = """ห้องสมุดแห่งนี้เก็บหนังสือทุกเล่มที่เคยยืมไป.
ในฤดูหนาวห้องอ่านเปิดเก้าโมงและปิดเมื่อโคมไฟดวงสุดท้ายดับ.
ข้างประตูมีตู้บัตรรายการสี่หมื่นใบ ส่วนใหญ่เขียนโดยคนคนเดียว."""

PROSE = {"en": GOOD, "de": GERMAN, "zh": CHINESE, "ja": JAPANESE, "ko": KOREAN, "ru": RUSSIAN, "ar": ARABIC, "th": THAI}


def document(text: str, language: str = "en", **metadata) -> Document:
    """A document of a text in a language."""
    return Document(document_id("t", text[:50]), "s", "text", text, None, {"language": language, **metadata})

"""Made-up benchmark questions, and filler text around them."""

import random

QUESTION = (
    "A ferryman carries 14 goats across the river on Monday and twice as many on each later weekday. Every goat pays him a copper coin, and "
    "the toll keeper takes a third of the coins each evening. How many coins has the ferryman kept by Friday night?"
)
CHINESE = "\u8239\u592b\u661f\u671f\u4e00\u8fd0\u4e86\u5341\u56db\u53ea\u5c71\u7f8a\u8fc7\u6cb3\uff0c\u4e4b\u540e\u6bcf\u5929\u8fd0\u7684\u5c71\u7f8a\u662f\u524d\u4e00\u5929\u7684\u4e24\u500d\u3002\u6bcf\u53ea\u5c71\u7f8a\u4ed8\u4ed6\u4e00\u679a\u94dc\u5e01\uff0c\u5b88\u6865\u4eba\u665a\u4e0a\u62ff\u8d70\u4e09\u5206\u4e4b\u4e00\u3002\u4ed6\u4e00\u5171\u7559\u4e0b\u591a\u5c11\u94dc\u5e01\uff1f"  # noqa: E501
SHORT = "Did the goalkeeper dribble past seven midfielders before lunch?"
TOO_SHORT = "What is the capital of France?"
WORDS = "the of a library book and in reader shelf with was old long it which house garden letter from evening street to had been".split()


def filler(count, seed=0):
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) for _ in range(count))

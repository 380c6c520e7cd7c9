"""train/inference/grammar.py: any sequence of allowed ids yields what the grammar promises."""

import jax
import numpy as np
import pytest

from castor.train.inference import grammar
from castor.train.inference.grammar import Grammar, GrammarState, GrammarTokens


def walk(table: GrammarTokens, grammars: list[Grammar], size: int, seed: int, steps: int = 40) -> list[list[int]]:
    """Takes a random allowed id for every row, step by step."""
    random = np.random.default_rng(seed)
    allowed, advance = jax.jit(table.allowed, static_argnums=1), jax.jit(table.advance)
    state, said = GrammarState.of(grammars), [[] for _ in grammars]
    for _ in range(steps):
        masks = np.asarray(allowed(state, size))
        assert masks.any(axis=1).all()
        chosen = np.array([random.choice(np.flatnonzero(mask)) for mask in masks], np.int32)
        for row, (i, where) in enumerate(zip(chosen, np.asarray(state.next_B))):
            if where != grammar.END:
                said[row].append(int(i))
        state = advance(state, chosen)
    return said


@pytest.mark.parametrize("seed", range(5))
def test_every_row_keeps_its_own_grammar(vocabulary, seed):
    v, table = vocabulary, GrammarTokens.of(vocabulary)
    grammars = [
        Grammar.picture(20),
        Grammar.picture(20, (2, 3)),
        Grammar.text(),
        Grammar.anything(),
        None,
        Grammar.picture(1),
    ]
    free, fixed, text, anything, nothing, tiny = walk(table, grammars, v.vocab_size, seed)
    for drawn in (free, fixed, tiny):
        rows, columns = (i - v.size_range.start + 1 for i in drawn[:2])
        assert rows * columns <= 20 and len(drawn) == 3 + rows * columns and drawn[-1] == v.control("</image>")
        assert all(i in v.image_range for i in drawn[2:-1])
        assert v.decode_image([v.control("<image>"), *drawn]).shape == (8 * rows, 8 * columns, 3)
    assert fixed[:2] == [v.control("<size_2>"), v.control("<size_3>")] and len(tiny) == 4
    assert all(i in v.text_range for i in text[:-1]) and (text[-1] in v.text_range or text[-1] == v.eos_id)
    assert v.pad_id not in anything and v.eos_id not in anything[:-1]
    assert nothing == []


def test_an_embedding_larger_than_the_vocabulary_offers_no_more(vocabulary):
    table = GrammarTokens.of(vocabulary)
    mask = np.asarray(table.allowed(GrammarState.of([Grammar.anything()]), vocabulary.vocab_size + 128))[0]
    assert not mask[vocabulary.vocab_size :].any() and mask[1 : vocabulary.vocab_size].all()

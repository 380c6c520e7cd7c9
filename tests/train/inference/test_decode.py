"""train/inference/decode.py: a row's answer does not depend on its batch, chunks or mesh; a session equals a whole
prompt.
"""

import functools

import flax.linen as nn
import jax
import numpy as np
import pytest

from castor.tasks.errors import ConfigurationError
from castor.train.inference import decode, grammar
from castor.train.inference.decode import Generator, Request, Session
from castor.train.inference.grammar import Grammar
from castor.train.inference.sampling import Sampling
from castor.train.model.decoder import Decoder, DecoderConfig

MAX_LENGTH = 96


@pytest.fixture(scope="module")
def config(vocabulary):
    return DecoderConfig(vocab_size=vocabulary.vocab_size, embed=32, layers=2, heads=4, head_dim=8, mlp=64)


@pytest.fixture(scope="module")
def parameters(config):
    tokens = np.zeros((1, 8), np.int32)
    return jax.tree.map(
        lambda leaf: leaf * 3,
        nn.unbox(jax.jit(Decoder(config).init)(jax.random.key(1), tokens, tokens, tokens)["params"]),
    )


def generator(config, parameters, vocabulary, **options) -> Generator:
    return Generator(config, parameters, grammar.GrammarTokens.of(vocabulary), MAX_LENGTH, **options)


@pytest.fixture(scope="module")
def requests(vocabulary):
    """Prompts of 0 to 70 tokens, with every grammar and sampling."""
    random = np.random.default_rng(0)
    v = vocabulary

    def prompt(length):
        return random.integers(v.text_range.start, v.text_range.stop, length).tolist()

    ways = [Sampling(0), Sampling(1.0, 0, 1), Sampling(0.7, 5, 2), Sampling(1.3, 0, 3, 0.7)]
    found = [Request(prompt(length), Grammar.text(), ways[i % 4], 12) for i, length in enumerate((0, 3, 17, 40, 70))]
    found += [
        Request([*prompt(length), v.control("<image>")], Grammar.picture(12), ways[i % 4])
        for i, length in enumerate((2, 9))
    ]
    found += [Request(prompt(5), Grammar.anything(), ways[1], 30), Request(prompt(90), Grammar.text(), ways[2])]
    return [*found, Request(prompt(4), Grammar.text(), ways[0], 0)]


@pytest.fixture(scope="module")
def one_by_one(config, parameters, vocabulary, requests):
    alone = generator(config, parameters, vocabulary)
    return [alone([request])[0] for request in requests]


def plain(config, parameters, vocabulary, request) -> list[int]:
    """The same answer without cache, batch or loop: the whole row is read again for every token (greedy, text only)."""
    read = jax.jit(functools.partial(Decoder(config).apply, {"params": parameters}))
    ids, said = [decode.START, *request.prompt], []
    allowed = np.zeros(config.vocab_size, bool)
    allowed[vocabulary.text_range.start : vocabulary.text_range.stop] = allowed[vocabulary.eos_id] = True
    while len(said) < request.max_tokens and (not said or said[-1] != vocabulary.eos_id):
        row = np.zeros((1, MAX_LENGTH), np.int32)
        row[0, : len(ids)] = ids
        logits = np.asarray(read(row, np.arange(MAX_LENGTH)[None], np.ones_like(row)))[0, len(ids) - 1]
        said.append(int(np.argmax(np.where(allowed, logits, -np.inf))))
        ids.append(said[-1])
    return said


def test_the_likeliest_tokens_are_those_of_reading_the_row_anew(config, parameters, vocabulary, requests, one_by_one):
    for i in (0, 4):
        assert requests[i].sampling.temperature == 0
        assert one_by_one[i] == plain(config, parameters, vocabulary, requests[i])


def test_answers_keep_to_limits_and_grammars(vocabulary, requests, one_by_one):
    for request, ids in zip(requests, one_by_one):
        limit = min(MAX_LENGTH if request.max_tokens is None else request.max_tokens, MAX_LENGTH - len(request.prompt))
        assert len(ids) <= limit
        if request.grammar == Grammar.text() and len(ids) < limit:
            assert ids[-1] == vocabulary.eos_id
    assert one_by_one[-1] == [] and len(one_by_one[-2]) <= 6


@pytest.mark.parametrize("options", [{}, {"batch_size": 4, "chunk": 16}, {"cache_bytes": 100_000}])
def test_a_batch_says_what_its_rows_say_alone(config, parameters, vocabulary, requests, one_by_one, options):
    done = []
    g = generator(config, parameters, vocabulary, **options)
    assert g(requests, done.append) == one_by_one
    assert sum(done) == len(requests)
    assert g(requests[::-1]) == one_by_one[::-1]


def test_few_programs_are_compiled(config, parameters, vocabulary):
    many = generator(config, parameters, vocabulary, batch_size=4)
    before = many._write._cache_size(), many._read._cache_size()
    for length in range(1, 60, 7):
        many([Request([300] * length, Grammar.text(), Sampling(0), 3)] * (1 + length % 4))
    assert many._write._cache_size() - before[0] <= 2 and many._read._cache_size() - before[1] <= 4, (
        "1 or 4 rows, chunks of 32 or 128"
    )


def test_a_session_goes_on_where_it_was(config, parameters, vocabulary):
    g = generator(config, parameters, vocabulary, chunk=16)
    way = Sampling(1.0, 0, 5)
    session = Session(g)
    prompt = list(range(300, 330))
    session.read(prompt[:7])
    session.read(prompt[7:])
    said = [i for ids in session.write(Grammar.text(), way, 20) for i in ids]
    assert said == g([Request(prompt, Grammar.text(), way, 20)])[0]
    kept = [i for i in said if i != vocabulary.eos_id]
    assert session.ids == [*prompt, *kept]
    session.read([301, 302])
    again = [i for ids in session.write(Grammar.text(), way, 10) for i in ids]
    assert again == g([Request([*prompt, *kept, 301, 302], Grammar.text(), way, 10)])[0]


def test_a_session_goes_on_from_the_last_token_after_an_eos(config, parameters, vocabulary):
    g = generator(config, parameters, vocabulary)
    prompt, ways = [300, 301], [Sampling(1.0, 0, seed) for seed in range(64)]
    answers = g([Request(prompt, Grammar.text(), way) for way in ways])
    way, said = next(
        (way, ids) for way, ids in zip(ways, answers) if ids[-1] == vocabulary.eos_id and 4 < len(ids) < 60
    )
    session = Session(g)
    session.read(prompt)
    assert [i for ids in session.write(Grammar.text(), way) for i in ids] == said
    again = [i for ids in session.write(Grammar.text(), Sampling(1.0, 0, 99), 8) for i in ids]
    assert session.ids[: len(prompt) + len(said) - 1] == [*prompt, *said[:-1]]
    assert again == g([Request([*prompt, *said[:-1]], Grammar.text(), Sampling(1.0, 0, 99), 8)])[0]


def test_a_session_may_be_left_in_the_middle_and_knows_its_room(config, parameters, vocabulary):
    g = generator(config, parameters, vocabulary)
    session = Session(g)
    first = next(session.write(Grammar.anything(), Sampling(1.0, 0, 4), 40))
    assert session.ids == first and session.room == MAX_LENGTH - len(first)
    with pytest.raises(ConfigurationError, match="trained on 96"):
        session.read([300] * MAX_LENGTH)
    assert session.ids == first
    rest = [i for ids in session.write(Grammar.anything(), Sampling(0)) for i in ids]
    assert len(session.ids) <= MAX_LENGTH and rest


def test_what_is_too_long_is_refused(config, parameters, vocabulary):
    with pytest.raises(ConfigurationError, match="the prompt is 96 tokens long"):
        generator(config, parameters, vocabulary)([Request([300] * MAX_LENGTH)])
    with pytest.raises(ConfigurationError, match="batch_size = 0"):
        generator(config, parameters, vocabulary, batch_size=0)

"""train/inference/scoring.py: log-probabilities do not depend on the batch; the probabilities of all answers sum to
one.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from castor.tasks.errors import ConfigurationError
from castor.train.inference import scoring
from castor.train.inference.scoring import Scorer
from castor.train.model.decoder import Decoder, DecoderConfig

CONFIG = DecoderConfig(vocab_size=128, embed=32, layers=2, heads=4, head_dim=8, mlp=64)


@pytest.fixture(scope="module")
def parameters():
    tokens = np.zeros((1, 8), np.int32)
    return jax.tree.map(
        lambda leaf: leaf * 3,
        nn.unbox(jax.jit(Decoder(CONFIG).init)(jax.random.key(1), tokens, tokens, tokens)["params"]),
    )


@pytest.fixture(scope="module")
def pairs():
    random = np.random.default_rng(0)
    return [
        (random.integers(0, 128, a).tolist(), random.integers(0, 128, b).tolist())
        for a, b in ((0, 3), (5, 1), (60, 30), (7, 0), (20, 9), (1, 1))
    ]


@jax.jit
def read(parameters, row):
    return jax.nn.log_softmax(
        Decoder(CONFIG).apply({"params": parameters}, row, jnp.arange(row.shape[1])[None], jnp.ones_like(row))[0]
    )


def alone(parameters, prompt, continuation) -> np.ndarray:
    ids = [*prompt, *continuation]
    row = np.zeros((1, 100), np.int32)
    row[0, 1 : len(ids)] = ids[:-1]
    return np.asarray(read(parameters, row))[np.arange(len(ids)), ids][len(prompt) :]


def test_scores_are_those_of_each_row_alone(parameters, pairs, monkeypatch):
    monkeypatch.setattr(
        scoring, "_LOGITS_BYTES", 4 * 128 * 4 * 8
    )  # so that a row's logits are computed in several chunks
    scoring._program.cache_clear()
    done = []
    scores = Scorer(CONFIG, parameters, 128, batch_tokens=256)(pairs, done.append)
    assert sum(done) == len(pairs)
    for (prompt, continuation), score in zip(pairs, scores):
        if continuation:
            wanted = alone(parameters, prompt, continuation)
            np.testing.assert_allclose(score.log_probabilities, wanted, atol=2e-5)
            assert score.total == pytest.approx(wanted.sum(), abs=1e-3) and score.mean == pytest.approx(
                wanted.mean(), abs=1e-4
            )
        else:
            assert score.total == score.mean == 0 and len(score.log_probabilities) == 0
    scoring._program.cache_clear()


def test_all_answers_of_one_token_add_up_to_one_and_one_is_the_likeliest(parameters):
    scores = Scorer(CONFIG, parameters, 128)([([5, 6, 7], [i]) for i in range(128)])
    totals = np.array([score.total for score in scores])
    assert np.exp(totals).sum() == pytest.approx(1, abs=1e-4)
    assert [score.likeliest for score in scores].count(True) == 1 and scores[int(np.argmax(totals))].likeliest


def test_too_long_a_pair_is_refused(parameters):
    with pytest.raises(ConfigurationError, match="129 tokens long; the model was trained on 128"):
        Scorer(CONFIG, parameters, 128)([([1] * 100, [2] * 29)])

"""py3langid's model, asked by array: the scores that its own walk gives, to the last bit, in less than half the time.

The model is an automaton over bytes that finds n-grams, and a weight of each n-gram for each language. Its state after a byte depends on the last
few bytes alone, as that of any Aho-Corasick automaton does: the n-grams that it knows are at most `_LONGEST` bytes long. So all places of a
text are walked at once, each from the start and over the bytes before it, in `_LONGEST` lookups of an array.
"""

import functools

import numpy as np

_LONGEST = 6


class Scores:
    """languages: [labels] ISO 639 codes, some of them twice. `of` scores a text."""

    def __init__(self):
        from py3langid import langid

        model = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE)
        self.languages: list[str] = model.nb_classes
        self._encode = model._encode
        self._next = np.asarray(model.tk_nextmove)
        self._rows = np.asarray(model.tk_row, np.int64) << 8
        self._found = np.asarray(model.tk_output, np.int64)
        self._weights = model.nb_ptc.astype(np.float32)  # as it would be for each text: halves are slow to reckon with
        self._prior = model.nb_pc
        self._twice = model._alias_pairs

    def of(self, text: str) -> np.ndarray:
        """[labels] float32 log-likelihoods; of a language's two columns the second has -inf. All the same if no n-gram is known."""
        found = self._found[self._states(np.frombuffer(self._encode(text), np.uint8))]
        ngrams, first, counts = np.unique(found[found >= 0], return_index=True, return_counts=True)
        order = np.argsort(first)  # sums of float32 depend on the order
        scores = np.log1p(counts[order].astype(np.float32)) @ self._weights[ngrams[order]]
        if len(ngrams):
            scores += self._prior
        for one, other in self._twice:
            scores[one] = max(scores[one], scores[other])
            scores[other] = -np.inf
        return scores

    def _states(self, data: np.ndarray) -> np.ndarray:
        """The state of the automaton after each byte, [bytes]."""
        states = np.zeros(len(data), np.int64)
        for back in range(min(_LONGEST, len(data)) - 1, -1, -1):
            states[back:] = self._next[self._rows[states[back:]] + data[: len(data) - back]]
        return states


@functools.cache
def scores() -> Scores:
    """The model, loaded once a process."""
    return Scores()

"""The vocabulary as a subclass of seqio.Vocabulary, with the TensorFlow methods.

This file imports SeqIO, and therefore TensorFlow: it is for SeqIO tasks only, never for the training path.
"""

import numpy as np
import seqio
import tensorflow as tf

from castor.tasks.vocabulary.vocabulary import Vocabulary


class SeqIOVocabulary(Vocabulary, seqio.Vocabulary):
    """`Vocabulary` with `encode_tf` and `decode_tf`, which run Python in the graph: for compatibility, not speed."""

    def _encode(self, s: str) -> list[int]:
        return Vocabulary.encode(self, s)

    def _decode(self, ids) -> str:
        return Vocabulary.decode(self, ids)

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        ids = tf.numpy_function(self._encode_bytes, [s], tf.int32)
        ids.set_shape([None])
        return ids

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        texts = tf.numpy_function(self._decode_rows, [ids], tf.string)
        texts.set_shape(ids.shape[:-1])
        return texts

    def _encode_bytes(self, text) -> np.ndarray:
        data = np.asarray(text, object).item()  # bytes in a graph, an object array of one element in eager mode
        return np.array(Vocabulary.encode(self, data.decode("utf-8", "replace")), np.int32)

    def _decode_rows(self, ids: np.ndarray) -> np.ndarray:
        rows = ids.reshape(-1, ids.shape[-1])
        texts = [Vocabulary.decode(self, row).encode("utf-8") for row in rows]
        return np.array(texts, object).reshape(ids.shape[:-1])

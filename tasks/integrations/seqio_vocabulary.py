"""The vocabulary as a true subclass of seqio.Vocabulary, TensorFlow methods included.

Imports SeqIO, hence TensorFlow: for SeqIO tasks only, never on the training path.
"""

import numpy as np
import seqio
import tensorflow as tf

from castor.tasks.vocabulary.vocabulary import Vocabulary


class SeqIOVocabulary(Vocabulary, seqio.Vocabulary):
    """What `Vocabulary` is, plus `encode_tf` and `decode_tf`. Both run the Python code inside the graph: for interchange, not for speed."""

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
        data = np.asarray(text, object).item()  # bytes in a graph, an array of one object in eager mode
        return np.array(Vocabulary.encode(self, data.decode("utf-8", "replace")), np.int32)

    def _decode_rows(self, ids: np.ndarray) -> np.ndarray:
        rows = ids.reshape(-1, ids.shape[-1])
        texts = [Vocabulary.decode(self, row).encode("utf-8") for row in rows]
        return np.array(texts, object).reshape(ids.shape[:-1])

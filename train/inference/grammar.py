"""Constrained decoding: a grammar masks the tokens that are not allowed next.

An image is <image>, its rows and columns, rows x columns image codes, and </image>. The grammar makes every generated
image valid, whatever the model has learned. A grammar is a small automaton on the device with one state per row: rows
with different grammars share a batch, and no token waits for the host.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from castor import tasks
from castor.tasks.vocabulary.image import MAX_SIDE

ANY, TEXT, ROWS, COLUMNS, CODES, CLOSE, END = range(7)  # what may come next in a row; END: the row is finished


@dataclasses.dataclass(frozen=True)
class Grammar:
    """What a row may generate. Constructed by `text`, `anything` or `picture`.

    first: initial state.
    rows, columns: of a picture, in patches; 0: the model chooses.
    room: largest number of image codes.
    """

    first: int
    rows: int = 0
    columns: int = 0
    room: int = 0

    @classmethod
    def text(cls) -> "Grammar":
        """Pieces of text up to eos."""
        return cls(TEXT)

    @classmethod
    def anything(cls) -> "Grammar":
        """Any ids except pad, up to eos."""
        return cls(ANY)

    @classmethod
    def picture(cls, room: int, size: tuple[int, int] | None = None) -> "Grammar":
        """The tokens after <image>: rows, columns, at most `room` codes, and </image>.

        size: required (rows, columns); None: the model chooses.
        """
        return cls(ROWS, *(size or (0, 0)), room=room)


class GrammarState(flax.struct.PyTreeNode):
    """The grammar states of B rows, int32 [B] each.

    The fields are what comes next, rows and columns of the picture (0: not chosen yet), and the image codes left.
    """

    next_B: jax.Array
    rows_B: jax.Array
    columns_B: jax.Array
    room_B: jax.Array

    @classmethod
    def of(cls, grammars) -> "GrammarState":
        """The state before the first token of each Grammar; None: a row that generates nothing."""
        rows = [(g.first, g.rows, g.columns, g.room) if g else (END, 0, 0, 0) for g in grammars]
        return cls(*np.array(rows, np.int32).reshape(-1, 4).T)


@dataclasses.dataclass(frozen=True)
class GrammarTokens:
    """The vocabulary's ids that grammars use. Hashable, since they are part of a compiled program."""

    size: int
    pad: int
    eos: int
    text: range
    sizes: range
    image: range
    close: int

    @classmethod
    def of(cls, v: tasks.Vocabulary) -> "GrammarTokens":
        return cls(v.vocab_size, v.pad_id, v.eos_id, v.text_range, v.size_range, v.image_range, v.control("</image>"))

    def allowed(self, state: GrammarState, vocab_size: int) -> jax.Array:
        """bool [B, V]: ids that may come next; pad for a row at its END."""
        first = self.sizes.start
        # low <= id < high, and one more id (-1: none).
        low = jnp.array([0, self.text.start, first, first, self.image.start, self.close, self.pad], jnp.int32)[
            state.next_B
        ]
        high = jnp.array(
            [self.size, self.text.stop, first, first, self.image.stop, self.close + 1, self.pad + 1], jnp.int32
        )[state.next_B]
        also = jnp.array([-1, self.eos, -1, -1, -1, -1, -1], jnp.int32)[state.next_B]
        given_B = jnp.where(state.next_B == ROWS, state.rows_B, state.columns_B)
        most_B = jnp.minimum(
            jnp.where(state.next_B == ROWS, state.room_B, state.room_B // jnp.maximum(state.rows_B, 1)), MAX_SIDE
        )
        side_B = (state.next_B == ROWS) | (state.next_B == COLUMNS)
        low = jnp.where(side_B & (given_B > 0), first + given_B - 1, low)
        high = jnp.where(side_B, jnp.where(given_B > 0, first + given_B, first + most_B), high)
        ids_V = jnp.arange(vocab_size, dtype=jnp.int32)
        allowed_BxV = ((ids_V >= low[:, None]) & (ids_V < high[:, None])) | (ids_V == also[:, None])
        return allowed_BxV & ((ids_V != self.pad) | (state.next_B == END)[:, None])

    def advance(self, state: GrammarState, chosen_B: jax.Array) -> GrammarState:
        """The state after each row has generated an allowed id. chosen: int32 [B]."""
        side_B = chosen_B - self.sizes.start + 1
        rows_B = jnp.where(state.next_B == ROWS, side_B, state.rows_B)
        columns_B = jnp.where(state.next_B == COLUMNS, side_B, state.columns_B)
        room_B = jnp.where(state.next_B == COLUMNS, rows_B * columns_B, state.room_B - (state.next_B == CODES))
        ended_B = (chosen_B == self.eos) & ((state.next_B == TEXT) | (state.next_B == ANY))
        after = jnp.array([ANY, TEXT, COLUMNS, CODES, CODES, END, END], jnp.int32)[state.next_B]
        after = jnp.where((state.next_B == CODES) & (room_B == 0), CLOSE, after)
        return GrammarState(jnp.where(ended_B, END, after), rows_B, columns_B, room_B)

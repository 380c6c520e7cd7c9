"""Which component stands at a position of the mixture, and how many of each stand before it, in closed form.

The components are the leaves of a binary tree built as Huffman's code, so the heavy ones sit near the root. A node that has handed out q
positions has handed round(q * left / total) of them to its left child and the rest to its right one. Both counts grow by 0 or 1
with q and always sum to it; so counts of the leaves sum to p at every position p, a component of any weight w > 0 gets its share (the first
at about 1 / 2w), and the descent that counts also tells whose turn it is. Weights are exact fractions of integers: nothing is lost
to rounding, however small a weight or long a run. Counts stay within MAX_DEVIATION of w * p.

That order is regular, and a regular order can beat against the batch size; so inside blocks of BLOCK positions it is shuffled by a keyed
bijection. At block ends the counts are those of the tree. The stream depends on the weights, the names and the seed, not on the batch
size or the number of hosts.

A stage schedule would replace the constant ratio of a node by the integral of its left and total weights; all else holds.
"""

import dataclasses
import fractions
import functools
import heapq
import math
from collections.abc import Mapping

import numpy as np

from tasks import permutation
from tasks.errors import ConfigurationError
from tasks.hashing import key64

BLOCK = 32
MAX_DEVIATION = 1.7
"""Of a count from w * p. A node rounds by at most 1/2, and a leaf sees an ancestor's rounding scaled by its share of it: in Huffman's tree at most
1, 1, 1/2, 1/3, 1/5, 1/8, ... upwards, below 3.4 in all. The worst found by search is 1.23."""


@dataclasses.dataclass(frozen=True)
class _Node:
    left: "int | _Node"
    right: "int | _Node"
    left_weight: int
    weight: int


@dataclasses.dataclass(frozen=True)
class Mixing:
    """The order of components. names: distinct; weights: exact, at least one positive; seed: any integer."""

    names: tuple[str, ...]
    weights: tuple[fractions.Fraction, ...]
    seed: int = 0

    @classmethod
    def of(cls, weights: Mapping[str, float], seed: int = 0) -> "Mixing":
        """From name -> weight. A float means the decimal it prints as. Raises ConfigurationError on weights that are no shares."""
        if not weights:
            raise ConfigurationError("the mixture has no components.", "Give it at least one task: components = {'web': 1.0}.")
        return cls(tuple(weights), tuple(_exact(name, weight) for name, weight in weights.items()), seed)._checked()

    def _checked(self) -> "Mixing":
        if not sum(self.weights) > 0:
            raise ConfigurationError(f"all weights of the mixture of {', '.join(self.names)} are zero.", "Give one a positive weight.")
        return self

    @functools.cached_property
    def shares(self) -> tuple[fractions.Fraction, ...]:
        """The weights, scaled to sum to 1."""
        total = sum(self.weights)
        return tuple(weight / total for weight in self.weights)

    @functools.cached_property
    def _tree(self) -> "int | _Node":
        scale = math.lcm(*(weight.denominator for weight in self.weights))
        # Ties break by name, so that the order of a dictionary does not matter.
        ranks = {name: rank for rank, name in enumerate(sorted(self.names))}
        heap = [(int(weight * scale), ranks[name], leaf) for leaf, (name, weight) in enumerate(zip(self.names, self.weights)) if weight]
        heapq.heapify(heap)
        while len(heap) > 1:
            left_weight, rank, left = heapq.heappop(heap)
            right_weight, _, right = heapq.heappop(heap)
            weight = left_weight + right_weight
            heapq.heappush(heap, (weight, rank, _Node(left, right, left_weight, weight)))
        return heap[0][2]

    def counts(self, position: int) -> tuple[int, ...]:
        """How many of the regular order's first `position` places each component has. They sum to `position`."""
        result = [0] * len(self.names)
        stack = [(self._tree, position)]
        while stack:
            node, count = stack.pop()
            if isinstance(node, int):
                result[node] = count
            else:
                left = _left_count(node, count)
                stack += [(node.left, left), (node.right, count - left)]
        return tuple(result)

    def regular(self, position: int) -> tuple[int, int]:
        """(component, how many of it stand before) at a place of the regular order."""
        node, index = self._tree, position
        while not isinstance(node, int):
            before, after = _left_count(node, index), _left_count(node, index + 1)
            node, index = (node.left, before) if after > before else (node.right, index - before)
        return node, index

    def at(self, positions) -> tuple[np.ndarray, np.ndarray]:
        """Components int64 [n] and indices int64 [n] in them of positions [n] of the mixture: each pair comes exactly once."""
        positions = np.asarray(positions, dtype=np.int64)
        blocks, slots = np.divmod(positions, BLOCK)
        keys = np.array([self._block_key(block) for block in blocks.tolist()], dtype=np.uint64)
        places = blocks * BLOCK + permutation.permute(slots, BLOCK, keys) if positions.size else positions
        pairs = [self.regular(place) for place in places.tolist()]
        result = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        return result[:, 0], result[:, 1]

    def _block_key(self, block: int) -> int:
        return key64("mixture", self.seed, block)


def _left_count(node: _Node, count: int) -> int:
    """round(count * left / total), halves up, in integers of any size."""
    return (2 * count * node.left_weight + node.weight) // (2 * node.weight)


def _exact(name: str, weight) -> fractions.Fraction:
    try:
        exact = fractions.Fraction(str(weight)) if not isinstance(weight, bool) else None
    except (ValueError, ZeroDivisionError):
        exact = None
    if exact is None or exact < 0:
        raise ConfigurationError(f"component {name!r} of the mixture has weight {weight!r}.", "Give it a number that is not negative.")
    return exact

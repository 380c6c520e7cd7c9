"""Connected components of a graph too large for one machine: each component becomes a star around its smallest node.

Alternates large-star and small-star (Kiveris, Lattanzi, Mirrokni, Rastogi, Vassilvitskii 2014, "Connected Components
in MapReduce and Beyond", algorithms 1 and 2). A round regroups the edges twice. The number of edges never grows.
Groups are iterated, so a node's neighbours are never all in memory.

A Beam pipeline cannot loop until convergence, so the number of rounds is fixed in advance and the result is checked.
If a node has not converged, the job stops with an error that names the gin binding; the result is never wrong. Rounds
after convergence change nothing. Chains need the most rounds (nodes: rounds if shuffled, rounds if sorted): 100: 5,
7; 1,000: 7, 10; 10,000: 10, 14; 100,000: 13, 17. Clusters of near duplicates are denser: those of
benchmarks/deduplication/deduplication.py take 2 rounds.
"""

import apache_beam as beam

from castor.tasks.errors import ConfigurationError

_PAIR = tuple[bytes, bytes]


class ConnectedComponents(beam.PTransform):
    """Edges (larger node, smaller node) -> one row per node: its component's smallest node, or the component's size.

    rounds: rounds of large-star and small-star.
    binding: the gin binding to name in the error if `rounds` is too small.

    The row of a smallest node is (node, b"", size of the component); of any other node, (node, smallest node, 0).
    Edges may repeat. Nodes without edges do not occur.
    """

    def __init__(self, rounds: int, binding: str = "rounds"):
        super().__init__(label="components")
        self._rounds = rounds
        self._binding = binding

    def expand(self, edges):
        edges = edges | "small star 0" >> _Star(_small_star)
        for i in range(1, self._rounds + 1):
            edges = (
                edges
                | f"both ways {i}" >> beam.FlatMap(_both_ways).with_output_types(_PAIR)
                | f"large star {i}" >> _Star(_large_star)
            )
            edges = edges | f"small star {i}" >> _Star(_small_star)
        return (
            edges
            | "ends" >> beam.FlatMap(_ends).with_output_types(tuple[bytes, tuple[bytes, bytes, int]])
            | "neighbours" >> beam.CombinePerKey(_Neighbours())
            | "at rest" >> beam.Map(_converged, self._rounds, self._binding).with_output_types(tuple[bytes, bytes, int])
        )


class _Star(beam.PTransform):
    def __init__(self, function):
        super().__init__()
        self._function = function

    def expand(self, edges):
        return edges | "group" >> beam.GroupByKey() | "join" >> beam.FlatMap(self._function).with_output_types(_PAIR)


def _both_ways(edge):
    yield edge
    yield edge[1], edge[0]


def _small_star(group):
    """Links a node and its smaller neighbours to the smallest of these."""
    node, neighbours = group
    smallest = min(neighbours)
    yield node, smallest
    for neighbour in neighbours:
        if neighbour != smallest:
            yield neighbour, smallest


def _large_star(group):
    """Links a node's larger neighbours to the smallest of the node and all its neighbours."""
    node, neighbours = group
    smallest = min(node, min(neighbours))
    for neighbour in neighbours:
        if neighbour > node:
            yield neighbour, smallest


def _ends(edge):
    larger, smaller = edge
    yield larger, (smaller, smaller, 0)
    yield smaller, (b"", b"", 1)


class _Neighbours(beam.CombineFn):
    """(least smaller neighbour, greatest smaller neighbour, number of larger neighbours) of a node; b"" if none."""

    def create_accumulator(self):
        return b"", b"", 0

    def add_input(self, accumulator, value):
        return self.merge_accumulators((accumulator, value))

    def merge_accumulators(self, accumulators):
        least, greatest, larger = b"", b"", 0
        for low, high, count in accumulators:
            if low:
                least = min(least, low) if least else low
                greatest = max(greatest, high)
            larger += count
        return least, greatest, larger

    def extract_output(self, accumulator):
        return accumulator


def _converged(row, rounds, binding):
    node, (least, greatest, larger) = row
    if least and (larger or least != greatest):
        raise ConfigurationError(
            f"clusters of duplicates did not converge in {rounds} rounds: "
            f"document {node[-16:].hex()} still links two others.",
            f"Raise {binding} (now {rounds}). Each doubling of the longest chain needs about one more round.",
        )
    return (node, least, 0) if least else (node, b"", larger + 1)

"""Connected components of a graph too large for one machine: every node ends as a leaf of a star around the smallest node it hangs together with.

Large-star and small-star (Kiveris, Lattanzi, Mirrokni, Rastogi, Vassilvitskii 2014, "Connected Components in MapReduce and Beyond", algorithms 1
and 2), in turns. A round regroups the edges twice; their number never grows, and no node's neighbours are ever held in memory: the groups are
passed over.

A Beam pipeline cannot loop until it is done, so the number of rounds is fixed in advance, and the end is checked: where any node has not come to
rest the job stops with an error that names the binding. It never gives a wrong answer. Rounds that come after the end change nothing. Chains
need most: one of 100 nodes takes 5 rounds if it is in random order and 7 if it is sorted, of 1,000 7 and 10, of 10,000 10 and 14, of 100,000 13
and 17. Near duplicates hang together more closely: those of benchmarks/deduplication/deduplication.py take 2.
"""

import apache_beam as beam

from castor.tasks.errors import ConfigurationError

_PAIR = tuple[bytes, bytes]


class ConnectedComponents(beam.PTransform):
    """Edges (larger node, smaller node) -> (node, smallest node of its component, 0) for every other node, and (smallest node, b"", size of its
    component).

    Edges may repeat. Nodes without edges do not occur. `binding` is named in the error raised when `rounds` are too few.
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
            | "place in star" >> beam.CombinePerKey(_Place())
            | "at rest" >> beam.Map(_at_rest, self._rounds, self._binding).with_output_types(tuple[bytes, bytes, int])
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
    """A node's smaller neighbours, and the node, to the smallest of them."""
    node, neighbours = group
    smallest = min(neighbours)
    yield node, smallest
    for neighbour in neighbours:
        if neighbour != smallest:
            yield neighbour, smallest


def _large_star(group):
    """A node's larger neighbours to the smallest of all its neighbours and itself."""
    node, neighbours = group
    smallest = min(node, min(neighbours))
    for neighbour in neighbours:
        if neighbour > node:
            yield neighbour, smallest


def _ends(edge):
    larger, smaller = edge
    yield larger, (smaller, smaller, 0)
    yield smaller, (b"", b"", 1)


class _Place(beam.CombineFn):
    """(least smaller neighbour, greatest smaller neighbour, number of larger neighbours) of a node; b"" for none."""

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


def _at_rest(placed, rounds, binding):
    node, (least, greatest, larger) = placed
    if least and (larger or least != greatest):
        raise ConfigurationError(
            f"clusters of duplicates do not come to rest in {rounds} rounds: document {node[-16:].hex()} still stands between two others.",
            f"Raise {binding} (now {rounds}); each doubling of the longest chain takes about one more.",
        )
    return (node, least, 0) if least else (node, b"", larger + 1)

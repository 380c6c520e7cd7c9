"""Connected components compared with plain union-find: random graphs, chains, stars and repeated edges.

Too few rounds raise an error.
"""

import random

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that
from hypothesis import given, settings
from hypothesis import strategies as st

from castor.pipelines.deduplication import connected_components
from castor.pipelines.deduplication.connected_components import ConnectedComponents
from castor.tasks.errors import ConfigurationError


def union_find(edges):
    """The expected rows, sorted: (node, smallest, 0) and (smallest, b"", size)."""
    parent = {}

    def root(node):
        while parent.setdefault(node, node) != node:
            node = parent[node]
        return node

    for a, b in edges:
        a, b = sorted((root(a), root(b)))
        parent[b] = a
    members = {}
    for node in parent:
        members.setdefault(root(node), []).append(node)
    return sorted(
        [(n, r, 0) for r, nodes in members.items() for n in nodes if n != r]
        + [(r, b"", len(nodes)) for r, nodes in members.items()]
    )


def name(number):
    return number.to_bytes(24, "big")


def directed(pairs):
    return [(name(max(p)), name(min(p))) for p in pairs if p[0] != p[1]]


def by_hand(edges, rounds):
    """The transform's functions with dictionaries instead of shuffles; the order of groups is random."""

    def group(pairs):
        groups = {}
        for key, value in pairs:
            groups.setdefault(key, []).append(value)
        for values in groups.values():
            random.Random(len(values)).shuffle(values)
        return groups.items()

    def star(function, pairs):
        return [pair for g in group(pairs) for pair in function(g)]

    edges = star(connected_components._small_star, edges)
    for _ in range(rounds):
        edges = star(
            connected_components._large_star, [pair for edge in edges for pair in connected_components._both_ways(edge)]
        )
        edges = star(connected_components._small_star, edges)
    combine = connected_components._Neighbours()
    placed = [
        (node, combine.merge_accumulators(values))
        for node, values in group([end for edge in edges for end in connected_components._ends(edge)])
    ]
    return sorted(
        connected_components._converged((node, combine.extract_output(value)), rounds, "x.rounds")
        for node, value in placed
    )


pairs = st.tuples(st.integers(0, 40), st.integers(0, 40))


@settings(deadline=None, max_examples=200)
@given(st.lists(pairs, max_size=60))
def test_random_graphs(graph):
    edges = directed(graph)
    assert by_hand(edges, 8) == union_find(edges)


@settings(deadline=None, max_examples=30)
@given(st.permutations(range(60)))
def test_chains(order):
    edges = directed(zip(order, order[1:]))
    assert by_hand(edges, 8) == union_find(edges)


def test_chains_that_need_more_rounds_are_an_error_and_never_a_wrong_answer():
    order = list(range(2000))
    random.Random(0).shuffle(order)
    edges = directed(zip(order, order[1:]))
    expected, enough = union_find(edges), None
    for rounds in range(12):
        try:
            assert by_hand(edges, rounds) == expected
            enough = rounds if enough is None else enough
        except ConfigurationError as error:
            assert enough is None and "x.rounds" in str(error) and f"(now {rounds})" in str(error)
    assert enough is not None and enough > 3


@pytest.fixture(scope="module")
def graph():
    chance = random.Random(7)
    chain = list(range(1000, 1040))
    chance.shuffle(chain)
    star = [(2000, 2000 + i) for i in range(1, 300)]
    return directed(
        [(chance.randrange(300), chance.randrange(300)) for _ in range(200)] + list(zip(chain, chain[1:])) + star + star
    )


def test_on_a_runner(graph):
    def same(found):
        assert sorted(found) == union_find(graph)

    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        assert_that(pipeline | beam.Create(graph).with_output_types(tuple[bytes, bytes]) | ConnectedComponents(5), same)


def test_too_few_rounds_on_a_runner(graph):
    with pytest.raises(Exception, match=r"did not converge in 1 rounds.*Raise minhash.MinHash.rounds \(now 1\)"):
        with beam.Pipeline(runner=FnApiRunner()) as pipeline:
            (
                pipeline
                | beam.Create(graph).with_output_types(tuple[bytes, bytes])
                | ConnectedComponents(1, "minhash.MinHash.rounds")
            )

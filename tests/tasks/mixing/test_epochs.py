"""Epochs: every row exactly once, in a new order each time, block by block; and the inverse from a row to its index."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from castor.tasks.mixing.epochs import EpochOrder

GROUPS = st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=6).filter(
    lambda groups: sum(map(sum, groups)) > 0
)


def order_of(groups, name="web", seed=0):
    return EpochOrder(
        name, seed, np.array([sum(blocks) for blocks in groups]), lambda group: np.array(groups[group], dtype=np.int64)
    )


@settings(derandomize=True, deadline=None)
@given(GROUPS, st.integers(0, 10**9), st.integers(0, 10**6))
def test_every_row_exactly_once_an_epoch_and_back(groups, seed, epoch):
    order = order_of(groups, seed=seed)
    everything = sorted(
        (g, b, r) for g, blocks in enumerate(groups) for b, rows in enumerate(blocks) for r in range(rows)
    )
    assert order.rows == len(everything)
    addresses = [order.address(epoch * order.rows + i) for i in range(order.rows)]
    assert all(address[0] == epoch for address in addresses)
    assert sorted(address[1:] for address in addresses) == everything
    assert [order.index(*address) for address in addresses] == [epoch * order.rows + i for i in range(order.rows)]
    visits = [address[1:3] for i, address in enumerate(addresses) if i == 0 or addresses[i - 1][1:3] != address[1:3]]
    assert len(visits) == len(set(visits)), "a block is read in one go"
    group_visits = [visit[0] for i, visit in enumerate(visits) if i == 0 or visits[i - 1][0] != visit[0]]
    assert len(group_visits) == len(set(group_visits)), "and so is a group"


def test_epochs_names_and_seeds_have_orders_of_their_own():
    groups = [[7, 8], [9], [6, 5]]
    orders = {
        tuple(order_of(groups, name, seed).address(epoch * 35 + i)[1:] for i in range(35))
        for name in ("web", "code")
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 18


def test_golden_order():
    order = order_of([[3, 2], [], [4]], seed=5)
    assert [order.address(i) for i in range(18)] == GOLDEN


# fmt: off
GOLDEN = [
    (0, 2, 0, 2), (0, 2, 0, 3), (0, 2, 0, 1), (0, 2, 0, 0), (0, 0, 1, 0), (0, 0, 1, 1), (0, 0, 0, 2), (0, 0, 0, 0), (0, 0, 0, 1),
    (1, 0, 1, 1), (1, 0, 1, 0), (1, 0, 0, 0), (1, 0, 0, 2), (1, 0, 0, 1), (1, 2, 0, 3), (1, 2, 0, 0), (1, 2, 0, 1), (1, 2, 0, 2),
]
# fmt: on

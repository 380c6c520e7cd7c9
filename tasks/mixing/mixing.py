"""Which component stands at a position of the mixture, and how many of each stand before it, in closed form.

A schedule is a line of phases, each with shares that stay or that move in a straight line. Let I_c(p) be the integral of component c's
share up to position p. Components are the leaves of a balanced binary tree over their sorted names, and a node that has handed out q
positions has handed floor(I_left(I_node^-1(q)) + 1/2) of them to its left child and the rest to its right one: I_node^-1(q) is where
the node ought to have handed out q. Shares of a child never exceed its node's, so both counts grow by 0 or 1 with q and sum to q; hence
the counts of the leaves sum to p at every position, a component of any weight gets its share, and one whose share is zero throughout a
phase gets nothing in it. Integrals of lines are quadratic: the inverse is an integer square root.

A phase that ends deals each component a whole number of positions, so that what is still owed to each is as even as it can be (by
largest remainder), and its shares are scaled to that: errors do not add up over phases, whatever the stages are. All is exact integer
arithmetic; nothing is lost to rounding, however small a weight or long a run.

That order is regular, and a regular order can beat against the batch size. So only the counts at the ends of blocks of BLOCK positions
are taken from the tree; inside a block the components are placed by a keyed bijection. A component's own indices are counted on in the
order of its positions. Blocks begin anew with each phase, so a switch is exact. The stream depends on the schedule, the names and the seed, and on nothing else.
"""

import bisect
import dataclasses
import fractions
import functools
import heapq
import math
import operator
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from castor.tasks.errors import ConfigurationError
from castor.tasks.hashing import key64
from castor.tasks.mixing import permutation, schedule

VERSION = 2
BLOCK = 32
_CHUNK = 32 * BLOCK
"""Positions whose components are worked out, and kept, together."""

_FINE = 1 << 64
"""Ends of a ramp are kept in this part of a position."""


def max_deviation(components: int) -> float:
    """Bound of a count's distance from the integral of its share in a mixture without stages: half a position a level of the tree.

    With stages a phase begins with a position or two owed besides (1.83 is the most found for 16 components and 150 adverse stages).
    """
    return max(0.5, math.ceil(math.log2(components)) / 2 if components > 1 else 0.5)


@dataclasses.dataclass(frozen=True)
class Phase:
    """Shares over a stretch of positions. start: first position; length: positions, None for ever. before, after: numerators over `whole` of
    each component's share at its two ends, by sorted name. counts: what each component has had before. dealt_before, dealt_after,
    dealt_whole: the shares by which positions are dealt, whose integral over the phase is a whole number for each component."""

    start: int
    length: int | None
    before: tuple[int, ...]
    after: tuple[int, ...]
    whole: int
    counts: tuple[int, ...]
    dealt_before: tuple[int, ...]
    dealt_after: tuple[int, ...]
    dealt_whole: int

    @functools.cached_property
    def _sums(self) -> tuple[list[int], list[int]]:
        """Sums of the shares before each component, so that a node of the tree is a difference."""
        result = []
        for shares in (self.dealt_before, self.dealt_after):
            sums = [0]
            for share in shares:
                sums.append(sums[-1] + share)
            result.append(sums)
        return result[0], result[1]

    def growth(self, offsets: list[int]) -> Iterator[tuple[int, list[int]]]:
        """(component, its count in the phase's first so many positions, for each of the rising `offsets`), where the count changes."""
        stack = [(0, len(self.before), offsets)]
        while stack:
            low, high, counts = stack.pop()
            if counts[0] == counts[-1]:
                continue
            if high - low == 1:
                yield low, counts
                continue
            middle = (low + high) // 2
            left: list[int] = []
            for place, count in enumerate(counts):
                same = place and count == counts[place - 1]
                left.append(left[-1] if same else self._left(low, middle, high, count))
            stack += [(low, middle, left), (middle, high, [count - before for count, before in zip(counts, left)])]

    def counts_at(self, offset: int) -> dict[int, int]:
        """Component -> how many of it stand in the phase's first `offset` positions; those that have none are left out."""
        return {component: counts[1] for component, counts in self.growth([0, offset])}

    def count_at(self, offset: int, component: int) -> int:
        """How many of one component stand in the phase's first `offset` positions."""
        low, high, count = 0, len(self.before), offset
        while high - low > 1 and count:
            middle = (low + high) // 2
            left = self._left(low, middle, high, count)
            low, high, count = (low, middle, left) if component < middle else (middle, high, count - left)
        return count

    def _left(self, low: int, middle: int, high: int, count: int) -> int:
        """How many of the node's first `count` positions are its left child's."""
        before, after = self._sums
        node, left = before[high] - before[low], before[middle] - before[low]
        if not count:
            return 0
        if self.dealt_before == self.dealt_after:
            return (2 * count * left + node) // (2 * node) if node else 0
        slope, left_slope = after[high] - after[low] - node, after[middle] - after[low] - left
        # Over the first x of n positions a node is due (2 n node x + slope x x) / (2 n whole).
        due = 2 * self.length * self.dealt_whole * count
        b, left_b = 2 * self.length * node, 2 * self.length * left
        if not b and not slope:
            return 0
        x = _last_at_most(slope, b, due, self.length - 1)
        at_x, left_at_x = b * x + slope * x * x, left_b * x + left_slope * x * x
        rise, left_rise = b + slope * (2 * x + 1), left_b + left_slope * (2 * x + 1)
        # The left child is due left_at_x + left_rise * (due - at_x) / rise by then; in a straight line beyond the phase's end.
        value = left_at_x * rise + left_rise * (due - at_x)
        scale = 2 * self.length * self.dealt_whole * rise
        return (2 * value + scale) // (2 * scale)

    def integral(self, offset: int, component: int) -> fractions.Fraction:
        """Of a component's share over the phase's first `offset` positions."""
        first, last = self.before[component], self.after[component]
        result = fractions.Fraction(first * offset, self.whole)
        if first != last:
            result += fractions.Fraction((last - first) * offset * offset, 2 * self.length * self.whole)
        return result


def _last_at_most(a: int, b: int, c: int, last: int) -> int:
    """The largest integer x in [0, last] with a x x + b x <= c, for a function that rises throughout."""
    square = b * b + 4 * a * c
    if not a:
        x = c // b
    elif square < 0:  # the parabola never gets there
        x = last
    else:
        x = 2 * c // (b + math.isqrt(square)) if b + math.isqrt(square) else last
    x = min(max(x, 0), last)
    while x < last and a * (x + 1) * (x + 1) + b * (x + 1) <= c:
        x += 1
    while x > 0 and a * x * x + b * x > c:
        x -= 1
    return x


@dataclasses.dataclass(frozen=True)
class Mixing:
    """The order of components: `names` sorted, the phases of the schedule in order, and any integer as seed. Made by `of`."""

    names: tuple[str, ...]
    phases: tuple[Phase, ...]
    seed: int = 0

    @classmethod
    def of(
        cls, weights: Mapping[str, object], seed: int = 0, stages: Sequence[tuple[int, int, Mapping[str, object]]] = ()
    ) -> "Mixing":
        """From name -> weight at position 0, and stages (position, positions to move in, name -> weight) in order.

        A component that a stage does not name has weight 0 in it. Raises ConfigurationError on weights that are no shares, and on a stage
        that begins before the one before it is done.
        """
        names = tuple(sorted({*weights, *(name for _, _, later in stages for name in later)}))
        if not names:
            raise ConfigurationError(
                "the mixture has no components.", "Give it at least one task: components = {'web': 1.0}."
            )
        current, position, plan = schedule.shares(weights, names), 0, []
        for start, ramp, later in stages:
            if start < position:
                raise ConfigurationError(
                    f"a stage of the mixture begins at position {start}, before the one before it is done at {position}.",
                    "Put the stages in the order of their start, and let each end its ramp first.",
                )
            target = schedule.shares(later, names)
            plan += [(position, start - position, current, current), (start, ramp, current, target)]
            current, position = target, start + ramp
        plan.append((position, None, current, current))
        phases: list[Phase] = []
        counts = (0,) * len(names)
        due = [fractions.Fraction(0)] * len(names)
        for start, length, before, after in plan:
            if length == 0:
                continue
            phase, dealt = _phase(start, length, before, after, counts, due)
            phases.append(phase)
            counts = tuple(map(operator.add, counts, dealt))
        return cls(names, tuple(phases), seed)

    @functools.cached_property
    def _starts(self) -> list[int]:
        return [phase.start for phase in self.phases]

    def _phase_at(self, position: int) -> int:
        return bisect.bisect_right(self._starts, position) - 1

    def shares(self, position: int) -> tuple[fractions.Fraction, ...]:
        """The shares that hold at a position, by name; in a ramp, those in the middle of the position."""
        phase = self.phases[self._phase_at(position)]
        part = fractions.Fraction(2 * (position - phase.start) + 1, 2 * phase.length) if phase.length else 0
        return tuple((b + (a - b) * part) / fractions.Fraction(phase.whole) for b, a in zip(phase.before, phase.after))

    def counts(self, position: int) -> tuple[int, ...]:
        """How many positions before `position` each component has, were the order regular. They sum to `position`; so it is at block ends."""
        phase = self.phases[self._phase_at(position)]
        had = phase.counts_at(position - phase.start)
        return tuple(count + had.get(c, 0) for c, count in enumerate(phase.counts))

    def integral(self, position: int) -> tuple[fractions.Fraction, ...]:
        """The integral of each component's share up to a position."""
        total = [fractions.Fraction(0)] * len(self.names)
        for phase in self.phases:
            offset = position - phase.start
            if offset > 0:
                offset = offset if phase.length is None else min(offset, phase.length)
                total = [t + phase.integral(offset, c) for c, t in enumerate(total)]
        return tuple(total)

    def at(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Components int64 [count] (index into `names`) and indices int64 [count] in them of positions first, first + 1, ...

        A component's indices are 0, 1, 2, ... in the order of its positions.
        """
        components, indices, position, end = [], [], first, first + count
        while position < end:
            number = self._phase_at(position)
            phase = self.phases[number]
            chunk = (position - phase.start) // _CHUNK
            begin = position - phase.start - chunk * _CHUNK
            chunk_components, chunk_indices = self._chunk(number, chunk)
            take = min(len(chunk_components) - begin, end - position)
            components.append(chunk_components[begin : begin + take])
            indices.append(chunk_indices[begin : begin + take])
            position += take
        return np.concatenate(components), np.concatenate(indices)

    @functools.cached_property
    def _chunk(self):
        return functools.lru_cache(maxsize=64)(self._make_chunk)

    def _make_chunk(self, number: int, chunk: int) -> tuple[np.ndarray, np.ndarray]:
        """Components and indices of _CHUNK positions of a phase (fewer at its end)."""
        phase = self.phases[number]
        begin = chunk * _CHUNK
        end = begin + _CHUNK if phase.length is None else min(phase.length, begin + _CHUNK)
        ends = [*range(begin, end, BLOCK), end]
        growing = sorted(phase.growth(ends))
        names = np.array([component for component, _ in growing], dtype=np.int64)
        had = np.array([counts for _, counts in growing], dtype=np.int64).T  # [block ends, components]
        components = np.repeat(np.tile(names, len(ends) - 1), np.diff(had, axis=0).ravel())
        sizes = np.diff(ends)
        keys = np.array([self._block_key(phase.start + start) for start in ends[:-1]], dtype=np.uint64)
        slots = np.arange(end - begin)
        components = components[
            slots - slots % BLOCK + permutation.permute(slots % BLOCK, np.repeat(sizes, sizes), np.repeat(keys, sizes))
        ]
        # The components' indices rise with the position, so that an epoch ends before the next begins.
        times = had[-1] - had[0]
        before = had[0] + np.array([phase.counts[component] for component in names.tolist()], dtype=np.int64)
        indices = np.empty_like(components)
        indices[np.argsort(components, kind="stable")] = slots + np.repeat(before - (np.cumsum(times) - times), times)
        return components, indices

    def position(self, component: int, index: int) -> int | None:
        """The position at which a component comes for the `index`-th time (from 0); None if it never does."""
        number = max(n for n, phase in enumerate(self.phases) if phase.counts[component] <= index)
        phase = self.phases[number]
        wanted = index - phase.counts[component]
        if phase.length is None and not phase.before[component]:
            return None
        blocks = None if phase.length is None else -(-phase.length // BLOCK)
        high = 1
        while (blocks is None or high < blocks) and phase.count_at(high * BLOCK, component) <= wanted:
            high *= 2
        block = (
            bisect.bisect_right(
                range(high if blocks is None else min(high, blocks)), wanted, key=_Counter(phase, component)
            )
            - 1
        )
        start = phase.start + block * BLOCK
        size = BLOCK if phase.length is None else min(BLOCK, phase.start + phase.length - start)
        components, indices = self.at(start, size)
        return start + int(np.flatnonzero((components == component) & (indices == index))[0])

    def _block_key(self, start: int) -> int:
        return key64("mixture", self.seed, start)


@dataclasses.dataclass(frozen=True)
class _Counter:
    """Block -> how many of a component stand before it in a phase: rises with the block, for bisection."""

    phase: Phase
    component: int

    def __call__(self, block: int) -> int:
        return self.phase.count_at(block * BLOCK, self.component)


def _phase(start, length, before, after, counts, due) -> tuple[Phase, list[int]]:
    """A phase, and how many positions each component gets in it. due: integrals up to its start; updated to its end."""
    whole = math.lcm(*(share.denominator for share in (*before, *after)))
    before, after = tuple(int(share * whole) for share in before), tuple(int(share * whole) for share in after)
    if length is None:
        return Phase(start, None, before, after, whole, counts, before, after, whole), [0] * len(counts)
    for component, ends in enumerate(zip(before, after)):
        due[component] += fractions.Fraction(length * sum(ends), 2 * whole)
    deal = _dealt(length, [d - count for d, count in zip(due, counts)], [any(ends) for ends in zip(before, after)])
    if before == after:
        return Phase(start, length, before, after, whole, counts, tuple(deal), tuple(deal), length), deal
    first = tuple(2 * _FINE * n * b // (b + a) if n else 0 for n, b, a in zip(deal, before, after))
    last = tuple(2 * _FINE * n - f for n, f in zip(deal, first))
    return Phase(start, length, before, after, whole, counts, first, last, length * _FINE), deal


def _dealt(length: int, owed: list[fractions.Fraction], active: list[bool]) -> list[int]:
    """`length` positions dealt to the active components so that what is still owed to each is as even as it can be."""
    result = [max(0, math.floor(due)) if mine else 0 for due, mine in zip(owed, active)]
    missing = length - sum(result)
    step = 1 if missing > 0 else -1
    # The next to get one is whom most is owed; the next to give one back, whom least is.
    heap = [(step * (result[c] - due), c) for c, due in enumerate(owed) if active[c] and (step > 0 or result[c])]
    heapq.heapify(heap)
    for _ in range(abs(missing)):
        least, component = heapq.heappop(heap)
        result[component] += step
        if step > 0 or result[component]:
            heapq.heappush(heap, (least + 1, component))
    return result

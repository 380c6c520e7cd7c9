"""The order of components in a mixture, in closed form: which component gets a position, and which of its rows.

Example. Weights web 3/4 and code 1/4 and BLOCK = 4. After 4 positions the exact counts are web 3 and code 1, so every
mixing block holds three web rows and one code row. A keyed bijection orders the four inside the block: web, code,
web, web in one block and code, web, web, web in the next. The first block takes web rows 0, 1, 2 and code row 0; the
second takes web rows 3, 4, 5 and code row 1.

A schedule is a list of phases. In a phase each component's share is constant or changes linearly. Let I_c(p) be the
integral of component c's share up to position p. Components are the leaves of a balanced binary tree over their
sorted names. A node that has handed out q positions has given floor(I_left(I_node^-1(q)) + 1/2) of them to its left
child and the others to its right child; I_node^-1(q) is the position at which the node is due q positions. A child's
share never exceeds its node's share, so both counts grow by 0 or 1 with q and sum to q. Three properties follow: the
leaf counts sum to p at every position, a component of any weight gets its share, and a component whose share is zero
throughout a phase gets nothing in that phase. Integrals of linear shares are quadratic, so the inverse is an integer
square root.

When a phase ends, each component has received an integer number of positions, chosen by largest remainder so that the
remaining deficits are as even as possible. The phase's shares are scaled to those integers, so errors do not accumulate
over phases. All arithmetic uses exact integers: no weight is too small and no run too long.

A regular order can resonate with the batch size. Therefore the tree supplies only the counts at the ends of mixing
blocks of BLOCK positions, and a keyed bijection places the components inside each block. A component's indices rise
with its positions. Each phase starts a new block, so a switch is exact. The stream depends only on the schedule, the
names and the seed.
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
"""Number of positions that are computed and cached together."""

_FINE = 1 << 64
"""Resolution of a ramp's shares: they are multiples of 1 / _FINE of a position."""


def max_deviation(components: int) -> float:
    """The largest distance between a component's count and the integral of its share, in positions, without stages.

    Example: 16 components give a tree of 4 levels, and each level adds at most half a position: 2.0.

    With stages, each phase starts with a remaining deficit of one or two positions. The largest deficit found is
    1.83, for 16 components and 150 adversarial stages.

    components: number of components.
    """
    return max(0.5, math.ceil(math.log2(components)) / 2 if components > 1 else 0.5)


@dataclasses.dataclass(frozen=True)
class Phase:
    """The shares over a range of positions. All tuples are indexed by component, in the order of the sorted names.

    Example: half the positions each for 10 positions, then web alone:
    Phase(start=0, length=10, before=(1, 1), after=(1, 1), whole=2, ...) for the first ten.

    start: first position of the phase.

    length: number of positions; None for the last phase, which has no end.

    before: numerators over `whole` of the shares at the start of the phase.

    after: numerators over `whole` of the shares at the end of the phase.

    whole: common denominator of `before` and `after`.

    counts: positions that each component received before the phase.

    dealt_before: numerators over `dealt_whole` of the scaled shares at the start. Positions are assigned by the scaled
    shares, whose integral over the phase is an integer for each component.

    dealt_after: the same at the end of the phase.

    dealt_whole: common denominator of `dealt_before` and `dealt_after`.
    """

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
        """Prefix sums of the scaled shares at both ends: the share of a tree node is a difference of two entries."""
        result = []
        for shares in (self.dealt_before, self.dealt_after):
            sums = [0]
            for share in shares:
                sums.append(sums[-1] + share)
            result.append(sums)
        return result[0], result[1]

    def growth(self, offsets: list[int]) -> Iterator[tuple[int, list[int]]]:
        """Yields (component, counts): its count in the first offsets[i] positions, for components whose count changes.

        offsets: rising numbers of positions, counted from the start of the phase.
        """
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
            for number, count in enumerate(counts):
                same = number and count == counts[number - 1]
                left.append(left[-1] if same else self._left(low, middle, high, count))
            stack += [(low, middle, left), (middle, high, [count - before for count, before in zip(counts, left)])]

    def counts_at(self, offset: int) -> dict[int, int]:
        """Component -> its count in the first `offset` positions of the phase. Components with count 0 are omitted."""
        return {component: counts[1] for component, counts in self.growth([0, offset])}

    def count_at(self, offset: int, component: int) -> int:
        """The count of one component in the first `offset` positions of the phase."""
        low, high, count = 0, len(self.before), offset
        while high - low > 1 and count:
            middle = (low + high) // 2
            left = self._left(low, middle, high, count)
            low, high, count = (low, middle, left) if component < middle else (middle, high, count - left)
        return count

    def _left(self, low: int, middle: int, high: int, count: int) -> int:
        """How many of the first `count` positions of the node [low, high) go to its left child [low, middle)."""
        before, after = self._sums
        node, left = before[high] - before[low], before[middle] - before[low]
        if not count:
            return 0
        if self.dealt_before == self.dealt_after:
            return (2 * count * left + node) // (2 * node) if node else 0
        slope, left_slope = after[high] - after[low] - node, after[middle] - after[low] - left
        # After x of n positions a node is due (2 n node x + slope x x) / (2 n whole) positions.
        due = 2 * self.length * self.dealt_whole * count
        b, left_b = 2 * self.length * node, 2 * self.length * left
        if not b and not slope:
            return 0
        x = _last_at_most(slope, b, due, self.length - 1)
        at_x, left_at_x = b * x + slope * x * x, left_b * x + left_slope * x * x
        rise, left_rise = b + slope * (2 * x + 1), left_b + left_slope * (2 * x + 1)
        # At that point the left child is due left_at_x + left_rise * (due - at_x) / rise; beyond the phase's end the
        # line goes on.
        value = left_at_x * rise + left_rise * (due - at_x)
        scale = 2 * self.length * self.dealt_whole * rise
        return (2 * value + scale) // (2 * scale)

    def integral(self, offset: int, component: int) -> fractions.Fraction:
        """The integral of a component's unscaled share over the first `offset` positions of the phase."""
        first, last = self.before[component], self.after[component]
        result = fractions.Fraction(first * offset, self.whole)
        if first != last:
            result += fractions.Fraction((last - first) * offset * offset, 2 * self.length * self.whole)
        return result


def _last_at_most(a: int, b: int, c: int, last: int) -> int:
    """The largest integer x in [0, last] with a x^2 + b x <= c, where a x^2 + b x rises on [0, last].

    Example: a = 1, b = 0, c = 10, last = 5 gives 3, since 3^2 = 9 <= 10 < 4^2.
    """
    square = b * b + 4 * a * c
    if not a:
        x = c // b
    elif square < 0:  # a x^2 + b x stays below c
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
    """The order of components over all positions; `of` constructs it.

    Example: Mixing.of({"web": 3, "code": 1}).counts(8) is (2, 6): names are sorted, so code comes first.

    names: component names, sorted.

    phases: the phases of the schedule, in order.

    seed: any integer; keys the order inside mixing blocks.
    """

    names: tuple[str, ...]
    phases: tuple[Phase, ...]
    seed: int = 0

    @classmethod
    def of(
        cls, weights: Mapping[str, object], seed: int = 0, stages: Sequence[tuple[int, int, Mapping[str, object]]] = ()
    ) -> "Mixing":
        """Builds the order from weights and stages.

        weights: component -> weight from position 0. Only ratios count.

        seed: any integer.

        stages: (start, ramp, weights) in order. The shares change linearly from position `start` over `ramp`
        positions. A component that a stage does not name has weight 0 from then on.

        Raises ConfigurationError for invalid weights and for a stage that starts before the previous ramp has ended.
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
                    f"a stage of the mixture starts at position {start}, "
                    f"before the previous stage ends at position {position}.",
                    "Sort the stages by start, and let each ramp end before the next stage starts.",
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
        """The shares at a position, in the order of `names`; in a ramp, the shares at the middle of the position."""
        phase = self.phases[self._phase_at(position)]
        part = fractions.Fraction(2 * (position - phase.start) + 1, 2 * phase.length) if phase.length else 0
        return tuple((b + (a - b) * part) / fractions.Fraction(phase.whole) for b, a in zip(phase.before, phase.after))

    def counts(self, position: int) -> tuple[int, ...]:
        """Regular counts of each component before `position`; they sum to `position` and are exact at mixing-block
        ends.
        """
        phase = self.phases[self._phase_at(position)]
        had = phase.counts_at(position - phase.start)
        return tuple(count + had.get(c, 0) for c, count in enumerate(phase.counts))

    def integral(self, position: int) -> tuple[fractions.Fraction, ...]:
        """The integral of each component's share up to a position, in positions."""
        total = [fractions.Fraction(0)] * len(self.names)
        for phase in self.phases:
            offset = position - phase.start
            if offset > 0:
                offset = offset if phase.length is None else min(offset, phase.length)
                total = [t + phase.integral(offset, c) for c, t in enumerate(total)]
        return tuple(total)

    def at(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The components and their indices at positions first, first + 1, ..., first + count - 1.

        first: first position, from 0.

        count: number of positions.

        Returns two int64 arrays [count]: the component (index into `names`) and the index within that component. The
        indices of a component are 0, 1, 2, ... in the order of its positions.
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
        """Components and indices, int64 [_CHUNK], of one chunk of a phase; shorter at the end of the phase."""
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
        # A component's indices rise with the position, so that one epoch ends before the next begins.
        times = had[-1] - had[0]
        before = had[0] + np.array([phase.counts[component] for component in names.tolist()], dtype=np.int64)
        indices = np.empty_like(components)
        indices[np.argsort(components, kind="stable")] = slots + np.repeat(before - (np.cumsum(times) - times), times)
        return components, indices

    def position(self, component: int, index: int) -> int | None:
        """The position of a component's `index`-th row, counted from 0; None if the component gets no such row."""
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
    """Counts a component's positions before a block of a phase: a rising function of the block, as bisect needs."""

    phase: Phase
    component: int

    def __call__(self, block: int) -> int:
        return self.phase.count_at(block * BLOCK, self.component)


def _phase(start, length, before, after, counts, due) -> tuple[Phase, list[int]]:
    # The next position goes to the component with the largest deficit; the smallest deficit gives one back.
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
    """Assigns `length` positions to the active components so that the remaining deficits are as even as possible.

    Example: length 4, deficits (2.5, 1.25, 0.25) give (3, 1, 0): the floors 2, 1, 0 leave one position, which goes to
    the component with the largest remaining deficit, 0.5.
    """
    result = [max(0, math.floor(due)) if mine else 0 for due, mine in zip(owed, active)]
    missing = length - sum(result)
    step = 1 if missing > 0 else -1
    # Give the next position to the component with the largest remaining deficit; take one back from the smallest.
    heap = [(step * (result[c] - due), c) for c, due in enumerate(owed) if active[c] and (step > 0 or result[c])]
    heapq.heapify(heap)
    for _ in range(abs(missing)):
        least, component = heapq.heappop(heap)
        result[component] += step
        if step > 0 or result[component]:
            heapq.heappush(heap, (least + 1, component))
    return result

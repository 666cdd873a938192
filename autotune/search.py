"""Which batch size to try next: a pure function of what has been tried.

No I/O, no clock, no torch. The rules:

- Grow: double from the start, until a size is refused, throughput stops rising, or the cap is reached.
- Refine: on a plateau, also try halfway to either neighbour of the fastest; doublings are far apart.
- Shrink: if the very first sizes are refused, halve until one is accepted or the smallest is refused.
- Bisect: halve the gap between the largest accepted and the smallest refused, to one step of `multiple_of`, or to
  the resolution asked for.
- Guided, where a forecast says where the edge lies: go there at once, a little short of it the first time, then to
  the edge and its successor. A forecast may be wrong, so a guess is followed only where even the worst answer to it
  leaves the search within `SLACK` questions of what it would have asked without.
- Confirm: run the largest accepted again, as often as asked. A refusal counts: the size is then refused, and
  the search steps back to what is left below it.
- Step back: where any refusal says up to which size peaks leave room as they differ, confirm that one at once. Step up
  again where its confirmations say that there is far more room; a few times at most.
- Successor: where it was this room that bounded the answer, the size after it is run once, so that what is called the
  edge was seen. Whatever comes of it, the answer stays.

What holds, whatever the answers: every size asked for is a multiple of `multiple_of` between the smallest
and the cap; nothing at or above a refused size is asked for; an accepted size is asked for again only to
confirm it; the number of questions is logarithmic in the answer, plus a constant for each stepping back.

`Search` keeps the history and nothing else, so a journal replays to the same questions, given the same hints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise

from autotune.result import StopReason

SHORT_OF_EDGE = 0.05
"""The first guess stays so far below the forecast edge: a refusal tells less than a peak, and costs more."""

GUESSES = 3
"""What a good forecast usually needs: short of the edge, the edge, and its successor."""

RAISE = 1.1
MOST_RAISED = 2
"""Of three peaks near a size one may lie far from the others, and put the largest safe size far too low. Where a
confirmation there sees room for a tenth more, it is raised, so often; each time costs a trial."""

SLACK = 2
"""How many questions more than plain doubling and bisection a forecast may cost at worst."""


class Phase(StrEnum):
    """Why a batch size is asked for."""

    GROW = "grow"
    REFINE = "refine"
    SHRINK = "shrink"
    BISECT = "bisect"
    CONFIRM = "confirm"
    SUCCESSOR = "successor"


@dataclass(frozen=True)
class Limits:
    """Where to search and when to stop.

    Attributes:
        start: the first batch size to try.
        smallest: nothing below it is tried (a model may refuse a single sample).
        largest: nothing above it is tried; None for no cap.
        cap_reason: what it means to reach `largest`.
        multiple_of: only multiples of this are tried.
        plateau_tolerance: stop growing when throughput rises by no more than this share; None to go on.
        confirmations: how many further runs the largest accepted size must pass.
        resolution: how near to the edge bisection goes, as a share of the largest accepted; 0 finds it exactly.
    """

    start: int = 1
    smallest: int = 1
    largest: int | None = None
    cap_reason: StopReason = StopReason.CAP
    multiple_of: int = 1
    plateau_tolerance: float | None = None
    confirmations: int = 0
    resolution: float = 0.0


@dataclass(frozen=True)
class Hint:
    """Where a forecast puts the largest size that fits; `is_close` where a trial near it has corrected the forecast."""

    edge: int
    is_close: bool = False


@dataclass(frozen=True)
class Ask:
    """Try this batch size next. `why` says so to the user."""

    batch_size: int
    phase: Phase
    why: str


@dataclass(frozen=True)
class Stop:
    """Nothing is left to try. `reason` is None where nothing was accepted at all."""

    reason: StopReason | None


@dataclass(frozen=True)
class Told:
    """What came of a batch size. `throughput_high` is the upper end of the interval, in samples/s.

    `largest_safe` is the largest size that leaves room for how far peaks differ, as far as was seen by now; None where
    nothing is known of that.
    """

    batch_size: int
    accepted: bool
    throughput: float = 0.0
    throughput_high: float = 0.0
    phase: Phase = Phase.GROW
    largest_safe: int | None = None


@dataclass
class Search:
    """The history of a search; `ask` derives the next question from it."""

    limits: Limits
    told: list[Told] = field(default_factory=list)

    def tell(self, told: Told) -> None:
        """Take in what came of a batch size, asked for or not."""
        self.told.append(told)

    def ask(self, hint: Hint | None = None) -> Ask | Stop:
        """The next batch size to try, or that the search is over."""
        move = next_move(self.told, self.limits)
        if hint is None or not isinstance(move, Ask) or move.phase not in (Phase.GROW, Phase.BISECT):
            return move
        return guided(move, hint, self.told, self.limits)


PLATEAU_DOUBLINGS = 3  # one or two flat ones can be noise, or the last gentle rise; three span a factor of eight


def next_move(told: Sequence[Told], limits: Limits) -> Ask | Stop:
    """The next question, from the whole history."""
    low, high = bounds(told, limits.multiple_of)
    smallest, largest = _reach(limits)
    if largest is not None and largest < smallest:
        return Stop(None)
    if low is None and high is None:
        return Ask(_first(limits), Phase.GROW, "the start")
    if low is None:
        return _shrink(high or smallest, smallest, limits)
    if high is None:
        return _grow(low, told, limits)
    if high - low > max(limits.multiple_of, limits.resolution * low):
        return _step_back(high, told, limits) or _bisect(low, high, limits)
    return _settle(low, high, told, limits)


def guided(move: Ask, hint: Hint, told: Sequence[Told], limits: Limits) -> Ask:
    """The guess that a hint suggests in place of a plain move, if that can cost little."""
    low, high = bounds(told, limits.multiple_of)
    if low is None or (high is None and limits.plateau_tolerance is not None and move.batch_size <= hint.edge):
        return move  # speeds are compared over doublings, up to where memory ends
    guess = _guess(hint, low, high, limits)
    if guess in (low, high) or guess == move.batch_size or not _is_affordable(guess, told, limits):
        return move
    why = f"the forecast puts the edge at about {hint.edge}"
    return Ask(guess, Phase.GROW if high is None else Phase.BISECT, why)


def _guess(hint: Hint, low: int, high: int | None, limits: Limits) -> int:
    """Short of the edge, or at it, or just above it where the edge itself, or its neighbourhood, was accepted."""
    share = 1 - limits.resolution / 2 if limits.resolution or hint.is_close else 1 - SHORT_OF_EDGE
    guess = _multiple_below(int(share * hint.edge), limits)
    width = _multiple_below(int(limits.resolution * low), limits)
    guess = max(guess, low + width)
    _, largest = _reach(limits)
    ceilings = [size for size in (largest, None if high is None else high - limits.multiple_of) if size is not None]
    return max(min([guess, *ceilings]), low)


def _is_affordable(guess: int, told: Sequence[Told], limits: Limits) -> bool:
    """Whether, wherever the edge may lie, the guess leaves the search near the cost of a plain one."""
    low, high = bounds(told, limits.multiple_of)
    low = low or 0
    asked = 1 + _asked_of_this_edge(told)
    start = _first(limits)
    for edge in _possible_edges(low, guess, high, limits):
        left = _most_left(guess, high, edge, limits) if guess <= edge else _most_left(low, guess, edge, limits)
        if asked + left > _least_plain(start, edge, limits) + SLACK:
            return False
    return True


def _asked_of_this_edge(told: Sequence[Told]) -> int:
    """How many questions were asked since the spread of peaks or a confirmation last moved the edge.

    The search then steps back to another edge, which a search without hints would have had to do, too.
    """
    asked = 0
    for t in told:
        if not t.accepted and (t.phase is Phase.CONFIRM or _says_less(t)):
            asked = 0
        elif t.phase is not Phase.CONFIRM:
            asked += 1
    return asked


def _possible_edges(low: int, guess: int, high: int | None, limits: Limits) -> list[int]:
    """Edges at which the number of questions may change: around the guess, and around doublings."""
    end = high if high is not None else 4 * guess
    doublings = [size << k for size in (_first(limits), max(low, 1), guess) for k in range(end.bit_length())]
    near = [size + offset for size in (low, guess, end, *doublings) for offset in (-limits.multiple_of, 0)]
    return sorted({size for size in near if low <= size < end})


def _most_left(low: int, high: int | None, edge: int, limits: Limits) -> int:
    """How many more questions a search without hints asks at most, where sizes up to the edge are accepted."""
    doublings, low, high = _doubled(low, high, edge, limits)
    return doublings + math.ceil(_bisections(low, high, limits))


def _least_plain(start: int, edge: int, limits: Limits) -> int:
    """How many questions a search without hints asks at least, from its start."""
    asked, low, high = 1, start, None
    while low > edge:
        asked, low, high = asked + 1, low // 2, low
    doublings, low, high = _doubled(low, high, edge, limits)
    halvings = _bisections(low, high, limits)  # not whole where it stops short of the edge: one more is then no harm
    return asked + doublings + (math.ceil(halvings) if limits.resolution else math.floor(halvings))


def _doubled(low: int, high: int | None, edge: int, limits: Limits) -> tuple[int, int, int]:
    """How many doublings it takes from a size to pass the edge, and the bounds that they leave."""
    _, largest = _reach(limits)
    asked = 0
    while high is None or high > 2 * low + limits.multiple_of:
        if low == largest:
            return asked, low, low
        size = 2 * low if largest is None else min(2 * low, largest)
        asked += 1
        low, high = (size, high) if size <= edge else (low, size)
    return asked, low, high


def _bisections(low: int, high: int, limits: Limits) -> float:
    """How often the gap between two bounds must be halved until nothing is left to ask between them."""
    width = _multiple_below(int(limits.resolution * low), limits)  # a gap is a whole number of multiples
    return math.log2(max((high - low) / width, 1.0))


def most_left(told: Sequence[Told], limits: Limits, hint: Hint | None = None) -> tuple[int, bool] | None:
    """How many more questions to expect, and whether that is a bound as long as what was accepted stays accepted.

    No bound is known while sizes double towards an edge that may be anywhere; then a hint tells what to expect, and
    without one the answer is None.
    """
    low, high = bounds(told, limits.multiple_of)
    _, largest = _reach(limits)
    end = high if high is not None else largest
    confirmed = sum(t.batch_size == low and t.phase is Phase.CONFIRM for t in told)
    confirming = max(limits.confirmations - confirmed, 0)
    if end is not None:
        left = _most_to_the_edge(low, high, end, limits)
        after = confirming + (high is not None and _lacks_successor(high, told, limits))
        return left + after + (SLACK if hint is not None and left else 0), True
    if hint is None:
        return None
    doublings = 0 if limits.plateau_tolerance is None else math.log2(max(hint.edge / (low or 1), 1))
    return math.floor(doublings) + GUESSES + confirming, False


def _most_to_the_edge(low: int | None, high: int | None, end: int, limits: Limits) -> int:
    """The most questions until an edge below `end` is found, wherever it lies."""
    first = _first(limits)
    if low is None:  # the start, and halvings from there, of which each leaves a gap of its own size to bisect
        size = first if high is None else high
        shrinking = (high is None) + math.ceil(math.log2(size)) + math.ceil(_bisections(1, size, limits))
        if high is not None:
            return shrinking
        return max(shrinking, 1 + _most_to_the_edge(first, None, end, limits))
    if high is not None:
        return _most_left(low, high, high - 1, limits)
    doublings = [low << k for k in range((end // low).bit_length() + 1)]
    edges = {size - 1 for size in doublings if low < size <= end} | {max(end - 1, low), max(end, low)}
    return max(_most_left(low, None, edge, limits) for edge in edges)


def bounds(told: Sequence[Told], multiple_of: int = 1) -> tuple[int | None, int | None]:
    """The largest size accepted below every refusal, and the smallest refused.

    What lies above the largest that leaves room is refused too, or the search would step back through it one by one.
    """
    refused = [t.batch_size for t in told if not t.accepted]
    safe = _largest_safe(told)
    unsafe = [] if safe is None else [(safe // multiple_of + 1) * multiple_of]
    high = min([*refused, *unsafe], default=None)
    accepted = [t.batch_size for t in told if t.accepted and (high is None or t.batch_size < high)]
    return max(accepted, default=None), high


def _largest_safe(told: Sequence[Told]) -> int | None:
    """The largest size that leaves room: as the latest refusal says, or a later confirmation that sees far more."""
    safe, raised = None, 0
    for t in told:
        if t.largest_safe is None or t.phase is Phase.SUCCESSOR:
            continue
        if not t.accepted:
            says = min(t.largest_safe, t.batch_size - 1)
            safe = says if safe is None else min(safe, says)
        elif safe is not None and t.phase is Phase.CONFIRM and raised < MOST_RAISED and t.largest_safe > RAISE * safe:
            safe, raised = t.largest_safe, raised + 1
    return safe


def _says_less(refused: Told) -> bool:
    """Whether a refusal speaks of smaller sizes than its own."""
    return refused.largest_safe is not None and refused.largest_safe < refused.batch_size - 1


def rounded_up(size: int, multiple_of: int) -> int:
    """The smallest multiple that is no less than a size."""
    return -(-size // multiple_of) * multiple_of


def _reach(limits: Limits) -> tuple[int, int | None]:
    """The smallest and the largest multiple that may be tried."""
    step = limits.multiple_of
    smallest = rounded_up(limits.smallest, step)
    return smallest, None if limits.largest is None else limits.largest // step * step


def _first(limits: Limits) -> int:
    smallest, largest = _reach(limits)
    start = max(smallest, rounded_up(limits.start, limits.multiple_of))
    return start if largest is None else min(start, largest)


def _multiple_below(size: int, limits: Limits) -> int:
    """The largest multiple up to `size`, and at least one."""
    return max(size // limits.multiple_of, 1) * limits.multiple_of


def _shrink(refused: int, smallest: int, limits: Limits) -> Ask | Stop:
    if refused <= smallest:
        return Stop(None)
    size = max(smallest, _multiple_below(refused // 2, limits))
    return Ask(size, Phase.SHRINK, f"half of {refused}, which was refused")


def _grow(low: int, told: Sequence[Told], limits: Limits) -> Ask | Stop:
    _, largest = _reach(limits)
    if largest is not None and low >= largest:
        return _confirm(low, told, limits, limits.cap_reason)
    if _has_plateaued(told, limits.plateau_tolerance):
        return _refine(told, limits)
    size = 2 * low if largest is None else min(2 * low, largest)
    return Ask(size, Phase.GROW, f"twice {low}" if size == 2 * low else "the largest allowed")


def _bisect(low: int, high: int, limits: Limits) -> Ask:
    if high > 2 * low + limits.multiple_of:  # a guess far too high was refused: halving would begin up there
        return Ask(2 * low, Phase.GROW, f"twice {low}")
    middle = low + _multiple_below((high - low) // 2, limits)
    return Ask(middle, Phase.BISECT, f"between {low}, which passed, and {high}, which was refused")


def _step_back(high: int, told: Sequence[Told], limits: Limits) -> Ask | None:
    """Confirm at once the largest size that the spread of peaks leaves room for: to bisect once more tells less."""
    if any(t.batch_size == high and not t.accepted for t in told):
        return None
    return Ask(high - limits.multiple_of, Phase.CONFIRM, "the largest for which peaks that differ leave room")


def _settle(low: int, high: int, told: Sequence[Told], limits: Limits) -> Ask | Stop:
    """Confirm the largest accepted, whose successor is out of bounds, and see that one run too."""
    move = _confirm(low, told, limits, StopReason.EDGE)
    if isinstance(move, Stop) and _lacks_successor(high, told, limits):
        return Ask(high, Phase.SUCCESSOR, "the first for which peaks that differ leave no room")
    return move


def _lacks_successor(high: int, told: Sequence[Told], limits: Limits) -> bool:
    """Whether the size after the answer, where an exact edge is sought, has never run."""
    return limits.resolution == 0 and all(t.batch_size != high for t in told)


def _refine(told: Sequence[Told], limits: Limits) -> Ask | Stop:
    grown = sorted((t for t in told if t.accepted and t.phase is Phase.GROW), key=lambda t: t.batch_size)
    asked = {t.batch_size for t in told}
    best = max(range(len(grown)), key=lambda i: grown[i].throughput)
    near = [t.batch_size for t in grown[max(best - 1, 0) : best + 2]]
    for a, b in pairwise(near):
        middle = _multiple_below((a + b) // 2, limits)
        if a < middle < b and middle not in asked:
            return Ask(middle, Phase.REFINE, f"between {a} and {b}, near the fastest")
    return Stop(StopReason.PLATEAU)


def _has_plateaued(told: Sequence[Told], tolerance: float | None) -> bool:
    """True where each of the last doublings stayed, even at the top of its interval, near the best before."""
    grown = [t for t in told if t.accepted and t.phase is Phase.GROW]
    if tolerance is None or len(grown) <= PLATEAU_DOUBLINGS:
        return False
    best_before = max(t.throughput for t in grown[:-PLATEAU_DOUBLINGS])
    return all(t.throughput_high <= best_before * (1 + tolerance) for t in grown[-PLATEAU_DOUBLINGS:])


def _confirm(size: int, told: Sequence[Told], limits: Limits, reason: StopReason) -> Ask | Stop:
    done = sum(t.batch_size == size and t.phase is Phase.CONFIRM for t in told)
    if done >= limits.confirmations:
        return Stop(reason)
    return Ask(size, Phase.CONFIRM, f"does it hold again? ({done + 1} of {limits.confirmations})")

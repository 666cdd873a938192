"""The memory of a training step on hardware that need not be here, predicted without running the step.

Needs an executor that answers forecasts, and no torch. Promises that every size which an estimate names was itself
forecast with the model's own step; that a size counts as fitting only where its peak and a margin for the
forecast's error are within the memory; and that what could not be known is listed as a guess.

Between two sizes that were forecast a straight line is drawn. The peak is the largest of several phases, each of
which grows in a straight line or faster, so the line lies on the peak or above it, but for what the allocator
rounds; and so it may name a size that is too small, not one that is too large.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec.structs import replace

from autotune.devices import host
from autotune.errors import NoForecastError, NothingFitsError, UsageError
from autotune.executors import Attempt, ForecastRequest, Opened, Request
from autotune.forecast.cards import Card, find_card
from autotune.forecast.curve import Curve
from autotune.forecast.margin import MARGIN_SHARES
from autotune.forecast.records import LARGEST, Footprint, Rules
from autotune.spec import Mode, Precision
from autotune.trial import Record, WorkloadFacts
from autotune.units import format_bytes, format_count, parse_bytes

SHOWN_SIZES = 6
"""So many batch sizes are chosen where none are asked for: a table of them fits 80 columns."""

FORECAST_SECONDS, PLACE_SECONDS = 600.0, 60.0
"""Bound on the forecasts of one variant, and how much more each place allows: a step of a large model takes seconds to
follow, for each size, and the largest on a place takes two to eight of them."""

OTHER_CONTEXT_BYTES = 800 << 20
"""What the driver, CUDA's context and its libraries take on a device of which only the memory is known: amid the 664 to
1176 MiB of NVIDIA's cards in `cards`."""


class Place(Record, frozen=True):
    """Where a step shall run.

    Attributes:
        name: shown in reports.
        memory_bytes: all that a process can have there.
        context_bytes: what the driver, CUDA's context and libraries take of it; 0 on a CPU, whose base is measured.
    """

    name: str
    memory_bytes: int
    context_bytes: int = 0

    def room_bytes(self, margin_share: float) -> int:
        """What a forecast may take: with the context and the margin, it is within the memory."""
        return int(self.memory_bytes / (1 + margin_share)) - self.context_bytes


class Variant(Record, frozen=True):
    """One way to run the step, and its forecast.

    Attributes:
        precision: number format of the forward pass.
        checkpointing: the model drops activations and computes them again.
        footprints: every size that was forecast, the smallest first; empty where there is no forecast.
        base_bytes: what the process holds besides: measured on a CPU, 0 on a GPU, whose context belongs to the card.
        largest_batch_sizes: for each place of the estimate, the largest that fits; 0 for none, `LARGEST` for at
            least as many.
        no_forecast: why there is none, in words; empty where there is one.
    """

    precision: Precision
    checkpointing: bool = False
    footprints: tuple[Footprint, ...] = ()
    base_bytes: int = 0
    largest_batch_sizes: tuple[int, ...] = ()
    no_forecast: str = ""

    @property
    def label(self) -> str:
        """How it is called: "bf16", "bf16, checkpointed"."""
        return self.precision.value + (", checkpointed" if self.checkpointing else "")

    def footprint(self, batch_size: int) -> Footprint | None:
        """The forecast of this very size; None where it was not asked for."""
        return next((found for found in self.footprints if found.batch_size == batch_size), None)


class Question(Record, frozen=True):
    """What an estimate shall answer.

    Attributes:
        places: where the step might run; at least one.
        precisions: each is a variant of its own; at least one.
        batch_sizes: the sizes of interest; where empty, powers of two up to the largest that fits.
        most_sizes: bound on the number of these powers; None for all of them.
        checkpointing: each precision also with activation checkpointing.
        accumulation_steps: micro-batches in a step.
        mode: training or inference.
        rules: whose memory.
    """

    places: tuple[Place, ...]
    precisions: tuple[Precision, ...] = (Precision.FP32,)
    batch_sizes: tuple[int, ...] = ()
    most_sizes: int | None = SHOWN_SIZES
    checkpointing: bool = False
    accumulation_steps: int = 1
    mode: Mode = Mode.TRAIN
    rules: Rules = Rules.CUDA

    def __post_init__(self) -> None:
        """Refuse what no step can be.

        Raises:
            UsageError: a count is below 1, or gradients are accumulated in inference.
        """
        if min(self.batch_sizes, default=1) < 1:
            raise UsageError("--batch-size is below 1.", remedy="Give whole numbers from 1 on.")
        if self.accumulation_steps < 1:
            raise UsageError("--accumulate is below 1.", remedy="Give the number of micro-batches in a step.")
        if self.accumulation_steps > 1 and self.mode is Mode.INFERENCE:
            raise UsageError("--accumulate is for training.", remedy="Leave it out, or use --mode train.")


class Estimate(Record, frozen=True):
    """The predicted memory of a workload's step. Nothing in it was measured, except a CPU process' base.

    Attributes:
        workload: what was forecast.
        question: what was asked.
        batch_sizes: those asked for, or those chosen instead.
        variants: one for each way to run the step.
        margin_share: how far a forecast may be off, as a share of the peak.
        guesses: what could not be known without data or without the hardware, in words.
    """

    workload: WorkloadFacts
    question: Question
    batch_sizes: tuple[int, ...]
    variants: tuple[Variant, ...]
    margin_share: float
    guesses: tuple[str, ...]

    @property
    def places(self) -> tuple[Place, ...]:
        """Where the step might run."""
        return self.question.places

    @property
    def rules(self) -> Rules:
        """Whose memory it is."""
        return self.question.rules

    @property
    def context_bytes(self) -> int:
        """The most that driver and libraries take on any of the places."""
        return max(place.context_bytes for place in self.places)

    def variant(self, precision: str | None = None, checkpointing: bool = False) -> Variant:
        """One variant; without a precision, the first.

        Raises:
            UsageError: it was not asked for.
            NoForecastError: it has no forecast; says why.
        """
        wanted = precision or self.variants[0].precision
        for variant in self.variants:
            if (variant.precision, variant.checkpointing) == (wanted, checkpointing):
                if variant.no_forecast:
                    raise _no_forecast(variant)
                return variant
        there = "; ".join(variant.label for variant in self.variants)
        raise UsageError(f"There is no estimate for {wanted!s}.", remedy=f"Ask for one of: {there}.")

    def peak_bytes(self, batch_size: int, *, precision: str | None = None, checkpointing: bool = False) -> int:
        """The predicted peak of the whole process at a batch size: what the allocator holds, context or base included.

        Exact, in that this very size was forecast, for `batch_sizes` and for the largest on each place; between
        these, from a straight line (see the module's docstring).

        Raises:
            UsageError: the size is beyond those that were forecast.
        """
        variant = self.variant(precision, checkpointing)
        return variant.base_bytes + self.context_bytes + _held_bytes(variant.footprints, batch_size)

    def with_margin(self, peak_bytes: int) -> int:
        """A peak as it may really be, if the forecast is off by the margin."""
        return int(peak_bytes * (1 + self.margin_share))

    def max_batch_size(self, budget: int | str, *, precision: str | None = None, checkpointing: bool = False) -> int:
        """The largest batch size predicted to fit, with the margin; 0 where none does, and at most `LARGEST`.

        Exact for the estimate's own places; for other budgets from straight lines between the sizes that were
        forecast (see the module's docstring).

        Args:
            budget: bytes, or text such as "24GiB", or a GPU such as "A100 40GB".
            precision: "fp32", "bf16" or "fp16"; the estimate's first where it is None.
            checkpointing: with activation checkpointing.

        Raises:
            UsageError: the budget is larger than those that were asked about, or is no size and no known GPU.
        """
        variant = self.variant(precision, checkpointing)
        place = place_of(budget, self.rules)
        for known, largest in zip(self.places, variant.largest_batch_sizes, strict=True):
            if (known.memory_bytes, known.context_bytes) == (place.memory_bytes, place.context_bytes):
                return largest
        return _largest_within(variant.footprints, place.room_bytes(self.margin_share) - variant.base_bytes)

    def largest_batch_sizes(self) -> tuple[int, ...]:
        """For each place, the largest batch size of the first variant that is predicted to fit.

        Raises:
            NothingFitsError: on one of them, none does.
        """
        sizes = self.variant().largest_batch_sizes
        for place, size in zip(self.places, sizes, strict=True):
            if size == 0:
                raise NothingFitsError(
                    f"No batch size is predicted to fit the {format_bytes(place.memory_bytes)} of {place.name}.",
                    remedy="Try --precision bf16, a model with activation checkpointing, or more memory.",
                )
        return sizes

    def check_within(self, limit_bytes: int) -> None:
        """See that no batch size that was asked about takes more than so much, in any variant, margin included.

        Raises:
            NothingFitsError: one does, or may.
            NoForecastError: a variant has no forecast.
        """
        for variant in self.variants:
            for size in self.batch_sizes:
                peak_bytes = self.peak_bytes(size, precision=variant.precision, checkpointing=variant.checkpointing)
                if self.with_margin(peak_bytes) > limit_bytes:
                    raise NothingFitsError(
                        f"Batch size {format_count(size)} in {variant.label} is predicted to peak at "
                        f"{format_bytes(peak_bytes)}, or {format_bytes(self.with_margin(peak_bytes))} with the margin: "
                        f"over {format_bytes(limit_bytes)}.",
                        remedy="Lower the batch size, or raise the limit.",
                    )

    def summary(self) -> str:
        """The whole estimate as text, as the command line prints it."""
        from autotune.reports.estimate import render  # reports stand above the records

        return render(self)


def place_of(memory: int | str, rules: Rules = Rules.CUDA) -> Place:
    """The place that bytes, a size such as "24GiB", or by CUDA's rules the name of a GPU stand for.

    Raises:
        UsageError: the text is neither a size nor, by CUDA's rules, a known GPU.
    """
    if isinstance(memory, str):
        try:
            memory_bytes = parse_bytes(memory)
        except UsageError:
            if rules is Rules.CPU:  # whose memory no GPU has
                raise
            return card_place(find_card(memory))
    else:
        memory_bytes = memory
    context_bytes = OTHER_CONTEXT_BYTES if rules is Rules.CUDA else 0
    return Place(name="the device", memory_bytes=memory_bytes, context_bytes=context_bytes)


def card_place(card: Card) -> Place:
    """The place that a GPU is."""
    return Place(
        name=card.name, memory_bytes=card.total_bytes, context_bytes=max(0, card.total_bytes - card.usable_bytes)
    )


def free_here() -> Place:
    """The memory of this machine that is free now, for its processor."""
    return Place(name="this machine", memory_bytes=host.available_bytes())


class DryExecutor(Protocol):
    """An executor, as far as an estimate needs it."""

    def open(self, *, dry: bool) -> Opened:
        """Build the workload; where dry, without running a step of it."""
        ...

    def run(self, request: Request) -> Attempt:
        """Run a request to its end, whatever that is."""
        ...


def estimate(executor: DryExecutor, question: Question, told: Callable[[str], None] = lambda _: None) -> Estimate:
    """Forecast what is asked for.

    Args:
        executor: builds the workload and answers forecasts; is left open.
        question: what is asked.
        told: hears what is being done, in words.

    Raises:
        NoForecastError: none of the variants can be forecast.
        AutotuneError: the workload cannot be built; see `Executor.open`.
    """
    margin_share = MARGIN_SHARES[question.rules]
    told("building the model")
    opened = executor.open(dry=True)
    edges = ForecastRequest(
        batch_sizes=tuple(sorted(set(question.batch_sizes))),
        budgets_bytes=tuple(place.room_bytes(margin_share) for place in question.places),
        largest=LARGEST,
        rules=question.rules,
        accumulation_steps=question.accumulation_steps,
        timeout_seconds=FORECAST_SECONDS + PLACE_SECONDS * len(question.places),
    )
    answers = []
    for precision, checkpointing in _ways(question):
        told(f"forecasting {precision.value}{' with checkpointing' if checkpointing else ''}")
        request = replace(edges, precision=precision, checkpointing=checkpointing)
        answers.append(_answered(executor, request))
    variants = [variant for variant, _ in answers]
    if all(variant.no_forecast for variant in variants):
        raise _no_forecast(variants[0])
    sizes = question.batch_sizes or _powers_of_two(variants, question.most_sizes)
    told("forecasting the sizes between")
    return Estimate(
        workload=opened.workload,
        question=question,
        batch_sizes=sizes,
        variants=tuple(_with_sizes(executor, edges, variant, sizes) for variant in variants),
        margin_share=margin_share,
        guesses=(*_context_guess(question.places), *dict.fromkeys(guess for _, heard in answers for guess in heard)),
    )


def _ways(question: Question) -> list[tuple[Precision, bool]]:
    return [(p, c) for c in ((False, True) if question.checkpointing else (False,)) for p in question.precisions]


def _answered(executor: DryExecutor, request: ForecastRequest) -> tuple[Variant, tuple[str, ...]]:
    """A variant and its guesses, or why it has no forecast."""
    assert request.precision is not None  # each variant has its own
    variant = Variant(precision=request.precision, checkpointing=request.checkpointing)
    attempt = executor.run(request)
    forecast = attempt.forecast
    if forecast is None or not forecast.footprints:
        return replace(variant, no_forecast=_why(attempt)), ()
    return replace(
        variant,
        footprints=forecast.footprints,
        base_bytes=forecast.base_bytes,
        largest_batch_sizes=forecast.largest_batch_sizes,
    ), forecast.guesses


def _with_sizes(
    executor: DryExecutor, edges: ForecastRequest, variant: Variant, batch_sizes: tuple[int, ...]
) -> Variant:
    """A variant with these sizes too, which were only known to be worth showing once the largest was."""
    missing = tuple(sorted(size for size in set(batch_sizes) if variant.footprint(size) is None))
    if variant.no_forecast or not missing:
        return variant
    request = replace(
        edges,
        batch_sizes=missing,
        budgets_bytes=(),
        precision=variant.precision,
        checkpointing=variant.checkpointing,
    )
    more, _ = _answered(executor, request)
    footprints = {found.batch_size: found for found in (*variant.footprints, *more.footprints)}
    return replace(variant, footprints=tuple(footprints[size] for size in sorted(footprints)))


def _powers_of_two(variants: Sequence[Variant], most: int | None) -> tuple[int, ...]:
    """Powers of two from the smallest size that runs to the largest that fits anywhere, evenly thinned."""
    smallest = min(variant.footprints[0].batch_size for variant in variants if variant.footprints)
    largest = max((size for variant in variants for size in variant.largest_batch_sizes), default=0)
    first, last = (smallest - 1).bit_length(), largest.bit_length() - 1
    if last <= first:
        return (smallest,)
    stride = 1 if most is None else -(-(last - first + 1) // most)
    return tuple(1 << power for power in range(last, first - 1, -stride))[::-1]


def _largest_within(footprints: Sequence[Footprint], room_bytes: int) -> int:
    """The largest size of a straight line between known sizes that stays within so much held memory."""
    over = next((place for place, found in enumerate(footprints) if found.held_bytes > room_bytes), None)
    if over is None and footprints[-1].batch_size >= LARGEST:
        return LARGEST
    if over is None:
        raise UsageError(
            f"Nothing as large was asked about: {format_count(footprints[-1].batch_size)} still fits.",
            remedy="Make the estimate for this budget.",
        )
    if over == 0:
        return 0
    fits, not_fits = footprints[over - 1], footprints[over]
    share = (room_bytes - fits.held_bytes) / (not_fits.held_bytes - fits.held_bytes)
    return fits.batch_size + int(share * (not_fits.batch_size - fits.batch_size))


def _held_bytes(footprints: Sequence[Footprint], batch_size: int) -> int:
    """What the allocator holds at a size: known, or on the straight line between its neighbours."""
    sizes = [found.batch_size for found in footprints]
    if not sizes[0] <= batch_size <= sizes[-1]:
        raise UsageError(
            f"Batch size {format_count(batch_size)} is outside {format_count(sizes[0])} to {format_count(sizes[-1])}, "
            "which were forecast.",
            remedy="Ask for it among the batch sizes of the estimate.",
        )
    return round(Curve(tuple(sizes), tuple(float(found.held_bytes) for found in footprints)).at(batch_size))


def _context_guess(places: Sequence[Place]) -> tuple[str, ...]:
    contexts = sorted({place.context_bytes for place in places if place.context_bytes})
    if not contexts:
        return ()
    fewest, most = format_bytes(contexts[0]), format_bytes(contexts[-1])
    span = most if fewest == most else f"{fewest} to {most}, of which the peaks above have the most"
    return (f"what the driver, CUDA's context and libraries take: {span}",)


def _why(attempt: Attempt) -> str:
    """The evidence in one line."""
    if attempt.evidence is None:
        return attempt.outcome.value
    text = next(iter(attempt.evidence.text.strip().splitlines()), attempt.outcome.value)
    return text.removeprefix(f"{NoForecastError.__name__}: ")


def _no_forecast(variant: Variant) -> NoForecastError:
    return NoForecastError(
        f"No forecast for {variant.label}: {variant.no_forecast}",
        remedy="Measure it where it shall run: autotune probe.",
    )

"""The only loop: ask the search, run the trial, write it down, tell the search.

Needs the pure parts, an executor, a journal and a listener, and no framework. Promises that a trial is in
the journal before anything else is made of it, that what is recommended was run and held in a fresh
process, and that an interruption or a spent allowance returns the best so far.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import msgspec

from autotune.advice import advice
from autotune.cautions import cautions
from autotune.edge import edge_of, search_limits
from autotune.errors import NothingFitsError, NoTrialFinishedError, ResultFileError, UsageError, WorkloadError
from autotune.executors import (
    Effort,
    Executor,
    FeedRequest,
    ForecastRequest,
    GradientsRequest,
    Opened,
    TrialRequest,
)
from autotune.final_round import form_of
from autotune.forecast.records import Forecast, Rules
from autotune.guide import hint, measured_peaks, predicted_peak
from autotune.listener import Listener
from autotune.progress import Ahead, ahead
from autotune.quality import base_batch_size, noise_of, quality, recommendation_of, training_now
from autotune.recommend import begun, contenders, recommend, speeds, telling
from autotune.result import Recommendation, Result, Spent, StopReason, TargetAnswer
from autotune.resuming import check_same, dropped_warning, place_of, sifted
from autotune.search import Ask, Hint, Limits, Phase, Search, Stop, bounds, next_move
from autotune.spec import Objective, ProbeSpec
from autotune.store import Forecasted, Journal, Line, NoJournal, Place, TrialBegan, TrialEnded, TrialInterrupted
from autotune.target import TRY, answer_target, known_answer
from autotune.trial import Contest, Feeding, Gradients, Outcome, Purpose, Trial
from autotune.units import format_bytes, format_count
from autotune.verdict import judged

GROW = Effort(warmup_steps=2, min_steps=3, seconds=0.5)
BISECT = Effort(warmup_steps=2, min_steps=3, max_steps=3, seconds=0.0)  # the peak still rises until the third step
CONFIRM = Effort(warmup_steps=2, min_steps=8, max_steps=8, seconds=0.0)  # ten in all: sizes that pass three fail ten
EFFORTS: dict[Purpose, Effort] = {  # else GROW
    "bisect": BISECT,
    "confirm": CONFIRM,
    "successor": CONFIRM,
    "target": TRY,
}
FORECAST_SECONDS = 60.0
WARMUP_SECONDS = 120.0  # of training a copy; what was measured until then has to do
MOST_WORKERS = 16  # of a DataLoader; more seldom help, and each holds a copy of the dataset's objects
LATENCY = Effort(min_steps=20, seconds=0.5)  # the fewest of which the 95th percentile is not simply the slowest


class _SpentError(Exception):
    """An allowance is used up: it kept a trial from beginning, or ended one, which says nothing of its batch size."""

    def __init__(self, by: StopReason) -> None:
        super().__init__(by.value)
        self.by = by


@dataclass
class Probe:
    """One probe: its parts, and what it has found so far.

    `trials` may begin with those of a journal; `place` is then where these ran.
    """

    spec: ProbeSpec
    executor: Executor
    journal: Journal
    listener: Listener
    trials: list[Trial] = field(default_factory=list)
    place: Place | None = None
    forecasted: Forecasted | None = None
    contest: Contest | None = None
    gradients: Gradients | None = None
    no_gradients: str = ""
    spent: Spent = field(default_factory=Spent)
    started: float = field(default_factory=time.monotonic)

    def run(self) -> Result:
        """Search, compare, confirm, and answer.

        Raises:
            WorkloadError: the user's code raised.
            NothingFitsError: no batch size fits the budget.
            NoTrialFinishedError: every trial timed out, crashed or reached a kernel limit.
            UsageError: no batch size can be tried, or there is no DataLoader to tune.
            KeyboardInterrupt: interrupted before anything was found.
        """
        self.listener.opening(self.spec)
        self.opened = self._with_dataset_size(self.executor.open())
        self.spent = Spent(opening_seconds=time.monotonic() - self.started)
        self.listener.opened(self.opened)
        self._check_tuning()
        self._go_on_from_the_journal()
        self.search = Search(search_limits(self.spec, self.opened))
        for trial in self.trials:
            self._tell(trial)
        result = self._result()
        self.listener.ended(result)
        return result

    def _with_dataset_size(self, opened: Opened) -> Opened:
        """As opened, but with the size of the dataset that the user gave, where they did."""
        if self.spec.dataset_size is None:
            return opened
        workload = msgspec.structs.replace(opened.workload, dataset_size=self.spec.dataset_size)
        return msgspec.structs.replace(opened, workload=workload)

    def _go_on_from_the_journal(self) -> None:
        """Keep of its trials what still holds, and write down what the next ones are about."""
        place = place_of(self.opened)
        if self.place is not None:
            check_same(self.place, place)
            self.trials, dropped = sifted(self.trials, self.place.budget_bytes, place.budget_bytes)
            if dropped:
                self.listener.warned(dropped_warning(len(dropped), self.place.budget_bytes, place.budget_bytes))
            for trial in dropped:
                self._write(TrialInterrupted(number=trial.number))
        if place != self.place:
            self._write(place)

    def _check_tuning(self) -> None:
        if self.spec.tune_workers and self.opened.workload.num_workers is None:
            raise UsageError(
                f"--tune-workers needs data that a DataLoader reads, and {self.opened.workload.name} has none.",
                remedy="Give a Dataset or a DataLoader, or leave it out.",
            )

    def _result(self) -> Result:
        target, feeding = None, None
        try:
            cut_short, target = self._answered()
            feeding = self._feeding()
        except KeyboardInterrupt:
            if not self.speeds():
                raise
            cut_short = StopReason.INTERRUPTED
        return self._composed(cut_short, target or known_answer(self.spec.target, self), feeding)

    def _answered(self) -> tuple[StopReason | None, TargetAnswer | None]:
        """Search until the answer holds, and answer for the target; tells which allowance ended that, if any."""
        spent, target = None, None
        try:
            spent = self._search_until_confirmed()
            if self.spec.target is not None:
                target = answer_target(self.spec.target, self, self._effort("target"))
        except _SpentError as error:
            if not self.speeds():
                raise _nothing_yet(error.by) from None
            spent = error.by
        return spent, target

    # ------------------------------------------------------------------ searching

    def _search_until_confirmed(self) -> StopReason | None:
        """Search until what is recommended also holds in a fresh process; tells which allowance ended that, if any."""
        while True:
            spent = self._search_to_its_end()
            self._hold_contest()
            self._warm_up()
            size = self._recommendation().batch_size
            if self._is_confirmed(size):
                return spent
            if (spent := self._exhausted()) is not None:
                return spent
            ask = Ask(size, Phase.CONFIRM, "does the answer hold in a fresh process?")
            trial = self.ask_trial(ask, self._effort(ask.phase.value))
            self.contest = self.contest if trial.accepted else None

    def _search_to_its_end(self) -> StopReason | None:
        """Search until nothing is left to try, or an allowance is used up, and tell which."""
        while isinstance(move := self.search.ask(self._hint()), Ask):
            if (spent := self._exhausted()) is not None:
                if not self.speeds():
                    raise _nothing_yet(spent)
                return spent
            if self._can_forecast:
                self._forecast()  # which may lead elsewhere
                continue
            self.ask_trial(move, self._effort(move.phase.value))
        if move.reason is None:
            raise self._nothing_accepted()
        return None

    @property
    def _can_forecast(self) -> bool:
        """Whether a forecast is wanted, was not yet made, and a trial can correct it."""
        wanted = self.spec.forecast and self.spec.objective is not Objective.LATENCY
        return wanted and self.forecasted is None and bool(measured_peaks(self.trials))

    def _hint(self) -> Hint | None:
        return hint(self._known_forecast, self.trials, self.opened.budget_bytes)

    @property
    def _known_forecast(self) -> Forecast | None:
        return self.forecasted.forecast if self.forecasted else None

    def _forecast(self) -> None:
        """Ask for a forecast, in a child of its own: whatever goes wrong there costs the forecast, not the probe."""
        self.listener.forecast_started()
        began = time.monotonic()
        self._prepare_for_the_end(self.opened.budget_bytes)
        batch_size, peak_bytes = max(measured_peaks(self.trials))
        attempt = self.executor.run(
            ForecastRequest(
                batch_sizes=(self.opened.workload.smallest_batch_size, batch_size),
                budgets_bytes=(self.opened.budget_bytes,),
                largest=self.search.limits.largest,
                measured=(batch_size, round(peak_bytes)),
                rules=Rules.CUDA if self.opened.environment.device.startswith("cuda") else Rules.CPU,
                timeout_seconds=self._at_most(FORECAST_SECONDS),
            )
        )
        why_not = "" if attempt.forecast else attempt.reason
        self.forecasted = Forecasted(forecast=attempt.forecast, why_not=why_not)
        self.spent = msgspec.structs.replace(self.spent, forecast_seconds=time.monotonic() - began)
        self._write(self.forecasted)
        where = self._hint()
        edge = min(where.edge, self.search.limits.largest or where.edge) if where else None
        self.listener.forecast_ended(attempt.forecast, edge, why_not)

    def ask_trial(self, ask: Ask, effort: Effort) -> Trial:
        """Run the trial that the search asks for, and tell the search.

        The last confirmation has a new interpreter; where a fork gives no process of its own, each has.
        """
        left = self._confirmations_left(ask.batch_size)
        is_fresh = ask.phase is Phase.CONFIRM and (left == 1 or not self.opened.forks)
        if is_fresh:
            self.executor.prepare(left, self._peak_bytes([ask.batch_size]))
        request = TrialRequest(batch_size=ask.batch_size, effort=effort, fresh_process=is_fresh)
        trial = self.run_trial(request, ask.phase.value, ask.why)
        self._tell(trial)
        return trial

    @property
    def _has_final_round(self) -> bool:
        return self.spec.objective not in (Objective.MEMORY, Objective.TIME_TO_QUALITY)

    def _prepare_for_the_end(self, needed_bytes: int) -> None:
        """Have interpreters started while nothing is timed: for the final round, and for the run of the answer."""
        confirming = 1 if self.opened.forks else max(self.search.limits.confirmations, 1)
        timing = form_of(self.opened).fresh_processes if self._has_final_round else 0
        self.executor.prepare(confirming + timing, needed_bytes)

    def _peak_bytes(self, sizes: Sequence[int]) -> int:
        """What these sizes need together: the highest peak that was seen of each, or else the whole budget."""
        peaks = dict(sorted(measured_peaks(self.trials)))
        return round(sum(peaks.get(size, self.opened.budget_bytes) for size in sizes))

    def _confirmations_left(self, size: int) -> int:
        done = sum(told.batch_size == size and told.phase is Phase.CONFIRM for told in self.search.told)
        return max(self.search.limits.confirmations - done, 1)

    def run_trial(self, request: TrialRequest, purpose: Purpose, why: str) -> Trial:
        """Run one trial and write it down.

        Raises:
            WorkloadError: the user's own code raised.
            _SpentError: an allowance of the probe kept it from beginning, or ended it.
        """
        if (spent := self._exhausted()) is not None:
            raise _SpentError(spent)
        number = 1 + max((trial.number for trial in self.trials), default=0)
        request = self._within_time(request)
        try:
            trial = self._ran(number, request, purpose, why)
            if trial.outcome is Outcome.TIMED_OUT and request.timeout_seconds < self.spec.trial_timeout_seconds:
                raise _SpentError(StopReason.SECONDS)
            return self._taken(trial)
        except (KeyboardInterrupt, _SpentError):
            self._write(TrialInterrupted(number=number))
            raise

    def _ran(self, number: int, request: TrialRequest, purpose: Purpose, why: str) -> Trial:
        """Announce a trial, run it, and judge it."""
        self._write(TrialBegan(number=number, batch_size=request.batch_size, purpose=purpose))
        self.listener.trial_started(number, request.batch_size, purpose, why, self._ahead())
        began = time.monotonic()
        attempt = self.executor.run(request)
        trial = Trial(
            number=number,
            batch_size=request.batch_size,
            purpose=purpose,
            why=why,
            outcome=attempt.outcome,
            seconds=time.monotonic() - began,
            measurement=attempt.measurement,
            evidence=attempt.evidence,
            fresh_process=request.fresh_process and self.opened.isolated,
            forecast_bytes=predicted_peak(self._known_forecast, self.trials, request.batch_size),
        )
        on_cpu = self.opened.environment.device == "cpu"  # a GPU's caching allocator does the same each time
        budget_bytes = self.opened.budget_bytes
        return judged(trial, self.spec, budget_bytes, self.trials, self._known_forecast, peaks_vary=on_cpu)

    def _ahead(self) -> Ahead:
        return ahead(self.search, self._hint(), self.trials, self.spec, self._seconds_left())

    def _taken(self, trial: Trial) -> Trial:
        self._write(TrialEnded(trial=trial))
        self.trials.append(trial)
        self.listener.trial_ended(trial)
        if trial.outcome is Outcome.FAILED:
            raise self._failed(trial)
        return trial

    def _write(self, line: Line) -> None:
        """Write to the journal; a disk that is full costs the journal, not the probe."""
        try:
            self.journal.write(line)
        except ResultFileError as error:
            self.listener.warned(f"{error.message} The probe goes on without a journal.")
            self.journal = NoJournal()

    def _tell(self, trial: Trial) -> None:
        if trial.is_searched:
            self.search.tell(telling(trial))

    def _hold_contest(self) -> None:
        """Time the sizes that may yet win against each other, once, unless there is no question or no time.

        Another speed that the run of the answer shows is no reason to hold it again; that it was refused is.
        """
        form = form_of(self.opened)
        names = contenders(self.trials, self.spec.tolerance, form.room_bytes)
        has_question = self._has_final_round and len(names) > 1 and self.contest is None
        if not has_question or self._exhausted() is not None:
            return
        began = time.monotonic()
        self._prepare_for_the_end(self._peak_bytes(names))
        self.listener.contest_started(names)
        first = begun(self.trials, names, follows_trials=form.follows_trials)
        tolerance, warned = self.spec.tolerance, self.listener.warned
        for contest in form.rounds(self.executor, first, tolerance, self._seconds_allowed, warned):
            self.contest = contest
        seconds = self.spent.contest_seconds + time.monotonic() - began
        self.spent = msgspec.structs.replace(self.spent, contest_seconds=seconds)

    # ------------------------------------------------------------------ the model's side

    def _warm_up(self) -> None:
        """Train a copy for a while, once, and measure its gradients; without them the answer is a weaker one."""
        asked = self.spec.objective is Objective.TIME_TO_QUALITY and self.spec.noise == "auto"
        if not asked or self.gradients or self.no_gradients or self._seconds_left() <= 0:
            return
        base = min(base_batch_size(self.spec, self.opened.workload.training), 2 * max(self.speeds()))
        self.listener.warm_up_started(base, self.spec.warmup_steps)
        began = time.monotonic()
        allowed_seconds = self._at_most(2 * WARMUP_SECONDS)
        attempt = self.executor.run(
            GradientsRequest(
                batch_size=base,  # a step is over halves of it at most, which fit
                steps=self.spec.warmup_steps,
                learning_rate=self.spec.base_learning_rate,
                seconds=allowed_seconds / 2,  # what was measured by then counts; what is ended has measured nothing
                timeout_seconds=allowed_seconds,
            )
        )
        self.gradients = attempt.gradients
        if attempt.gradients is None:
            self.no_gradients = attempt.reason
            self.listener.warned(f"The noise of the gradients could not be measured: {self.no_gradients}")
        self.spent = msgspec.structs.replace(self.spent, gradients_seconds=time.monotonic() - began)

    # ------------------------------------------------------------------ feeding

    def _feeding(self) -> Feeding | None:
        """How fast the caller's own DataLoader feeds the answer; what goes wrong there does not cost the answer."""
        now = self.opened.workload.num_workers
        if now is None or self._seconds_left() <= 0:
            return None
        asked = worker_counts(now, self.opened.environment.logical_cores) if self.spec.tune_workers else (now,)
        self.listener.feeding_started(asked)
        began = time.monotonic()
        attempt = self.executor.run(
            FeedRequest(
                batch_size=self._recommendation().batch_size,
                num_workers=asked,
                timeout_seconds=self._at_most(self.spec.trial_timeout_seconds),
            )
        )
        self.spent = msgspec.structs.replace(self.spent, feeding_seconds=time.monotonic() - began)
        if attempt.feeding is None:
            self.listener.warned(f"The DataLoader could not be timed: {attempt.reason}")
        return attempt.feeding

    # ------------------------------------------------------------------ allowances

    def _effort(self, purpose: Purpose) -> Effort:
        if self.spec.objective is Objective.LATENCY:
            return LATENCY
        return EFFORTS.get(purpose, GROW)

    def _exhausted(self) -> StopReason | None:
        """Which allowance is used up, if any; none before the first trial, which runs whatever was allowed."""
        if not self.trials:
            return None
        if self.spec.max_trials is not None and len(self.trials) >= self.spec.max_trials:
            return StopReason.TRIALS
        return StopReason.SECONDS if self._seconds_left() <= 0 else None

    def _seconds_left(self) -> float:
        allowed = self.spec.max_seconds
        return float("inf") if allowed is None else allowed - (time.monotonic() - self.started)

    def _within_time(self, request: TrialRequest) -> TrialRequest:
        seconds = self.spec.trial_timeout_seconds
        return msgspec.structs.replace(request, timeout_seconds=self._at_most(seconds) if self.trials else seconds)

    def _seconds_allowed(self) -> float:
        """For how long a part of the final round may run; 0 where no more of it may begin."""
        return 0.0 if self._exhausted() else self._at_most(self.spec.trial_timeout_seconds)

    def _at_most(self, seconds: float) -> float:
        """So long, or until the time for all of the probe is over, but never less than a second."""
        return max(1.0, min(seconds, self._seconds_left()))

    # ------------------------------------------------------------------ answering

    def speeds(self) -> dict[int, float]:
        """Samples/s by accepted batch size, as `recommend.speeds` gives it."""
        return speeds(self.trials)

    def _is_confirmed(self, size: int) -> bool:
        runs = [trial for trial in self.trials if trial.batch_size == size and trial.accepted]
        return any(t.fresh_process or (t.purpose == "confirm" and not self.opened.isolated) for t in runs)

    def _recommendation(self) -> Recommendation:
        low, _ = bounds(self.search.told, self.spec.multiple_of)
        speed = self.speeds()
        if self.spec.objective is Objective.TIME_TO_QUALITY:
            noise = noise_of(self.spec, self.gradients, self.no_gradients)
            training = training_now(self.gradients, self.opened.workload)
            return recommendation_of(quality(speed, noise, self.spec, training), speed)
        return recommend(self.spec.objective, speed, low or max(speed), self.contest, self.spec.tolerance)

    def _ended_by(self, cut_short: StopReason | None) -> StopReason:
        """Why nothing further was tried: the search's own reason, though sizes may still have to be confirmed."""
        move = next_move(self.search.told, replace(self.search.limits, confirmations=0))
        if isinstance(move, Ask) and move.phase is Phase.REFINE:  # which lies below what was tried
            return StopReason.PLATEAU
        reason = move.reason if isinstance(move, Stop) else cut_short
        assert reason is not None  # or else the search would have gone on
        return reason

    def _composed(self, cut_short: StopReason | None, target: TargetAnswer | None, feeding: Feeding | None) -> Result:
        stop, recommendation = self._ended_by(cut_short), self._recommendation()
        confirmed = self._is_confirmed(recommendation.batch_size)
        return Result(
            spec=self.spec,
            environment=self.opened.environment,
            workload=self.opened.workload,
            budget_bytes=self.opened.budget_bytes,
            free_bytes=self.opened.free_bytes,
            trials=tuple(self.trials),
            recommendation=recommendation,
            edge=edge_of(self.trials, self.spec.multiple_of),
            stop=stop,
            cut_short=None if stop is cut_short else cut_short,
            seconds=time.monotonic() - self.started,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            contest=self.contest,
            target=target,
            feeding=feeding,
            gradients=self.gradients,
            no_gradients=self.no_gradients,
            forecast=self._known_forecast,
            no_forecast=self.forecasted.why_not if self.forecasted else "",
            isolated=self.opened.isolated,
            warnings=cautions(self.trials, self.opened, recommendation.batch_size, confirmed=confirmed)
            + self._about_target(target, cut_short),
            advice=self._advice(recommendation.batch_size),
            spent=self.spent,
        )

    def _about_target(self, answered: TargetAnswer | None, cut_short: StopReason | None) -> tuple[str, ...]:
        """Says that a target was asked for and not answered, and why."""
        if self.spec.target is None or answered is not None or cut_short is None:
            return ()
        size = format_count(self.spec.target)
        return (f"Whether a batch of {size} fits at once was not settled, since {cut_short.value}.",)

    def _advice(self, batch_size: int) -> tuple[str, ...]:
        """Of the learning rate; where its noise scale was asked for, that says more."""
        is_about_quality = self.spec.objective is Objective.TIME_TO_QUALITY
        return () if is_about_quality else advice(self.opened.workload.training, batch_size)

    # ------------------------------------------------------------------ no answer

    def _failed(self, trial: Trial) -> WorkloadError:
        text, trace = "no reason known", ""
        if trial.evidence is not None:
            text, trace = trial.evidence.text, trial.evidence.user_traceback
        before = f"Batch sizes up to {max(self.speeds())} ran before it. " if self.speeds() else ""
        return WorkloadError(
            f"The model failed at batch size {trial.batch_size}: {text}",
            remedy=f"{before}Correct it in your code, then probe again.",
            user_traceback=trace,
        )

    def _nothing_accepted(self) -> Exception:
        if not self.trials:
            return _no_room(self.search.limits)
        smallest = min(self.trials, key=lambda trial: (trial.batch_size, -trial.number))
        text = smallest.reason
        if smallest.fits:
            return NothingFitsError(
                f"Even batch size {smallest.batch_size} is too slow: {text}.",
                remedy="Raise --max-latency, or make the model smaller.",
            )
        if smallest.outcome is not Outcome.OUT_OF_MEMORY:
            return NoTrialFinishedError(
                f"No trial finished: at batch size {smallest.batch_size}, {text}.",
                remedy="Raise --trial-timeout if the model is slow; else run one step by hand to see why.",
            )
        return NothingFitsError(
            f"Not even batch size {smallest.batch_size} fits: {self._shortfall(smallest)}.",
            remedy="Raise --memory-budget, free some memory, or make the model smaller.",
        )

    def _shortfall(self, trial: Trial) -> str:
        """By how much it falls short: measured without the limits, where the machine allows that."""
        budget = self.opened.budget_bytes
        refusal = trial.reason
        if trial.measurement is None:
            request = TrialRequest(batch_size=trial.batch_size, effort=BISECT, enforce=False)
            with suppress(_SpentError):
                trial = self.run_trial(request, "target", "how much would it need?")
        peak = trial.measurement.memory.peak_bytes if trial.measurement else 0
        if peak <= budget:  # it is the machine that lacks memory, or the need could not be measured
            return refusal
        return (
            f"its peak is {format_bytes(peak)}, {format_bytes(peak - budget)} over the budget of {format_bytes(budget)}"
        )


def worker_counts(now: int, cores: int) -> tuple[int, ...]:
    """Numbers of workers worth a try: none, powers of two up to the cores, and what the caller has now."""
    powers = (2**k for k in range(min(cores, MOST_WORKERS).bit_length()))
    return tuple(sorted({0, now, *powers}))


def _nothing_yet(spent: StopReason) -> NoTrialFinishedError:
    return NoTrialFinishedError(
        f"No batch size had fitted when {spent.value}.", remedy="Raise --max-seconds or --max-trials, or lower --start."
    )


def _no_room(limits: Limits) -> UsageError:
    return UsageError(
        f"No multiple of {limits.multiple_of} lies between the smallest batch size, {limits.smallest}, and the "
        f"largest, {limits.largest}.",
        remedy="Lower --multiple-of, raise --max-batch-size, or use more data.",
    )

"""The ways in: `run` and `run_estimate` from the command line, `find_batch_size` and `estimate_memory` from Python.

The former take a spec, the latter live objects.

Needs everything below. Imports torch only where live objects are involved, whose owner has done so already.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec

from autotune.errors import ResultFileError, UnsavedResultError, UsageError
from autotune.executors import Executor
from autotune.executors.children import ChildExecutor
from autotune.forecast.records import Rules
from autotune.listener import Listener, Silence
from autotune.probe import Probe
from autotune.reports.written import check_writable
from autotune.result import Result
from autotune.spec import (
    TOO_LARGE,
    LiveWorkload,
    MemoryBudget,
    Mode,
    Objective,
    PickledWorkload,
    Precision,
    ProbeSpec,
)
from autotune.store import FileJournal, NoJournal
from autotune.units import parse_budget, parse_duration, parse_noise, parse_share
from autotune.verify import verify

if TYPE_CHECKING:
    import torch

    from autotune.estimate import Estimate, Place, Question
    from autotune.workloads.live import LiveParts

Choice = TypeVar("Choice", bound=StrEnum)
Item = TypeVar("Item", int, str)


def run(
    spec: ProbeSpec,
    *,
    listener: Listener | None = None,
    output: Path | None = None,
    resume: bool = False,
    command_line: str = "",
    verbose: bool = False,
) -> Result:
    """Probe what a spec describes.

    Args:
        spec: what to probe, where, for what, and within which limits.
        listener: is told of each event.
        output: where the result goes, as JSON; a journal lies beside it until the probe has ended.
        resume: go on from that journal.
        command_line: recorded in the result, for whoever wants to do it again.
        verbose: copy what the workers print to the standard error stream.

    Raises:
        AutotuneError: see `autotune.errors`.
        KeyboardInterrupt: interrupted before anything was found.
    """
    with ChildExecutor(spec, verbose=verbose) as executor:
        return _probed(spec, executor, listener or Silence(), output, resume=resume, command_line=command_line)


def _probed(
    spec: ProbeSpec, executor: Executor, listener: Listener, output: Path | None, *, resume: bool, command_line: str
) -> Result:
    if output is not None:
        check_writable(output)
    if output is not None and _may_have_a_journal(output):
        return _journalled(spec, executor, listener, output, resume=resume, command_line=command_line)
    if resume:
        raise UsageError("--resume needs --output.", remedy="Name the result file of the probe to go on with.")
    result = _with_command(Probe(spec, executor, NoJournal(), listener).run(), command_line)
    if output is not None:
        _save(result, output)
    return result


def _may_have_a_journal(output: Path) -> bool:
    """Whether a file may lie beside it; a device or a pipe leaves nothing to go on with."""
    return output.is_file() or not output.exists()


def _journalled(
    spec: ProbeSpec, executor: Executor, listener: Listener, output: Path, *, resume: bool, command_line: str
) -> Result:
    with FileJournal(journal_path(output), spec, resume=resume) as journal:
        probe = Probe(
            spec,
            executor,
            journal,
            listener,
            trials=list(journal.earlier.trials),
            place=journal.earlier.place,
            forecasted=journal.earlier.forecasted,
        )
        result = _with_command(probe.run(), command_line)
        _save(result, output)
        if result.is_complete:
            journal.delete()
    return result


def journal_path(output: Path) -> Path:
    """Where the journal of a result lies while its probe runs."""
    return output.with_name(output.name + ".journal.jsonl")


def _save(result: Result, output: Path) -> None:
    try:
        result.save(output)
    except ResultFileError as error:
        raise UnsavedResultError(error.message, remedy=error.remedy, result=result) from error


def _with_command(result: Result, command_line: str) -> Result:
    environment = msgspec.structs.replace(result.environment, command_line=command_line)
    return msgspec.structs.replace(result, environment=environment)


def find_batch_size(
    model: Any,
    data: Any = None,
    targets: Any = None,
    *,
    trainer: Any = None,
    loss: Callable[..., Any] | None = None,
    optimizer: Any = None,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    training_step: Callable[[Any], Any] | None = None,
    inference_step: Callable[[Any], Any] | None = None,
    device: str | torch.device = "auto",
    mode: str = "train",
    objective: str = "throughput",
    max_latency: str | float | None = None,
    memory_budget: str | int = "90%",
    start: int | None = None,
    max_batch_size: int | None = None,
    multiple_of: int = 1,
    target: int | None = None,
    tolerance: str | float = 0.05,
    precision: str = "fp32",
    compile: bool = False,
    threads: int | None = None,
    max_seconds: str | float | None = None,
    max_trials: int | None = None,
    trial_timeout: str | float = 300.0,
    forecast: bool = True,
    tune_workers: bool = False,
    dataset_size: int | None = None,
    epochs: int | None = None,
    noise: str | float = "auto",
    base_batch_size: int | None = None,
    base_lr: float | None = None,
    warmup_steps: int = 160,
    seed: int = 0,
    output: str | Path | None = None,
    resume: bool = False,
    quiet: bool = False,
    verbose: bool = False,
) -> Result:
    """Find the batch size for live objects, just before training with them.

    They are left as they are, bit for bit: trials run in child processes on copies. Only a model that already
    lives on a GPU is tried where it is, and put back afterwards (`result.isolated` is then False).

    Args:
        model: an `nn.Module`, a compiled Keras model, a LightningModule, or a function that builds one; or a Trainer of
            Hugging Face Transformers, which brings its own data.
        data: a Dataset, a DataLoader (its dataset and `collate_fn` are used), a tensor, a tuple or mapping of
            tensors or arrays whose first dimension is the sample, or a function `batch_size -> batch`.
        targets: tensors or arrays, where `data` holds the inputs alone: short for `data=(inputs, targets)`.
        trainer: a Lightning Trainer, whose precision, gradient clipping and other settings the trials have, too.
        loss: `loss(output, target)`; None where the model returns its own loss.
        optimizer: an Optimizer over the model's parameters, or a function `parameters -> Optimizer`; AdamW
            where it is None.
        collate_fn: makes a batch of a list of samples, as for a DataLoader.
        training_step: a whole step of one's own, `training_step(batch)`.
        inference_step: a forward pass of one's own, `inference_step(batch)`.
        device: "auto" (where the model lives or its Trainer trains, or else the best there is), "cpu", "cuda",
            "cuda:1", "mps".
        mode: "train" or "inference".
        objective: "throughput", "memory", "latency" with `max_latency`, or "time-to-quality".
        max_latency: bound on the 95th percentile of the step time: seconds, or text like "50ms".
        memory_budget: what the training process may use in all: bytes, or text like "8GiB" or "90%" (of what
            is free to it now). There is always one: "100%" is the most.
        start: first batch size to try.
        max_batch_size: nothing above it is tried.
        multiple_of: only multiples of it are tried.
        target: a batch size to answer for in particular, with a plan of accumulation where it does not fit.
        tolerance: the share of the best throughput that may be given up for a smaller batch, or "5%".
        precision: "fp32", or "bf16" or "fp16" by autocast.
        compile: use `torch.compile`.
        threads: torch's threads on CPU; its own default where None.
        max_seconds: stop after so long with the best so far: seconds, or text like "2m". Whatever runs then is ended,
            but for the first trial, which has all of `trial_timeout`; a process that starts is waited for.
        max_trials: stop after so many trials with the best so far, those that confirm the answer or are about the
            target included.
        trial_timeout: bound on one trial: seconds, or text.
        forecast: let a forecast of memory, made without running, guide the search.
        tune_workers: time the DataLoader with several numbers of workers, too; `.num_workers` is then the best.
        dataset_size: samples in an epoch, where the data does not tell.
        epochs: how many are planned, to count the optimizer's steps.
        noise: the gradient noise scale in samples; "auto" trains a copy for a while to measure it, "off" does without.
        base_batch_size: where it is measured, and what the present learning rate suits; the loader's, or else 32.
        base_lr: the learning rate there; the optimizer's own where it is None.
        warmup_steps: how long the copy is trained.
        seed: of weights and batches that are made here.
        output: write the result to this file, with a journal beside it while the probe runs.
        resume: go on from that journal.
        quiet: print no live lines to the standard error stream.
        verbose: show there what the workers print.

    Returns:
        A result whose `batch_size` goes straight into a DataLoader.

    Raises:
        UsageError: an argument is wrong, or the objects can't be copied to another process.
        WorkloadError: the model failed; carries the traceback.
        NothingFitsError: not even the smallest batch size fits.
    """
    from autotune.workloads.live import LiveParts

    parts = LiveParts(
        model=model,
        data=data if targets is None else (data, targets),
        trainer=trainer,
        loss=loss,
        optimizer=optimizer,
        collate_fn=collate_fn,
        training_step=training_step,
        inference_step=inference_step,
        name=_name_of(model),
    )
    home = _device_of(model)
    spec = _spec(
        workload=LiveWorkload(name=parts.name),
        device=_device(str(device), home, parts),
        mode=_choice(Mode, mode, "mode"),
        objective=_choice(Objective, objective, "objective"),
        latency_seconds=_seconds(max_latency),
        budget=_budget(memory_budget),
        start=start,
        max_batch_size=max_batch_size,
        multiple_of=multiple_of,
        target=target,
        tolerance=parse_share(tolerance) if isinstance(tolerance, str) else tolerance,
        precision=_choice(Precision, precision, "precision"),
        compile=compile,
        threads=threads,
        max_seconds=_seconds(max_seconds),
        max_trials=max_trials,
        trial_timeout_seconds=_seconds(trial_timeout),
        forecast=forecast,
        tune_workers=tune_workers,
        dataset_size=dataset_size,
        epochs=epochs,
        noise=parse_noise(noise) if isinstance(noise, str) else noise,
        base_batch_size=base_batch_size,
        base_learning_rate=base_lr,
        warmup_steps=warmup_steps,
        seed=seed,
    )
    listener = Silence() if quiet else _live_lines()
    path = None if output is None else Path(output)
    in_process = home != "cpu" and spec.device == home
    probe_parts = _probe_in_process if in_process else partial(_probe_in_children, verbose=verbose)
    result = probe_parts(spec, parts, listener, path, resume=resume)
    vars(result)[_PARTS] = parts
    return result


_PARTS = "_parts"
"""Where a result keeps the live objects that it is about, beside its fields: neither saved nor compared."""


def verify_result(
    result: Result,
    candidates: int = 3,
    budget: str | float = "20m",
    *,
    epochs: int | None = None,
    quiet: bool = False,
    verbose: bool = False,
    listener: Listener | None = None,
) -> Result:
    """See whether a result's prediction holds. See `Result.verify`.

    Args:
        result: of a file, a class, or of `find_batch_size` in this process.
        candidates: how many batch sizes to train.
        budget: for their training in all: seconds, or text like "20m".
        epochs: how many are planned, where the probe was not told.
        quiet: no live lines, where no listener is given.
        verbose: show on the standard error stream what the workers print.
        listener: is told of each training.

    Raises:
        AutotuneError: see `autotune.errors`.
        KeyboardInterrupt: interrupted before two batch sizes were trained.
    """
    parts: LiveParts | None = vars(result).get(_PARTS)
    if parts is None and isinstance(result.spec.workload, LiveWorkload):
        raise UsageError(
            "This result is about objects of a Python process, which its file does not hold.",
            remedy="Call verify() on the result that find_batch_size() returned.",
        )
    told = listener or (Silence() if quiet else _live_lines())
    seconds = _training_seconds(budget)
    with ExitStack() as stack:
        workload = result.spec.workload if parts is None else stack.enter_context(in_a_file(parts))
        spec = msgspec.structs.replace(result.spec, workload=workload)
        executor = stack.enter_context(ChildExecutor(spec, verbose=verbose))
        stack.callback(told.ended, None)
        told.opening(spec)
        opened = executor.open(dry=True)
        return verify(result, opened, executor, told, count=candidates, budget_seconds=seconds, epochs=epochs)


def _training_seconds(budget: Any) -> float:
    seconds = _seconds(budget)
    if not isinstance(seconds, Real) or not 0 < seconds < TOO_LARGE:
        raise UsageError(f"budget={budget} is no time to train for.", remedy='Give seconds, or text such as "20m".')
    return float(seconds)


def run_estimate(
    spec: ProbeSpec, question: Question, *, told: Callable[[str], None] | None = None, verbose: bool = False
) -> Estimate:
    """Predict the memory of what a spec describes.

    Args:
        spec: the workload and how it is built. Its device is where the model is built: the processor will do.
        question: what is asked.
        told: hears what is being done, in words.
        verbose: copy what the workers print to the standard error stream.

    Raises:
        NoForecastError: the step cannot be followed without data.
        AutotuneError: see `autotune.errors`.
    """
    from autotune.estimate import estimate

    with ChildExecutor(spec, verbose=verbose) as executor:
        return estimate(executor, question, told or (lambda _: None))


def estimate_memory(
    model: Any,
    data: Any,
    *,
    loss: Callable[..., Any] | None = None,
    optimizer: Any = None,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    training_step: Callable[[Any], Any] | None = None,
    inference_step: Callable[[Any], Any] | None = None,
    batch_size: int | Sequence[int] | None = None,
    device: str | Sequence[str] = "cuda",
    memory: str | int | None = None,
    precision: str | Sequence[str] = "fp32",
    checkpointing: bool = False,
    accumulate: int = 1,
    mode: str = "train",
    seed: int = 0,
    verbose: bool = False,
) -> Estimate:
    """Predict the memory of a step of live objects, without running it and without the hardware.

    The objects are left as they are: the forecast is made in a child process, on a copy. Those that already live on
    a GPU are copied to it once more; pass a function that builds the model where there is no room for that.

    Args:
        model: an `nn.Module`, or a function that builds one.
        data: as for `find_batch_size`.
        loss: `loss(output, target)`; None where the model returns its own loss.
        optimizer: an Optimizer over the model's parameters, or a function `parameters -> Optimizer`; AdamW
            where it is None.
        collate_fn: makes a batch of a list of samples, as for a DataLoader.
        training_step: a whole step of one's own, `training_step(batch)`.
        inference_step: a forward pass of one's own, `inference_step(batch)`.
        batch_size: the sizes of interest; every power of two up to the largest that fits where it is None.
        device: "cuda" (any such GPU), "cpu" (this machine's processor), or one or more GPUs such as "A100 40GB".
        memory: what a process may use there: bytes, or text like "24GiB". Where it is None, that of the GPUs
            named; for "cuda" that of the largest known, so that any smaller budget can be asked about; for "cpu"
            what is free here now.
        precision: "fp32", "bf16", "fp16", or several of them.
        checkpointing: each precision also with the model's activation checkpointing.
        accumulate: micro-batches in a step.
        mode: "train" or "inference".
        seed: of weights that are made here.
        verbose: show on the standard error stream what the workers print.

    Returns:
        An estimate: `.peak_bytes(64)`, `.max_batch_size("24GiB")`, `.summary()`.

    Raises:
        UsageError: an argument is wrong, or the objects can't be copied to another process.
        WorkloadError: the model cannot be built; carries the traceback.
        NoForecastError: the step cannot be followed without data.
    """
    from autotune.estimate import Question
    from autotune.workloads.live import LiveParts

    parts = LiveParts(
        model=model,
        data=data,
        loss=loss,
        optimizer=optimizer,
        collate_fn=collate_fn,
        training_step=training_step,
        inference_step=inference_step,
        name=_name_of(model),
    )
    rules = Rules.CPU if device == "cpu" else Rules.CUDA
    question = Question(
        places=_places(device, memory),
        precisions=tuple(_choice(Precision, text, "precision") for text in _several(precision)),
        batch_sizes=() if batch_size is None else tuple(_several(batch_size)),
        most_sizes=None,
        checkpointing=checkpointing,
        accumulation_steps=accumulate,
        mode=_choice(Mode, mode, "mode"),
        rules=rules,
    )
    with in_a_file(parts) as reference:
        home = "cpu" if rules is Rules.CPU else _device_of(model)
        spec = ProbeSpec(
            workload=reference, device=home, mode=question.mode, precision=question.precisions[0], seed=seed
        )
        return run_estimate(spec, question, verbose=verbose)


def _places(device: str | Sequence[str], memory: str | int | None) -> tuple[Place, ...]:
    """Where a step might run. "cuda" alone stands for the GPU with the most memory."""
    from autotune.estimate import card_place, free_here, place_of
    from autotune.forecast.cards import CARDS, find_card

    if memory is not None and device in ("cuda", "cpu"):
        return (place_of(memory, Rules(device)),)
    if memory is not None:
        raise UsageError("memory= is given beside a GPU, which has its own.", remedy='Leave one out, or device="cuda".')
    if device == "cpu":
        return (free_here(),)
    if device == "cuda":
        return (card_place(max(CARDS, key=lambda card: card.total_bytes)),)
    return tuple(card_place(find_card(name)) for name in _several(device))


def _several(value: Item | Sequence[Item]) -> Sequence[Item]:
    """One thing, text among them, or several."""
    return value if isinstance(value, Sequence) and not isinstance(value, str) else cast("Sequence[Item]", (value,))


def _probe_in_process(
    spec: ProbeSpec, parts: LiveParts, listener: Listener, output: Path | None, *, resume: bool
) -> Result:
    from autotune.executors.inprocess import InProcessExecutor

    executor = InProcessExecutor(spec, parts)
    try:
        return _probed(spec, executor, listener, output, resume=resume, command_line=_command_line())
    finally:
        executor.close()


def _probe_in_children(
    spec: ProbeSpec, parts: LiveParts, listener: Listener, output: Path | None, *, resume: bool, verbose: bool
) -> Result:
    from autotune.devices import host

    with in_a_file(parts) as reference:
        worker_spec = msgspec.structs.replace(spec, workload=reference)  # results don't tell where a copy once lay
        held_bytes = host.resident_bytes(os.getpid())  # this process will train, so what it holds is its own
        with ChildExecutor(worker_spec, extra_free_bytes=held_bytes, verbose=verbose) as executor:
            return _probed(spec, executor, listener, output, resume=resume, command_line=_command_line())


@contextmanager
def in_a_file(parts: LiveParts) -> Iterator[PickledWorkload]:
    """A copy of the caller's objects in a file, for other processes, for as long as it is entered.

    Raises:
        UsageError: a part cannot be copied to another process.
    """
    from autotune.workloads.frameworks import adapter_of
    from autotune.workloads.live import pack
    from autotune.workloads.scratch import temporary_folder

    adapter = adapter_of(parts.model)
    environment = adapter.environment() if adapter else {}
    with temporary_folder() as folder:
        path = Path(folder) / "parts.pickle"
        pack(parts, path)
        yield PickledWorkload(path=str(path), search_path=tuple(sys.path), environment=environment, name=parts.name)


def _name_of(model: Any) -> str:
    """What a model is called in reports: by its own class, not by that of a wrapping for several processes."""
    wrapping = type(model).__name__ in ("DistributedDataParallel", "DataParallel")
    named = model.module if wrapping else model
    return str(getattr(named, "__name__", type(named).__name__))


def _device_of(model: Any) -> str:
    """Where a model's parameters live, as torch spells it; "cpu" where that can't be told or a copy must do anyway."""
    from autotune.workloads.frameworks import adapter_of

    if adapter_of(model):  # its state is more than a snapshot of torch's puts back
        return "cpu"
    parameters = getattr(model, "parameters", None)
    first = next(iter(parameters()), None) if callable(parameters) and not isinstance(model, type) else None
    return str(getattr(first, "device", "cpu"))


def _device(asked: str, home: str, parts: LiveParts) -> str:
    """The device to probe on: as asked, or else where the model lives, unless that is a processor, or is trained."""
    from autotune.workloads.frameworks import training_device

    if home != "cpu" and asked in ("auto", home, home.partition(":")[0]):
        return home
    return (training_device(parts) or "auto") if asked == "auto" else asked


def _spec(**fields: Any) -> ProbeSpec:
    """A spec of what a caller gave, whose types nothing has checked yet; NumPy's numbers count as Python's.

    Raises:
        UsageError: one of them is of the wrong type, or contradicts another.
    """
    try:
        return msgspec.convert(msgspec.to_builtins(fields, enc_hook=_plain_number), ProbeSpec)
    except (msgspec.ValidationError, NotImplementedError) as error:
        told, _, field = str(error).partition(" - at `$.")
        name = field.rstrip("`") or "An argument"
        raise UsageError(f"{_ARGUMENTS.get(name, name)} is of the wrong type. {told}.") from error


_ARGUMENTS = {
    "latency_seconds": "max_latency",
    "trial_timeout_seconds": "trial_timeout",
    "base_learning_rate": "base_lr",
}
"""Arguments by the fields of a spec that have another name."""


def _plain_number(value: Any) -> Any:
    if callable(getattr(value, "item", None)):
        return value.item()
    raise NotImplementedError(f"Got {type(value).__name__}")


def _choice(kind: type[Choice], text: str, name: str) -> Choice:
    try:
        return kind(text)
    except ValueError as error:
        accepted = ", ".join(member.value for member in kind)
        raise UsageError(f"{name}={text!r} is not known.", remedy=f"Give one of: {accepted}.") from error


def _seconds(value: str | float | None) -> float | None:
    return parse_duration(value) if isinstance(value, str) else value


def _budget(value: Any) -> MemoryBudget:
    if isinstance(value, str):
        return parse_budget(value)
    is_whole = isinstance(value, Integral) or (isinstance(value, Real) and float(value).is_integer())
    if not is_whole:
        raise UsageError(
            f"memory_budget={value} is no number of bytes.", remedy='Give bytes, or text such as "8GiB" or "80%".'
        )
    return MemoryBudget(bytes_=int(value))


def _live_lines() -> Listener:
    from rich.console import Console

    from autotune.reports.live import Live

    return Live(Console(stderr=True))


def _command_line() -> str:
    return shlex.join([Path(sys.executable).name, *sys.argv])

"""A request run in this process, and whatever it raises turned into an outcome.

Needs a bench. Shared by the worker and by trials in the caller's own process.
"""

from __future__ import annotations

import gc
from typing import Any

from autotune.bench import Bench
from autotune.contest import contest
from autotune.devices.signs import judge
from autotune.errors import AutotuneError, WorkloadError
from autotune.executors import (
    Attempt,
    ContestRequest,
    FeedRequest,
    ForecastRequest,
    GradientsRequest,
    Request,
    TrainRequest,
    TrialRequest,
)
from autotune.feeding import feed
from autotune.gradient_noise import measure_gradients
from autotune.held_out import train
from autotune.measure import measure
from autotune.trial import Evidence, Outcome
from autotune.workloads.tracebacks import one_line, user_traceback


def perform(bench: Bench, request: Request) -> Attempt:
    """Run a request in this process and turn whatever it raises into an outcome, unless a user has interrupted it."""
    attempt: Attempt
    try:
        return Attempt(outcome=Outcome.FITS, **_found(bench, request))
    except (Exception, SystemExit) as error:
        attempt = failed(error)
    gc.collect()  # outside the handler: until it ends, the traceback holds the step's tensors
    return attempt


def _found(bench: Bench, request: Request) -> dict[str, Any]:
    """What the request asks for, by the field of an attempt that holds it."""
    match request:
        case TrialRequest():
            return {"measurement": measure(bench, request)}
        case ContestRequest():
            return {"contest": contest(bench, request)}
        case FeedRequest():
            return {"feeding": feed(bench, request)}
        case GradientsRequest():
            return {"gradients": measure_gradients(bench, request)}
        case TrainRequest():
            return {"curve": train(bench, request)}
        case ForecastRequest():
            from autotune.forecast.answer import answer  # only where it is asked for: it reaches deep into torch

            return {"forecast": answer(bench, request)}


def failed(error: BaseException) -> Attempt:
    """The attempt that an exception makes."""
    outcome = judge(error)
    if isinstance(error, AutotuneError) and outcome is Outcome.FAILED:  # found by us, and said in our words
        text = f"{error.message} {error.remedy}".strip()
        trace = error.user_traceback if isinstance(error, WorkloadError) else ""
    else:
        text, trace = one_line(error), user_traceback(error) if outcome is Outcome.FAILED else ""
    return Attempt(outcome=outcome, evidence=Evidence(source="exception", text=text, user_traceback=trace))

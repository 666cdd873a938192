"""A request run in this process, and whatever it raises turned into an outcome.

Needs a bench. Shared by the worker and by trials in the caller's own process.
"""

from __future__ import annotations

import gc

from autotune.bench import Bench
from autotune.contest import contest
from autotune.devices.signs import judge
from autotune.errors import AutotuneError, WorkloadError
from autotune.executors import Attempt, ContestRequest, FeedRequest, GradientsRequest, Request, TrialRequest
from autotune.feeding import feed
from autotune.gradient_noise import measure_gradients
from autotune.measure import measure
from autotune.trial import Evidence, Outcome
from autotune.workloads.tracebacks import one_line, user_traceback


def perform(bench: Bench, request: Request) -> Attempt:
    """Run a request in this process and turn whatever it raises into an outcome."""
    attempt: Attempt
    try:
        if isinstance(request, ContestRequest):
            return Attempt(outcome=Outcome.FITS, contest=contest(bench, request))
        if isinstance(request, TrialRequest):
            return Attempt(outcome=Outcome.FITS, measurement=measure(bench, request))
        if isinstance(request, FeedRequest):
            return Attempt(outcome=Outcome.FITS, feeding=feed(bench, request))
        if isinstance(request, GradientsRequest):
            return Attempt(outcome=Outcome.FITS, gradients=measure_gradients(bench, request))
        from autotune.forecast.answer import answer  # only where it is asked for: it reaches deep into torch

        return Attempt(outcome=Outcome.FITS, forecast=answer(bench, request))
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        attempt = failed(error)
    gc.collect()  # outside the handler: until it ends, the traceback holds the step's tensors
    return attempt


def failed(error: BaseException) -> Attempt:
    """The attempt that an exception makes."""
    outcome = judge(error)
    if isinstance(error, AutotuneError) and outcome is Outcome.FAILED:  # found by us, and said in our words
        text = f"{error.message} {error.remedy}".strip()
        trace = error.user_traceback if isinstance(error, WorkloadError) else ""
    else:
        text, trace = one_line(error), user_traceback(error) if outcome is Outcome.FAILED else ""
    return Attempt(outcome=outcome, evidence=Evidence(source="exception", text=text, user_traceback=trace))

from __future__ import annotations

import pytest

from autotune.errors import UsageError, WorkloadError
from autotune.workloads.loading import translated
from autotune.workloads.tracebacks import blame, one_line, user_traceback


def users_function():
    try:
        int("x")
    except ValueError as error:
        raise RuntimeError("first line\nsecond line") from error


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (RuntimeError("mat1 and mat2\nmore"), "RuntimeError: mat1 and mat2"),
        (KeyError("x"), "KeyError: 'x'"),
        (AssertionError(), "AssertionError"),
        (ValueError("\n  late"), "ValueError: late"),
    ],
)
def test_one_line(error, text):
    assert one_line(error) == text


def test_a_traceback_keeps_the_users_frames_and_causes_and_none_of_ours():
    with pytest.raises(WorkloadError) as caught, translated("model.py"):
        users_function()
    told = caught.value.user_traceback
    assert "in users_function" in told
    assert "ValueError: invalid literal for int()" in told
    assert "RuntimeError: first line\nsecond line" in told
    assert "autotune/workloads" not in told
    assert caught.value.message == "Loading model.py raised RuntimeError: first line"
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_an_error_of_ours_passes_through():
    with pytest.raises(UsageError, match="as it is"), blame("anything"):
        raise UsageError("as it is")


def test_groups_of_exceptions_are_told_whole():
    error = ExceptionGroup("two", [ValueError("one"), KeyError("other")])
    told = user_traceback(error)
    assert "ValueError: one" in told
    assert "KeyError: 'other'" in told

"""Sizes, durations and shares: what is read, what is refused, and that what is written reads back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import UsageError
from autotune.spec import MemoryBudget
from autotune.units import (
    format_bytes,
    format_count,
    format_rate,
    format_seconds,
    format_share,
    parse_budget,
    parse_bytes,
    parse_duration,
    parse_share,
)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("8GiB", 8 * 1024**3),
        ("8 gb", 8 * 1000**3),
        ("512M", 512 * 1024**2),
        ("512mb", 512 * 1000**2),
        ("1.5GiB", 3 * 1024**3 // 2),
        ("0.3 KB", 300),
        ("0.3K", 307),
        ("1T", 1024**4),
        ("12 B", 12),
        (" 8589934592 ", 8589934592),
    ],
)
def test_sizes_are_read(text: str, size_bytes: int) -> None:
    assert parse_bytes(text) == size_bytes


@pytest.mark.parametrize(
    "text", ["", "GiB", "-1G", "8 GiB of", "8XB", "8iB", "1e9", "0.9", "inf", "1_000", "8,5G", "٣G", "9" * 5000]
)
def test_what_is_no_size_is_refused_with_what_is_accepted(text: str) -> None:
    with pytest.raises(UsageError, match=r"is not a size.\nWrite a number and a unit, such as 8GiB"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("50ms", 0.05),
        ("20m", 1200.0),
        ("20min", 1200.0),
        ("1.5h", 5400.0),
        ("30", 30.0),
        ("0.5", 0.5),
        ("2m30s", 150.0),
        ("2 min 10 s", 130.0),
        ("1d 2H", 93600.0),
        ("250us", 0.00025),
        ("1s500ms", 1.5),
    ],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-5s", "30s2m", "2m2m", "5 parsecs", "1:30", "nan", "1e3", "5 seconds"])
def test_what_is_no_duration_is_refused_with_what_is_accepted(text: str) -> None:
    with pytest.raises(UsageError, match=r"is not a duration.\nWrite a number and a unit, such as 50ms"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "fraction"), [("5%", 0.05), ("0.05", 0.05), ("100 %", 1.0), ("2.5%", 0.025), ("1", 1.0)]
)
def test_shares_are_read(text: str, fraction: float) -> None:
    assert parse_share(text) == fraction


@pytest.mark.parametrize("text", ["5", "", "%", "-5%", "five", "1.1"])
def test_a_share_that_may_mean_two_things_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"is not a share.\nWrite a percentage such as 5%"):
        parse_share(text)


def test_a_budget_is_a_share_or_a_size() -> None:
    assert parse_budget("90%") == MemoryBudget(fraction=0.9)
    assert parse_budget("8GiB") == MemoryBudget(bytes_=8 * 1024**3)
    with pytest.raises(UsageError, match=r"'0.9' is not a memory budget.\nWrite a size such as 8GiB, or a share"):
        parse_budget("0.9")


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (1629345678, "1.52 GiB"),
        (1024**3 - 1, "1.00 GiB"),
        (1000 * 1024**2, "1000 MiB"),
        (80 * 1024**3, "80.0 GiB"),
        (5000 * 1024**5, "5000 PiB"),
    ],
)
def test_sizes_are_written_with_three_digits(size_bytes: int, text: str) -> None:
    assert format_bytes(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (2.5e-6, "2.50 µs"),
        (0.0032, "3.20 ms"),
        (0.99949, "999 ms"),
        (0.9996, "1.00 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min"),
        (130, "2 min 10 s"),
        (3599.7, "1 h"),
        (4980, "1 h 23 min"),
        (86399, "1 d"),
        (100 * 86400 + 7200, "100 d 2 h"),
    ],
)
def test_durations_are_written_in_the_units_people_use(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_rates_counts_and_shares_are_written_short() -> None:
    assert [format_rate(rate) for rate in (12340.4, 99.96, 3.214, 0.04567)] == [
        "12,340 samples/s",
        "100 samples/s",
        "3.21 samples/s",
        "0.0457 samples/s",
    ]
    assert format_count(50000) == "50,000"
    assert [format_share(share) for share in (0, 0.0123, 0.0996, 0.19, 1.04, -0.03)] == [
        "0%",
        "1.2%",
        "10%",
        "19%",
        "104%",
        "-3.0%",
    ]


@given(st.integers(0, 1024**6))
def test_a_size_that_was_written_reads_back(size_bytes: int) -> None:
    assert parse_bytes(format_bytes(size_bytes)) == pytest.approx(size_bytes, rel=0.006)


@given(st.integers(0, 10**18 - 1))
def test_plain_bytes_are_exact(size_bytes: int) -> None:
    assert parse_bytes(str(size_bytes)) == size_bytes


@given(st.floats(1e-6, 1e7))
def test_a_duration_that_was_written_reads_back(seconds: float) -> None:
    assert parse_duration(format_seconds(seconds)) == pytest.approx(seconds, rel=0.03)


@given(st.floats(0, 1))
def test_a_share_that_was_written_reads_back(fraction: float) -> None:
    assert parse_share(format_share(fraction)) == pytest.approx(fraction, abs=0.0051)


@given(st.text(max_size=12))
def test_any_text_is_read_or_refused_with_a_usage_error(text: str) -> None:
    for parse in (parse_bytes, parse_duration, parse_share, parse_budget):
        try:
            parse(text)
        except UsageError as error:
            assert error.remedy

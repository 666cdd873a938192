"""Sizes, durations and shares between text and numbers: strict when read, short when written.

Needs the errors. Promises that what is written here reads back as the same value to three digits, and that
text which might mean two things is refused with one line that says what is accepted.

Libraries were weighed: humanfriendly reads "8 GB of" and takes 512M for powers of 1000, bitmath knows neither
bare letters nor plain numbers, pytimeparse2 answers None for what it can't read, humanize only writes.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

from autotune.errors import UsageError

if TYPE_CHECKING:
    from autotune.spec import MemoryBudget

_NUMBER = r"[0-9]{1,18}(?:\.[0-9]{1,9})?"  # bounded, so that no text can make an endless number
_SIZE = re.compile(rf"({_NUMBER})\s*([a-z]*)", re.IGNORECASE)
_DURATION_UNITS = (
    ("d", Fraction(86400)),
    ("h", Fraction(3600)),
    ("m(?:in)?", Fraction(60)),
    ("s", Fraction(1)),
    ("ms", Fraction(1, 10**3)),
    ("[uµ]s", Fraction(1, 10**6)),
)
_DURATION = re.compile(
    r"\s*".join(rf"(?:({_NUMBER})\s*{unit}(?![a-z]))?" for unit, _ in _DURATION_UNITS), re.IGNORECASE
)
_SHARE = re.compile(rf"({_NUMBER})\s*(%?)")

_BINARY = {letter: 1024**power for power, letter in enumerate("KMGTP", start=1)}
_DECIMAL = {letter: 1000**power for power, letter in enumerate("KMGTP", start=1)}
_BYTES_PER_UNIT: dict[str, int] = {
    "": 1,
    "B": 1,
    **_BINARY,
    **{f"{letter}IB": size for letter, size in _BINARY.items()},
    **{f"{letter}B": size for letter, size in _DECIMAL.items()},
}


def parse_bytes(text: str) -> int:
    """Bytes from "8GiB", "8 gb", "512M" or "8589934592", in any case, rounded down to whole bytes.

    KiB, MiB, GiB, TiB and PiB are powers of 1024; KB, MB, GB, TB and PB are powers of 1000 (IEC 80000-13). A
    bare K, M, G, T or P is a power of 1024, which is what people mean by it where memory is concerned.

    Raises:
        UsageError: the text is no size.
    """
    match = _SIZE.fullmatch(text.strip())
    unit = match[2].upper() if match else ""
    if match is None or unit not in _BYTES_PER_UNIT or (not unit and "." in match[1]):
        raise UsageError(
            f"{text!r} is not a size.", remedy="Write a number and a unit, such as 8GiB or 512MB, or whole bytes."
        )
    return int(Fraction(match[1]) * _BYTES_PER_UNIT[unit])


def parse_budget(text: str) -> MemoryBudget:
    """A memory budget from "90%" of the free memory, or from a size such as "8GiB".

    Raises:
        UsageError: the text is neither.
    """
    from autotune.spec import MemoryBudget  # brings msgspec, which `--help` does not need

    if text.strip().endswith("%"):
        return MemoryBudget(fraction=parse_share(text))
    try:
        return MemoryBudget(bytes_=parse_bytes(text))
    except UsageError as error:
        raise UsageError(
            f"{text!r} is not a memory budget.", remedy="Write a size such as 8GiB, or a share such as 90%."
        ) from error


def parse_duration(text: str) -> float:
    """Seconds from "50ms", "20m", "1.5h", "2m30s", or from a plain number of seconds.

    Units are d, h, m (or min), s, ms and us, from the longest to the shortest, each at most once.

    Raises:
        UsageError: the text is no duration.
    """
    stripped = text.strip()
    if re.fullmatch(_NUMBER, stripped):
        return float(stripped)
    match = _DURATION.fullmatch(stripped)
    if match is None or not stripped:
        raise UsageError(
            f"{text!r} is not a duration.", remedy="Write a number and a unit, such as 50ms, 30s, 20m, 1.5h or 2m30s."
        )
    parts = zip(match.groups(default="0"), _DURATION_UNITS, strict=True)
    return float(sum(Fraction(number) * seconds for number, (_, seconds) in parts))


def parse_share(text: str) -> float:
    """A fraction from "5%" or "0.05". A plain number over 1 is refused: 5 may well be meant as 5%.

    Raises:
        UsageError: the text is no share.
    """
    match = _SHARE.fullmatch(text.strip())
    if match is None or (not match[2] and Fraction(match[1]) > 1):
        raise UsageError(f"{text!r} is not a share.", remedy="Write a percentage such as 5%, or a fraction like 0.05.")
    return float(Fraction(match[1]) / (100 if match[2] else 1))


def format_bytes(size_bytes: float) -> str:
    """Three digits and a binary unit: "1.52 GiB", "1023 MiB", "512 B"."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if round(value) < 1024:  # the step between binary units
            return f"{value:.0f} B" if unit == "B" else f"{_three_digits(value)} {unit}"
        value /= 1024
    return f"{_three_digits(value)} PiB"


def format_seconds(seconds: float, *, compact: bool = False) -> str:
    """Three digits below a minute ("3.20 ms"), then the two largest units ("2 min 10 s", or compact "2m 10s")."""
    if seconds < 59.95:  # from here three digits would read 60.0 s
        return _format_short(seconds)
    for limit, large, large_unit, small, small_unit in _LONG_UNITS:
        whole, rest = divmod(round(seconds / small), large // small)
        if whole * large < limit:
            parts = [(whole, large_unit), (rest, small_unit)] if rest else [(whole, large_unit)]
            return " ".join(f"{count}{unit[0]}" if compact else f"{count} {unit}" for count, unit in parts)
    raise AssertionError("the last unit has no limit")


_LONG_UNITS = ((3600, 60, "min", 1, "s"), (86400, 3600, "h", 60, "min"), (math.inf, 86400, "d", 3600, "h"))


def _format_short(seconds: float) -> str:
    if seconds == 0:
        return "0 s"
    for factor, unit in ((1, "s"), (1e3, "ms")):
        if seconds * factor >= 0.9995:  # three digits of it round to 1.00
            return f"{_three_digits(seconds * factor)} {unit}"
    return f"{_three_digits(seconds * 1e6)} µs"


def format_rate(samples_per_second: float) -> str:
    """Samples per second, whole from a hundred on: "12,340 samples/s", "3.21 samples/s"."""
    return f"{format_number(samples_per_second)} samples/s"


def format_number(value: float) -> str:
    """Three digits, and whole with thousands set apart from a hundred on: "12,340", "32.1"."""
    return f"{value:.3g}" if value < 1 else _three_digits(value, thousands=",")


def format_count(count: int) -> str:
    """A whole number with its thousands set apart: "50,000"."""
    return f"{count:,}"


def format_share(fraction: float) -> str:
    """A percentage: whole from ten on, else with one decimal: "19%", "1.2%", "0%"."""
    percent = fraction * 100
    return f"{percent:.0f}%" if percent == 0 or abs(percent) >= 9.95 else f"{percent:.1f}%"


def _three_digits(value: float, thousands: str = "") -> str:
    decimals = 2 if value < 9.995 else 1 if value < 99.95 else 0  # where rounding adds a digit
    return f"{value:{thousands}.{decimals}f}"


def parse_noise(text: str) -> float | Literal["auto", "off"]:
    """A gradient noise scale in samples, or what to do instead.

    Raises:
        UsageError: it is neither "auto" nor "off" nor a number.
    """
    match text:
        case "auto" | "off":
            return text
    try:
        return float(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is no noise scale.", remedy="Give auto, off, or a number of samples.") from error

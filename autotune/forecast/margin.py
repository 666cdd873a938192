"""How far a forecast may be off. One constant, so that it is measured in one place and used everywhere."""

from __future__ import annotations

MARGIN_SHARE = 0.05
"""The 95% quantile of |predicted - measured| / measured over the peaks of `benchmarks/forecast.py`, as a share."""

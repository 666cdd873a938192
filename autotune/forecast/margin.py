"""How far a forecast may be off. Here alone, so that it is measured in one place and used everywhere."""

from __future__ import annotations

from autotune.forecast.records import Rules

MARGIN_SHARES = {Rules.CPU: 0.07, Rules.CUDA: 0.05}
"""By whose memory it is, the share of a predicted peak that is added before it counts as fitting.

For the processor: the 95% quantile of |predicted - measured| / measured over the peaks of processes in
`benchmarks/forecast.py` (benchmarks/results/forecast-fp32-cpu.json and forecast-bf16-cpu.json, whichever is higher),
rounded up to a whole per cent.

For CUDA no such table has been measured yet. By what the allocator is forecast to reserve, four published maxima of a
GPT are met, or passed by one batch in 28 and one in 64, which is 1.6 to 3.5% of the memory; this is that, rounded up
with some room. With it none is passed: 13, 27, 27 and 62 are said to fit where 13, 28, 27 and 64 do.
"""

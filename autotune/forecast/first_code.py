"""The code that a first step brings into a process: mapped files, of which a page counts once something ran there.

Needs torch. How much it is depends on how torch was built: 12 MiB with its build for processors, 24 with that for CUDA
13 (both 2.13), 7.5 with 2.6. A process that has not run a step can't tell, so it runs a small one. What steps of small
real models then added was 1 to 4 MiB, with any of these; what oneDNN adds is in `compiled`.
"""

from __future__ import annotations

import torch
from torch.nn import functional

SAMPLES, FEATURES = 8, 64


def run_some(*, training: bool) -> None:
    """Run what most models run, on little data; the random state stays as it is.

    Args:
        training: run it backward, too, and what AdamW does with the gradients. An optimizer itself would import as
            much of torch again, which a caller that has none never does.
    """
    data = torch.ones(SAMPLES, FEATURES)
    weight = torch.ones(FEATURES, FEATURES, requires_grad=training)
    output = functional.gelu(functional.layer_norm(functional.linear(data, weight), (FEATURES,)))
    loss = functional.cross_entropy(output, torch.zeros(SAMPLES, dtype=torch.int64))
    if training:
        (gradient,) = torch.autograd.grad(loss, weight)
        _update(weight.detach(), gradient)


def _update(weight: torch.Tensor, gradient: torch.Tensor) -> None:
    average, square = torch.zeros_like(weight), torch.zeros_like(weight)
    average.lerp_(gradient, 0.1)
    square.mul_(0.99).addcmul_(gradient, gradient, value=0.01)
    weight.addcdiv_(average, square.sqrt().add_(1e-8), value=-1e-3)

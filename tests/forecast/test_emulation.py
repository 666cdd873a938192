from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.optimizer import _foreach_supported_types
from torch.overrides import TorchFunctionMode

from autotune.forecast import cuda_autocast
from autotune.forecast.cuda_kernels import CUDA_TRANSIENTS, EFFICIENT_NOTE, FLASH_NOTE, MATH_NOTE
from autotune.forecast.emulation import CONVOLUTION_NOTE, RECURRENT_NOTE, cuda_on_cpu, replacements
from autotune.forecast.records import Rules
from autotune.forecast.tracker import ByteTracker, Owner

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="with CUDA nothing is emulated")


@contextmanager
def emulated() -> Iterator[list[str]]:
    with cuda_on_cpu() as notes, FakeTensorMode(allow_non_fake_inputs=True):
        yield notes


# What is undone


def traces() -> list[object]:
    """Everything that is changed meanwhile: attributes by identity, kernels as the dispatcher tells of them."""
    attributes = [getattr(owner, name) for owner, name, _ in replacements(TorchFunctionMode())]
    names = ("softmax.int", "layer_norm", "cross_entropy_loss", "dropout", "scaled_dot_product_attention", "rms_norm")
    kernels = [torch._C._dispatch_dump(f"aten::{name}") for name in names]
    return [*attributes, *kernels, torch.overrides._get_current_function_mode_stack()]


def test_all_is_as_before_afterwards() -> None:
    before = traces()
    for _ in range(2):
        with cuda_on_cpu():
            changed = traces()
        assert all(now is then or now == then for now, then in zip(traces(), before, strict=True))
    assert all(now != then for now, then in zip(changed, before, strict=True))


def test_all_is_as_before_after_an_exception() -> None:
    before = traces()
    with pytest.raises(ZeroDivisionError), emulated():
        functional.softmax(torch.ones(2, device="cuda"), 0)
        raise ZeroDivisionError
    assert all(now is then or now == then for now, then in zip(traces(), before, strict=True))


def test_values_are_computed_as_ever_afterwards() -> None:
    x = torch.arange(6.0).reshape(2, 3)
    expected = functional.softmax(x, -1), functional.scaled_dot_product_attention(x, x, x)
    with cuda_on_cpu():
        pass
    assert torch.equal(functional.softmax(x, -1), expected[0])
    assert torch.equal(functional.scaled_dot_product_attention(x, x, x), expected[1])
    with torch.autocast("cpu"):
        assert torch.cat([x.bfloat16(), x]).dtype is torch.float32
        assert functional.softmax(x.bfloat16(), -1).dtype is torch.bfloat16


# Autocast


def test_the_lists_are_those_of_the_installed_torch() -> None:
    header = (Path(torch.__file__).parent / "include/ATen/autocast_mode.h").read_text()

    def listed(macro: str) -> set[str]:
        body = re.search(rf"#define {macro}\(_\)((?:.*\\\n)*.*\n)", header)
        assert body is not None
        found = {".".join(filter(None, names)) for names in re.findall(r"_\((\w+)(?:, (\w+))?\)", body[1])}
        return {name for name in found if not is_of_named(name)}

    def is_of_named(name: str) -> bool:
        """Whether it takes the names of dimensions, as operators did up to 2.12; these were cast alike."""
        return "imname" in name or "norm.names_" in name

    cudnn = {"cudnn_convolution", "cudnn_convolution_transpose", "_cudnn_rnn"}
    unlisted = {"binary_cross_entropy", "linalg_matrix_sqrth"}  # the first of them is refused on CUDA
    # older releases know fewer operators
    assert {"matmul", "linear"} < listed("AT_FORALL_LOWER_PRECISION_FP") <= cuda_autocast.LOWER_PRECISION - cudnn
    assert {"softmax.int", "sum"} < listed("AT_FORALL_FP32_SET_OPT_DTYPE") <= cuda_autocast.FP32_RESULT
    assert {"dot", "bilinear"} < listed("AT_FORALL_PROMOTE") <= cuda_autocast.PROMOTE
    others = cuda_autocast.LOWER_PRECISION | cuda_autocast.FP32_RESULT | cuda_autocast.PROMOTE
    rest = cuda_autocast._registered("AutocastCUDA") - others - cuda_autocast.FP32_NORM.keys()
    assert {name for name in rest - unlisted if not is_of_named(name)} == listed("AT_FORALL_FP32")


RMS_NORM = torch.float32 if "rms_norm" in cuda_autocast._registered("AutocastCUDA") else torch.float16
"""It is on no list of 2.11."""

AUTOCAST: list[tuple[Callable[..., Any], torch.dtype]] = [
    (lambda x: x @ x, torch.float16),
    (lambda x: functional.linear(x, x), torch.float16),
    (lambda x: torch.einsum("ij,jk->ik", x, x), torch.float16),
    (lambda x: functional.prelu(x, x[0, :1]), torch.float16),
    (lambda x: functional.relu(x @ x), torch.float16),
    (lambda x: functional.gelu(x @ x), torch.float16),
    (lambda x: functional.softmax(x @ x, -1), torch.float32),
    (lambda x: functional.log_softmax(x @ x, -1), torch.float32),
    (lambda x: functional.layer_norm(x @ x, (8,)), torch.float32),
    (lambda x: torch.nn.LayerNorm(8)(x @ x), torch.float32),
    (lambda x: functional.rms_norm(x @ x, (8,)), RMS_NORM),
    (lambda x: functional.cross_entropy(x @ x, torch.zeros(8, dtype=torch.long)), torch.float32),
    (lambda x: functional.mse_loss(x @ x, x), torch.float32),
    (lambda x: (x @ x).sum(), torch.float32),
    (lambda x: (x @ x).norm(), torch.float32),
    (lambda x: (x @ x).norm(2, -1, keepdim=True), torch.float32),
    (lambda x: torch.cumsum(x @ x, 0), torch.float32),
    (lambda x: torch.softmax(x @ x, -1, dtype=torch.float64), torch.float64),
    (lambda x: (x @ x).exp(), torch.float32),
    (lambda x: (x @ x).pow(3), torch.float32),
    (lambda x: torch.addcmul(x @ x, x @ x, x), torch.float32),
    (lambda x: torch.addcmul(x @ x, x @ x, x @ x), torch.float16),
    (lambda x: (x @ x).double().exp(), torch.float64),
]


@pytest.mark.parametrize(("function", "dtype"), AUTOCAST)
def test_autocast_gives_the_types_of_cudas_lists(function: Callable[..., Any], dtype: torch.dtype) -> None:
    with emulated(), torch.autocast("cuda"):
        assert function(torch.ones(8, 8, device="cuda")).dtype is dtype


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_autocast_does_so_without_gradients(context: Callable[[], Any]) -> None:
    with emulated(), context(), torch.autocast("cuda", torch.bfloat16):
        x = torch.ones(8, 8, device="cuda")
        assert (x @ x).dtype is torch.bfloat16
        assert functional.layer_norm(x @ x, (8,)).dtype is torch.float32


def test_autocast_of_cuda_is_seen_as_such_by_user_code() -> None:
    with emulated(), torch.autocast("cuda", torch.bfloat16):
        assert torch.is_autocast_enabled()
        assert torch.is_autocast_enabled("cuda")
        assert torch.get_autocast_dtype("cuda") is torch.bfloat16
    assert not torch.is_autocast_enabled("cpu")


# Kernels


def kept_bytes(function: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype, *shape: int) -> int:
    """What a function's result keeps alive, the input aside."""
    x = torch.ones(*shape, dtype=dtype, requires_grad=True)
    with ByteTracker(Rules.CUDA) as tracker:
        tracker.give([x], owner=None)  # type: ignore[arg-type]
        before = tracker.live_bytes
        _result = function(x)
        return tracker.live_bytes - before


ELEMENTS = 1 << 20


def test_dropout_keeps_a_mask_of_one_byte_an_element() -> None:
    with emulated():
        assert kept_bytes(lambda x: functional.dropout(x, 0.1), torch.float32, ELEMENTS) == (4 + 1) * ELEMENTS
        assert kept_bytes(lambda x: functional.dropout(x, 0.1, False), torch.float32, ELEMENTS) == 0


def test_softmax_copies_bfloat16_but_not_fp16() -> None:
    def peak(dtype: torch.dtype) -> int:
        x = torch.ones(1024, 1024, dtype=dtype)
        with ByteTracker(Rules.CUDA) as tracker, torch.autocast("cuda", dtype):
            functional.softmax(x, -1)
        return max(tracker.phase_peak_bytes.values())

    with emulated():
        assert peak(torch.float16) == (2 + 4) * ELEMENTS
        assert peak(torch.bfloat16) == (2 + 4 + 4) * ELEMENTS


def test_rms_norm_is_one_kernel_that_keeps_a_number_for_each_row() -> None:
    with emulated():
        assert kept_bytes(lambda x: functional.rms_norm(x, (1024,)), torch.float32, 1024, 1024) == 4 * (ELEMENTS + 1024)
        module, x = torch.nn.RMSNorm(64), torch.ones(4, 64, requires_grad=True)
        module(x).sum().backward()
        assert (module.weight.grad.shape, x.grad.shape) == (module.weight.shape, x.shape)


def qkv(
    dtype: torch.dtype, heads: int = 4, length: int = 256, head: int = 64, key_heads: int = 4
) -> list[torch.Tensor]:
    shapes = (2, heads, length, head), (2, key_heads, length, head), (2, key_heads, length, head)
    return [torch.ones(shape, dtype=dtype, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize(
    ("dtype", "sizes", "options", "note"),
    [
        (torch.float16, {}, {"is_causal": True}, FLASH_NOTE),
        (torch.bfloat16, {"head": 60}, {}, FLASH_NOTE),  # padded to 64
        (torch.bfloat16, {"key_heads": 2}, {"enable_gqa": True}, FLASH_NOTE),
        (torch.bfloat16, {"head": 264}, {}, EFFICIENT_NOTE),
        (torch.float32, {}, {"is_causal": True}, EFFICIENT_NOTE),
        (torch.bfloat16, {}, {"attn_mask": torch.ones(256, 256, dtype=torch.bool)}, EFFICIENT_NOTE),
        (torch.float32, {"length": 250}, {"attn_mask": torch.zeros(250, 250)}, EFFICIENT_NOTE),
        (torch.float32, {"head": 62}, {}, MATH_NOTE),
        (torch.float32, {"key_heads": 2}, {"enable_gqa": True}, MATH_NOTE),
        (torch.float64, {}, {}, MATH_NOTE),
    ],
)
def test_attention_runs_the_kernel_that_cuda_would_choose_and_notes_it(
    dtype: torch.dtype, sizes: dict[str, int], options: dict[str, Any], note: str
) -> None:
    with emulated() as notes:
        inputs = qkv(dtype, **sizes)
        out = functional.scaled_dot_product_attention(*inputs, **options)
        assert out.shape == inputs[0].shape
        out.sum().backward()
        assert all(tensor.grad.shape == tensor.shape for tensor in inputs)
    assert notes == [note]


def born_bytes(bias: torch.Tensor) -> list[int]:
    """The sizes of what attention with a bias makes, results of its kernel included."""
    inputs = qkv(bias.dtype, length=bias.shape[-1])
    with ByteTracker(Rules.CUDA) as tracker, torch.no_grad():
        tracker.give([*inputs, bias], Owner.PARAMETERS)
        before = len(tracker.events)
        functional.scaled_dot_product_attention(*inputs, attn_mask=bias)
        return [event.size_bytes for event in tracker.events[before:] if event.size_bytes > 0]


def test_a_bias_is_copied_only_where_its_rows_are_not_aligned() -> None:
    with emulated():
        aligned = born_bytes(torch.zeros(256, 256))
        assert born_bytes(torch.zeros(1, 256)).count(256 * 4) == 0
        assert born_bytes(torch.zeros(2, 1, 256, 256)) == aligned
        assert 256 * 256 * 4 not in aligned
        assert 250 * 256 * 4 in born_bytes(torch.zeros(250, 250))
        assert 256 * 264 * 4 in born_bytes(torch.zeros(256, 256).t())  # by a whole eight, though 256 is a multiple


def test_the_kernels_that_the_user_allows_are_heeded() -> None:
    with emulated() as notes, sdpa_kernel(SDPBackend.MATH):
        functional.scaled_dot_product_attention(*qkv(torch.float16))
    assert notes == [MATH_NOTE]


def test_flash_attention_keeps_no_scores_and_takes_its_workspace_meanwhile() -> None:
    def peak(**transients: Any) -> int:
        with ByteTracker(Rules.CUDA, **transients) as tracker:
            functional.scaled_dot_product_attention(*qkv(torch.float16, length=4096)).sum().backward()
        return tracker.peak.total_bytes

    with emulated():
        tensor = 2 * 2 * 4 * 4096 * 64  # bytes of a query in fp16
        workspace = 4 * 2 * 4 * 4096 * (64 + 1)  # dq in fp32, and a number for each query
        assert peak() < 12 * tensor < 2 * 2 * 4 * 4096**2
        assert peak(transients=CUDA_TRANSIENTS) == peak() + workspace


def test_foreach_optimizers_make_their_temporaries() -> None:
    def peak(foreach: bool | None) -> int:
        _foreach_supported_types.append(FakeTensor)  # as a fake world does
        try:
            parameters = [torch.ones(ELEMENTS, requires_grad=True) for _ in range(8)]
            optimizer = torch.optim.AdamW(parameters, foreach=foreach)
            for parameter in parameters:
                parameter.grad = torch.ones(ELEMENTS)
            with ByteTracker(Rules.CUDA) as tracker:
                optimizer.step()
            return tracker.peak.total_bytes
        finally:
            _foreach_supported_types.remove(FakeTensor)

    with emulated():
        assert peak(None) == peak(True) > peak(False) + 4 * 4 * ELEMENTS  # of 8 parameters, not 3


# The user's code


def test_cuda_in_user_code_means_the_cpu() -> None:
    with emulated():
        made = [
            torch.zeros(2, device="cuda"),
            torch.arange(3, device=torch.device("cuda", 1)),
            torch.ones(2).cuda(),
            torch.ones(2).to("cuda:0", non_blocking=True),
            torch.ones(2).to(device="cuda", dtype=torch.float16),
            torch.tensor([1.0], device="cuda"),
            torch.nn.Linear(4, 4, device="cuda:0").weight,
        ]
        with torch.device("cuda"):
            made.append(torch.empty(2))
        torch.cuda.synchronize()
        assert {tensor.device.type for tensor in made} == {"cpu"}
        assert made[4].dtype is torch.float16


def test_code_that_a_checkpoint_runs_again_may_name_cuda() -> None:
    def block(x: torch.Tensor) -> torch.Tensor:
        return x * torch.ones(4, device="cuda")

    with emulated():
        x = torch.ones(4, requires_grad=True)
        torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False).sum().backward()
        assert x.grad.shape == (4,)


def test_a_gradient_scaler_of_cuda_scales_without_a_warning() -> None:
    with warnings.catch_warnings(), emulated():
        warnings.simplefilter("error")
        for scaler in (torch.amp.GradScaler("cuda"), torch.amp.GradScaler()):
            assert scaler.is_enabled()
            loss = torch.ones((), requires_grad=True)
            assert scaler.scale(loss).shape == ()


def test_what_is_unlike_a_gpu_is_noted_once() -> None:
    with emulated() as notes:
        for _ in range(2):
            torch.nn.Conv2d(3, 4, 3)(torch.ones(1, 3, 8, 8))
        torch.nn.LSTM(4, 4)(torch.ones(2, 1, 4))
    assert notes == [CONVOLUTION_NOTE, RECURRENT_NOTE]

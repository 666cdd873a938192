"""What each error means: raised for real in real processes where this machine can, by its recorded text elsewhere.

The recorded texts are whole messages as the frameworks print them, so that a row proves to know the real thing.
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.version import Version

from autotune.devices import linux_process as linux
from autotune.devices.signs import DYING_WORDS, SIGNS, Sign, judge, judge_exit
from autotune.trial import Outcome

on_linux = pytest.mark.skipif(not linux.IS_LINUX, reason="limits are Linux's")

PRELUDE = """
import mmap, os, resource, sys, threading
from autotune.devices import linux_process as linux
from autotune.devices.signs import judge

def limit(mib, kind=resource.RLIMIT_DATA):
    fields = {line.split(':')[0]: line.split() for line in open('/proc/self/status')}
    now = int(fields['VmSize' if kind == resource.RLIMIT_AS else 'VmData'][1]) * 1024
    resource.setrlimit(kind, (now + int(mib * 2**20), resource.RLIM_INFINITY))

def judged(work):
    try:
        work()
    except BaseException as error:
        print(judge(error).value, '|', type(error).__name__, '|', str(error).replace(chr(10), ' ')[:400])
    else:
        print('nothing was raised')
"""

REAL = {
    "torch's allocator": (
        "import torch; limit(64); judged(lambda: torch.empty(2**30))",
        "DefaultCPUAllocator: can't allocate memory",
    ),
    "NumPy": ("import numpy as np; limit(64); judged(lambda: np.ones(2**27))", "Unable to allocate 1.00 GiB"),
    "Python": ("limit(16); judged(lambda: bytearray(2**28))", "MemoryError"),
    "a stack for a thread": (
        "threading.stack_size(2**28); limit(16); judged(lambda: threading.Thread(target=print).start())",
        "can't start new thread",
    ),
    "an errno": ("judged(lambda: mmap.mmap(-1, 2**46))", r"\[Errno 12\]"),
    "an import": (
        "limit(4, resource.RLIMIT_AS); judged(lambda: __import__('numpy'))",
        "ImportError",  # whose text is NumPy's own, around that of the dynamic loader
    ),
    "a mapped file": (
        "import torch; path = sys.argv[1]; limit(64, resource.RLIMIT_AS)\n"
        "judged(lambda: torch.from_file(path, shared=True, size=2**28))",
        "unable to mmap",
    ),
    "std::bad_alloc in torch": (
        "import torch; many = [torch.ones(1)] * 10**7; limit(3); judged(lambda: torch.cat(many))",
        "std::bad_alloc",
    ),
    "oneDNN, or what it allocates with": (  # that has changed with torch's releases
        "import torch; torch.set_num_threads(1); x = torch.ones(4, 16, 12, 12); w = torch.ones(16, 16, 3, 3)\n"
        "limit(1 / 16); judged(lambda: torch.nn.functional.conv2d(x, w))",
        "could not create a primitive|std::bad_alloc",
    ),
    "more bytes than can be counted": (
        "import torch; judged(lambda: torch.empty(2**61, 8))",
        "Storage size calculation overflowed",
    ),
}


def run(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PRELUDE + code, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **environment},
    )


@on_linux
@pytest.mark.parametrize("name", REAL)
def test_real_shortage_of_memory(name: str, tmp_path: Path) -> None:
    code, text = REAL[name]
    big_file = tmp_path / "big"
    with big_file.open("wb") as file:
        file.truncate(2**30)  # sparse
    done = run(code, str(big_file))
    assert done.stdout.startswith("out of memory |"), done.stdout + done.stderr
    assert re.search(text, done.stdout)


LOADER = """
import torch.utils.data as data

class Samples(data.Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, index):
        {body}

if __name__ == '__main__':
    judged(lambda: list(data.DataLoader(Samples(), num_workers=1)))
"""


@on_linux
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return bytearray(2**50)", "out of memory | MemoryError | Caught MemoryError in DataLoader worker process 0"),
        ("os.kill(os.getpid(), 9)", "out of memory | RuntimeError | DataLoader worker (pid"),
        ("raise KeyError('label')", "failed | KeyError | Caught KeyError in DataLoader worker process 0"),
    ],
)
def test_real_loader_workers(body: str, said: str) -> None:
    done = run(LOADER.format(body=body))
    assert done.stdout.startswith(said), done.stdout + done.stderr


@pytest.mark.skipif(Version(version("torch")) >= Version("2.14"), reason="quantile has no limit there")
def test_a_real_limit_of_a_real_kernel() -> None:
    done = run("import torch; judged(lambda: torch.zeros(2**24 + 1).quantile(0.5))")
    assert done.stdout.startswith("kernel limit | RuntimeError | quantile() input tensor is too large")


@on_linux
def test_the_last_words_of_a_real_process_without_memory_for_threads() -> None:
    code = "import torch; x = torch.empty(2**22); torch.set_num_threads(2); limit(64); x.mul_(2); print('survived')"
    done = run(code, OMP_STACKSIZE="1G")
    assert done.returncode != 0, done.stdout
    assert judge_exit(done.stderr) is Outcome.OUT_OF_MEMORY, done.stderr


@on_linux
def test_the_last_words_of_a_real_uncaught_bad_alloc() -> None:
    code = "import ctypes; ctypes.CDLL('libstdc++.so.6')._ZSt17__throw_bad_allocv()"
    done = run(code)
    assert done.returncode < 0, done.stdout
    assert judge_exit(done.stderr) is Outcome.OUT_OF_MEMORY, done.stderr


@on_linux
def test_the_last_words_of_a_real_uncaught_memory_error() -> None:
    done = run("limit(16); bytearray(2**28)")
    assert done.returncode == 1
    assert judge_exit(done.stderr) is Outcome.OUT_OF_MEMORY, done.stderr


def test_the_last_words_of_a_real_crash_are_no_sign() -> None:
    done = run("import faulthandler; faulthandler._sigsegv()")
    assert judge_exit(done.stderr) is None
    assert judge_exit("") is None


# ---------------------------------------------------------------------- recorded

OOM = Outcome.OUT_OF_MEMORY
LIMIT = Outcome.KERNEL_LIMIT

RECORDED = [
    (OOM, "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
          "allocate 4294967296 bytes. Error code 12 (Cannot allocate memory)"),
    (OOM, "[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried to allocate "
          "8589934592 bytes."),
    (OOM, "std::bad_alloc"),
    (OOM, "Storage size calculation overflowed with sizes=[2305843009213693952, 8]"),
    (OOM, "could not create a primitive"),
    (OOM, "could not execute a primitive"),
    (OOM, "could not create a memory object"),
    (OOM, "can't start new thread"),
    (OOM, "/lib/libgomp.so.1: failed to map segment from shared object"),
    (OOM, "unable to mmap 536870912 bytes from file </torch_4650_420442964_0>: Cannot allocate memory (12)"),
    (OOM, "$ Torch: unable to mmap memory: you tried to mmap 8GB."),
    (OOM, "unable to allocate shared memory(shm) for file </torch_17_2958_0>: Resource temporarily unavailable (11)"),
    (OOM, "Couldn't allocate shared memory segment: 8589934592"),
    (OOM, "unable to write to file </torch_17_29582_1>: No space left on device (28)"),
    (OOM, "Caught OutOfMemoryError in DataLoader worker process 1.\nOriginal Traceback (most recent call last):"),
    (OOM, "DataLoader worker (pid(s) 5504, 5505) exited unexpectedly"),
    (OOM, "DataLoader worker (pid 5504) exited unexpectedly with exit code 1."),
    (OOM, "DataLoader worker (pid 5504) is killed by signal: Killed. "),
    (OOM, "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out "
          "of shared memory. Please try to raise your shared memory limit."),
    (OOM, "CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 7.93 GiB total capacity; 5.6 GiB already allocated)"),
    (OOM, "HIP out of memory. Tried to allocate 2.00 GiB (GPU 0; 15.98 GiB total capacity)"),
    (OOM, "XPU out of memory. Tried to allocate 64.00 GiB. GPU 0 has a total capacity of 64.00 GiB"),
    (OOM, "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call"),
    (OOM, "HIP error: out of memory"),
    (OOM, "NCCL error in: ProcessGroupNCCL.cpp:1970\nLast error:\nCuda failure 2 'out of memory'"),
    (OOM, "MPS backend out of memory (MPS allocated: 17.16 GB, other allocations: 1.02 GB, max allowed: 18.13 GB)."),
    (OOM, "level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)"),
    (OOM, "UR backend failed. UR backend returns:40 (UR_RESULT_ERROR_OUT_OF_RESOURCES)"),
    (OOM, "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    (OOM, "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    (OOM, "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    (OOM, "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
    (OOM, "cuFFT error: CUFFT_ALLOC_FAILED"),
    (OOM, "miopenStatusAllocFailed"),
    (OOM, "Unable to find a valid cuDNN algorithm to run convolution"),
    (OOM, "GET was unable to find an engine to execute this computation"),
    (OOM, "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes."),
    (OOM, "Exception encountered when calling Dense.call().\n\nOOM when allocating tensor with shape[65536,65536]"),
    (LIMIT, "nonzero is not supported for tensors with more than INT_MAX elements,   See "
            "https://github.com/pytorch/pytorch/issues/51871"),
    (LIMIT, "MPSGraph does not support tensor dims larger than INT_MAX"),
    (LIMIT, "Expected canUse32BitIndexMath(input) && canUse32BitIndexMath(output) to be true, but got false."),
    (LIMIT, "upsample_nearest2d_nhwc only supports output tensors that fit into 32-bit index math"),
    (LIMIT, "integer out of range"),
    (LIMIT, "quantile() input tensor is too large"),
    (LIMIT, "CUDA error: invalid configuration argument\nCUDA kernel errors might be asynchronously reported"),
    (LIMIT, "CUDA error: too many resources requested for launch"),
    (LIMIT, "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous input."),
    (LIMIT, "Invalid buffer size: 24.00 GiB"),
]  # fmt: skip


@pytest.mark.parametrize(("outcome", "text"), RECORDED)
def test_the_texts_of_frameworks(outcome: Outcome, text: str) -> None:
    assert judge(RuntimeError(text)) is outcome


@pytest.mark.parametrize(("outcome", "text"), RECORDED)
def test_the_same_texts_in_an_error_of_the_users_own_kind_stay_theirs(outcome: Outcome, text: str) -> None:
    assert judge(ValueError(text)) is Outcome.FAILED


def test_every_row_by_text_is_shown_by_a_recorded_text() -> None:
    rows = [sign for sign in SIGNS if sign.text]
    assert [row for row in rows if not any(re.search(row.text, text) for _, text in RECORDED)] == []


def named(name: str, base: type[BaseException] = Exception) -> BaseException:
    """An error of a framework that isn't installed, by the name that its type has there."""
    return type(name, (base,), {})("")


@pytest.mark.parametrize(
    ("name", "base", "outcome"),
    [
        ("MemoryError", Exception, OOM),
        ("OutOfMemoryError", RuntimeError, OOM),
        ("ResourceExhaustedError", Exception, OOM),  # TensorFlow's is no RuntimeError, and its args are empty
        ("OutOfResources", Exception, LIMIT),
        ("SomethingElse", RuntimeError, Outcome.FAILED),
    ],
)
def test_the_types_of_frameworks(name: str, base: type[BaseException], outcome: Outcome) -> None:
    assert judge(named(name, base)) is outcome
    assert judge(type("Derived", (type(named(name, base)),), {})()) is outcome


def test_torchs_own_type_is_known() -> None:
    import torch

    assert judge(torch.OutOfMemoryError("CUDA out of memory.")) is OOM


def test_every_row_has_one_key_and_a_source() -> None:
    assert all(bool(sign.type_name) != bool(sign.text) and sign.source for sign in (*SIGNS, *DYING_WORDS))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("not enough memory cells in the LSTM"),
        RuntimeError("the memory bank is empty"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        RuntimeError("could not create a primitive descriptor for the matmul primitive"),  # a shape it can't do
        RuntimeError("DataLoader worker (pid 5504) is killed by signal: Segmentation fault. "),
        RuntimeError("unable to write to file </home/user/log>: Permission denied (13)"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        OSError(errno.ENOENT, "No such file"),
        OSError(errno.ENOSPC, "No space left on device"),
        KeyError("out of memory"),
        KeyboardInterrupt(),
        SystemExit(1),
    ],
)
def test_the_users_own_errors_stay_theirs(error: BaseException) -> None:
    assert judge(error) is Outcome.FAILED


def test_an_errno_that_says_no_memory_counts() -> None:
    assert judge(OSError(errno.ENOMEM, "Cannot allocate memory")) is OOM


def raised(raise_it: str) -> BaseException:
    try:
        exec(raise_it)
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize("how", ["from inner", "", "from None"])
def test_an_error_raised_from_or_while_handling_one_is_judged_with_it(how: str) -> None:
    error = raised(
        f"try:\n  raise MemoryError\nexcept MemoryError as inner:\n  raise ValueError('training failed') {how}"
    )
    assert isinstance(error, ValueError)
    assert judge(error) is OOM


def test_the_outermost_sign_decides() -> None:
    inner, outer = RuntimeError("CUDA out of memory."), RuntimeError("integer out of range")
    outer.__cause__ = inner
    assert judge(outer) is LIMIT


def test_a_circle_of_causes_ends() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert judge(first) is Outcome.FAILED


def test_an_error_that_cannot_say_what_it_is_fails() -> None:
    class Mute(RuntimeError):
        def __str__(self) -> str:
            raise AttributeError("no text")

    assert judge(Mute()) is Outcome.FAILED


LAST_WORDS = [
    "/lib64/ld-linux-x86-64.so.2: cannot allocate memory for thread-local data: ABORT",
    "python: error while loading shared libraries: libtorch_cpu.so: failed to map segment from shared object",
    "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc",
    "terminate called after throwing an instance of 'sycl::_V1::exception'\n  what():  Enqueue process failed.\n"
    "level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)",
    "libgomp: Thread creation failed: Resource temporarily unavailable",
    "OMP: Error #34: System unable to allocate necessary resources for OMP thread:\nOMP: System error #11: "
    "Resource temporarily unavailable",
    "OpenBLAS blas_thread_init: pthread_create failed for thread 1 of 2: Resource temporarily unavailable",
    'Traceback (most recent call last):\n  File "train.py", line 3\ntorch.OutOfMemoryError: CUDA out of memory.',
    'Traceback (most recent call last):\n  File "train.py", line 3\nOSError: [Errno 12] Cannot allocate memory',
    "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory",
]


@pytest.mark.parametrize("words", LAST_WORDS)
def test_last_words(words: str) -> None:
    assert judge_exit(f"epoch 1\n{words}\n") is OOM


def test_every_row_of_last_words_is_shown() -> None:
    import re

    assert [row for row in DYING_WORDS if not any(re.search(row.text, words) for words in LAST_WORDS)] == []


@pytest.mark.parametrize(
    "words",
    [
        "Segmentation fault",
        "peak memory: 3 GiB",
        "ValueError: a MemoryError was expected",
        "terminate called after throwing an instance of 'std::out_of_range'",
    ],
)
def test_other_last_words_are_no_sign(words: str) -> None:
    assert judge_exit(words) is None


def test_a_row_is_immutable() -> None:
    with pytest.raises(AttributeError):
        SIGNS[0].text = "x"  # type: ignore[misc]
    assert isinstance(SIGNS[0], Sign)

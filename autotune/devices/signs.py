"""Which errors mean that a batch was too big, and which are the user's own.

Needs nothing but the outcomes; imports no framework, so that an error of any can be judged anywhere: by the
names of its types and by its text. One table holds all that is known, with where each sign comes from.

Promises caution: a text counts only in an error of the kind that frameworks raise it as, so that a user's
`ValueError("not enough memory cells")` stays their own. What no row knows is the user's error.

An error is judged with those that it was raised from or while handling, since frameworks wrap: Keras adds the
layer's name, a DataLoader the worker's traceback.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass

from autotune.trial import Outcome

FRAMEWORK_ERRORS = frozenset({"RuntimeError", "ImportError"})
"""torch, cuDNN, oneDNN, Triton and XLA raise the first or a subtype (torch.AcceleratorError, JaxRuntimeError); the
second is what a step gets that loads a library when memory is short."""


@dataclass(frozen=True)
class Sign:
    """One row: what it means, how it is known, and where it comes from.

    A sign by type matches the name of any class that the error is of; a sign by text matches within the
    message of a framework's error.
    """

    outcome: Outcome
    source: str
    type_name: str = ""
    text: str = ""


def _memory_type(type_name: str, source: str) -> Sign:
    return Sign(Outcome.OUT_OF_MEMORY, source, type_name=type_name)


def _memory_text(text: str, source: str) -> Sign:
    return Sign(Outcome.OUT_OF_MEMORY, source, text=text)


def _limit_text(text: str, source: str) -> Sign:
    return Sign(Outcome.KERNEL_LIMIT, source, text=text)


SIGNS: tuple[Sign, ...] = (
    _memory_type("MemoryError", "Python, NumPy, and C++ std::bad_alloc through pybind11"),
    _memory_type("OutOfMemoryError", "torch 1.13 and later, for CUDA, ROCm and XPU"),
    _memory_type("ResourceExhaustedError", "TensorFlow"),
    _memory_text(r"DefaultCPUAllocator: (can't allocate|not enough) memory", "torch on CPU; the latter on Windows"),
    _memory_text(r"std::bad_alloc", "torch's own C++"),
    _memory_text(r"Storage size calculation overflowed", "torch: more bytes than can be counted"),
    _memory_text(r"could not (create|execute) a primitive(?! descriptor)", "oneDNN"),
    _memory_text(r"could not create a memory object", "oneDNN"),
    _memory_text(r"can't start new thread", "Python: no room for a stack"),
    _memory_text(r"failed to map segment from shared object", "the dynamic loader, in an import"),
    _memory_text(r"unable to mmap", "torch: files and shared memory"),
    _memory_text(r"unable to allocate shared memory|Couldn't allocate shared memory", "torch: shared memory"),
    _memory_text(r"unable to write to file </torch_.*No space left on device", "torch: /dev/shm is full"),
    _memory_text(r"Caught (MemoryError|OutOfMemoryError) in DataLoader worker", "torch.utils.data"),
    _memory_text(r"DataLoader worker \(pid(\(s\))? [\d, ]+\) exited unexpectedly", "torch.utils.data: killed"),
    _memory_text(r"DataLoader worker \(pid \d+\) is killed by signal: (Killed|Bus error)", "torch.utils.data"),
    _memory_text(r"(CUDA|HIP|XPU) out of memory", "torch before 1.13, and torch.compile's wrapping"),
    _memory_text(r"(CUDA|HIP) (driver )?error: out of memory", "CUDA and ROCm, outside torch's allocator"),
    _memory_text(r"Cuda failure (\d+ )?'out of memory'", "NCCL"),
    _memory_text(r"MPS backend out of memory", "torch on Apple's GPU"),
    _memory_text(r"UR_RESULT_ERROR_OUT_OF_(DEVICE_MEMORY|HOST_MEMORY|RESOURCES)", "Intel's GPU, outside the allocator"),
    _memory_text(r"(CUBLAS|CUDNN|CUSOLVER|CUSPARSE|HIPBLAS)_STATUS_ALLOC_FAILED|CUFFT_ALLOC_FAILED", "CUDA libraries"),
    _memory_text(r"(CUBLAS|HIPBLAS|CUDNN)_STATUS_NOT_INITIALIZED", "CUDA libraries: no room for their handle"),
    _memory_text(r"(rocblas_status_memory_error|miopenStatusAllocFailed)", "ROCm libraries"),
    _memory_text(r"[Uu]nable to find (a valid cuDNN algorithm|an engine to execute)", "cuDNN: no room to work in"),
    _memory_text(r"\bRESOURCE_EXHAUSTED\b", "JAX, XLA"),
    _memory_text(r"OOM when allocating tensor", "TensorFlow, wrapped"),
    Sign(Outcome.KERNEL_LIMIT, "Triton: more shared memory than a multiprocessor has", type_name="OutOfResources"),
    _limit_text(r"INT_MAX", "torch: more elements than an int counts (nonzero, MPS)"),
    _limit_text(r"32-bit index|canUse32BitIndexMath", "torch: kernels with 32-bit indices"),
    _limit_text(r"integer out of range", "torch on CUDA: pooling"),
    _limit_text(r"input tensor is too large", "torch: quantile"),
    _limit_text(r"invalid configuration argument", "CUDA, ROCm: more blocks than a grid takes"),
    _limit_text(r"too many resources requested for launch", "CUDA, ROCm"),
    _limit_text(r"CUDNN_STATUS_NOT_SUPPORTED", "cuDNN: no kernel for tensors of this size"),
    _limit_text(r"Invalid buffer size", "Metal: more than one buffer may hold"),
)

DYING_WORDS: tuple[Sign, ...] = (
    _memory_text(r"cannot allocate memory (for thread-local data|in static TLS block)", "the dynamic loader; exit 127"),
    _memory_text(r"failed to map segment from shared object", "the dynamic loader"),
    _memory_text(r"terminate called after throwing an instance of 'std::bad_alloc'", "C++; SIGABRT"),
    _memory_text(r"UR_RESULT_ERROR_OUT_OF_(DEVICE_MEMORY|HOST_MEMORY|RESOURCES)", "Intel's GPU; SIGABRT"),
    _memory_text(r"libgomp: (Thread creation failed|Out of memory)", "GNU OpenMP"),
    _memory_text(r"OMP: System error #1[12]\b|OMP: Error #34\b", "LLVM and Intel OpenMP: EAGAIN and ENOMEM"),
    _memory_text(r"OpenBLAS.*(allocat|pthread_create failed)", "OpenBLAS"),
    _memory_text(r"(?m)^(\w+\.)*(MemoryError|OutOfMemoryError|_ArrayMemoryError)\b", "a traceback's last line"),
    _memory_text(r"(?m)^OSError: \[Errno 12\]", "a traceback's last line"),
    _memory_text(r"DefaultCPUAllocator: (can't allocate|not enough) memory", "torch on CPU"),
)


def judge(error: BaseException) -> Outcome:
    """What an error that a step raised means: out of memory, a kernel's limit, or the user's own failure."""
    for link in _chain(error):
        types = {kind.__name__ for kind in type(link).__mro__}
        if (outcome := _judge_one(types, _text_of(link), link)) is not None:
            return outcome
    return Outcome.FAILED


def judge_exit(output_tail: str) -> Outcome | None:
    """What the last output of a process that died without an exception means; None where it says nothing.

    Args:
        output_tail: the end of what it printed, some lines.
    """
    return next((sign.outcome for sign in DYING_WORDS if re.search(sign.text, output_tail)), None)


def _judge_one(types: set[str], text: str, error: BaseException) -> Outcome | None:
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return Outcome.OUT_OF_MEMORY
    of_framework = not types.isdisjoint(FRAMEWORK_ERRORS)
    for sign in SIGNS:
        by_text = bool(sign.text) and of_framework and re.search(sign.text, text) is not None
        if by_text or sign.type_name in types:
            return sign.outcome
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, what it was raised from, and what was being handled when it was raised; each once."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        link = waiting.pop(0)
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        waiting += [link.__cause__, link.__context__]


def _text_of(error: BaseException) -> str:
    """The message, also of an error whose own `__str__` fails."""
    try:
        return str(error)
    except Exception:
        return ""

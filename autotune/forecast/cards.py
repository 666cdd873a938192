"""Well-known GPUs and the memory that a training process has on them. No torch.

Needs nothing. Promises, for each card, its memory as the driver's own tool shows it and an estimate of what torch's
allocator can take of it at most. Between the two lie three parts, since none of them can be asked of a card that
isn't here:

- what the driver keeps for itself: `nvidia-smi` counts it in the total, `cudaMemGetInfo` (the "total capacity" in
  torch's errors) does not;
- the context of a process, which grows with the kernels that were loaded;
- the workspace of cuBLAS or hipBLAS, which torch takes through its allocator but which no tensor shows.

The totals and the driver's part are public readings where the table names a repository, and else what a relative or
the data sheet says. A card that also serves a display has less.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from autotune.errors import UsageError

MIB = 1 << 20

CONTEXT_BYTES = 400 * MIB
"""Of a process with lazily loaded kernels, the default since CUDA 11.7: "around 400MB" (pytorch/pytorch#109888). A
guess for ROCm."""

BLAS_WORKSPACE_BYTES = {"Hopper": 32 * MIB, "Blackwell": 32 * MIB, "CDNA 2": 32 * MIB, "CDNA 3": 128 * MIB}
"""`parseChosenWorkspaceSize` in aten/src/ATen/cuda/CublasHandlePool.cpp: 32 MiB on Hopper, and taken to be so on what
came since; with ROCm 128 MiB on gfx94 and gfx95, and 32 MiB on others."""

BLAS_WORKSPACE_ELSE_BYTES = (4096 * 2 + 16 * 8) << 10
"""The same on older GPUs of NVIDIA's, :4096:2:16:8 in KiB."""


@dataclass(frozen=True)
class Card:
    """One kind of GPU.

    Attributes:
        name: as people call it, with its memory in GB where there are several of that name.
        architecture: the vendor's name for its generation.
        total_bytes: the memory as `nvidia-smi` or `rocm-smi` shows it.
        usable_bytes: what is left of it for torch's allocator in a process that has the card to itself, estimated.
        spellings: what it is found by, in lower case and without spaces.
    """

    name: str
    architecture: str
    total_bytes: int
    usable_bytes: int
    spellings: frozenset[str]


def find_card(text: str) -> Card:
    """The card that a text names, such as "A100 40GB", "a100-40", "RTX 4090" or "NVIDIA A100-SXM4-80GB".

    Raises:
        UsageError: none is named so, or several are; the remedy has the nearest names.
    """
    spelling = _spelling(text)
    for card in CARDS:
        if spelling in card.spellings:
            return card
    near = _near(spelling)
    choice = "Write " + " or ".join(near) if near else f"Known are {', '.join(card.name for card in CARDS)}"
    raise UsageError(
        f"{text!r} names no known GPU.", remedy=f"{choice}; for any other, give its memory, such as 24GiB."
    )


def _near(spelling: str) -> list[str]:
    """The names of cards of several sizes that are spelt so but for the size, or else of those most alike."""
    same = [card.name for card in CARDS if spelling and any(known.startswith(spelling) for known in card.spellings)]
    if same:
        return same
    names = {known: card.name for card in CARDS for known in sorted(card.spellings)}
    return list(dict.fromkeys(names[known] for known in difflib.get_close_matches(spelling, names, n=6)))[:3]


# Spellings

_SAYS_NOTHING = re.compile(
    r"nvidia|amd|geforce|tesla|quadro|instinct|radeon|gpu|generation|sxm\d?|pcie|oam|hbm\d?e?|gi?b?"
)
_WORD = re.compile(r"\d+(?=gi?b\b)|[a-z0-9]+")


def _spelling(text: str) -> str:
    """Lower case, without vendor, connector and kind of memory, and without units and marks."""
    return "".join(word for word in _WORD.findall(text.casefold()) if not _SAYS_NOTHING.fullmatch(word))


def _spellings(name: str, size_gb: int, others: tuple[str, ...]) -> frozenset[str]:
    """With the size and without it; a card of several sizes has it in its name. "RTX" may be left out."""
    bases = {_spelling(text) for text in (name, *others)}
    bases |= {base.removeprefix("rtx") for base in bases}
    return frozenset(bases | {f"{base}{size_gb}" for base in bases})


# The table


def _card(name: str, architecture: str, size_gb: int, total_mib: int, kept_mib: int, *others: str) -> Card:
    workspace_bytes = BLAS_WORKSPACE_BYTES.get(architecture, BLAS_WORKSPACE_ELSE_BYTES)
    total_bytes = total_mib * MIB
    usable_bytes = total_bytes - kept_mib * MIB - CONTEXT_BYTES - workspace_bytes
    return Card(name, architecture, total_bytes, usable_bytes, _spellings(name, size_gb, others))


CARDS = (
    # Name, architecture, GB as sold, MiB shown in all, MiB that the driver keeps, other names; then the sources of
    # the two figures: a reading in a public thread, "nvidia-smi" where what it shows is known but not from whom, or
    # the relative that stands in. GiB are what torch's errors call the "total capacity".
    # Pascal to Turing: the drivers of today show the whole memory; the capacity is 256 MiB less
    _card("P100", "Pascal", 16, 16384, 256),  # wookayin/gpustat#130; as V100
    _card("V100 16GB", "Volta", 16, 16384, 256),  # as P100; capacity 15.75 GiB, Morizeyao/GPT2-Chinese#215
    _card("V100 32GB", "Volta", 32, 32768, 256),  # data sheet; as V100 16GB
    _card("T4", "Turing", 16, 15360, 256),  # modal-labs/modal-client#2797; 14.75 GiB, hpcaitech/Open-Sora#697
    _card("RTX 2080 Ti", "Turing", 11, 11264, 256),  # data sheet; as T4 (10.73 GiB, Morizeyao/GPT2-Chinese#104)
    # Ampere
    _card("RTX 3060", "Ampere", 12, 12288, 256),  # geerlingguy/raspberry-pi-pcie-devices#790; as T4
    _card("RTX 3080", "Ampere", 10, 10240, 256),  # data sheet; as T4
    _card("RTX 3090", "Ampere", 24, 24576, 450),  # noonghunna/club-3090#32; 23.56 GiB, noonghunna/club-3090#58
    _card("A10", "Ampere", 24, 23028, 450, "A10G"),  # modal-labs/modal-client#2797; as RTX 3090
    _card("A40", "Ampere", 48, 46068, 550),  # as L40S, the same memory; as H100
    _card("RTX A6000", "Ampere", 48, 49140, 550, "A6000"),  # nvidia-smi; as H100
    _card("A100 40GB", "Ampere", 40, 40960, 512),  # modal-labs/modal-client#2797; 39.50 GiB, TianheWu/CoSeR#10
    _card("A100 80GB", "Ampere", 80, 81920, 768),  # modal-labs/modal-client#2797; 79.25 GiB, levihsu/OOTDiffusion#235
    # Ada
    _card("RTX 4070", "Ada", 12, 12282, 256),  # nvidia-smi; as RTX 3060
    _card("RTX 4080", "Ada", 16, 16376, 300),  # nvidia-smi; between RTX 4070 and 4090
    _card("RTX 4090", "Ada", 24, 24564, 357),  # RLinf/RLinf#255; 23.64 GiB, 3DTopia/Phidias-Diffusion#8
    _card("L4", "Ada", 24, 23034, 450),  # modal-labs/modal-client#2797; as RTX 3090
    _card("L40S", "Ada", 48, 46068, 550),  # modal-labs/modal-client#2797; as H100
    _card("RTX 6000 Ada", "Ada", 48, 49140, 550),  # nvidia-smi; as H100
    # Hopper
    _card("H100", "Hopper", 80, 81559, 550),  # vllm-project/vllm#27508 (79.11 GiB); modal-labs/modal-client#2797
    _card("H100 NVL", "Hopper", 94, 95830, 598),  # nvidia-smi; 93.00 GiB, ali-vilab/VACE#56
    _card("H200", "Hopper", 141, 143771, 600, "H200 NVL"),  # nvidia-smi; between H100 and B200
    # Blackwell
    _card("RTX 5090", "Blackwell", 32, 32607, 484),  # noonghunna/club-3090#1229; 31.37 GiB, Wan-Video/Wan2.1#465
    _card("B200", "Blackwell", 180, 183359, 730),  # NVIDIA/TensorRT-LLM#10278; 178.35 GiB, pytorch/ao#4002
    # AMD: what HIP shows is the whole pool, without the driver's part. An MI250X is two devices of 64 GB each
    _card("MI250X", "CDNA 2", 64, 65520, 0),  # half the data sheet's 128 GB, less what MI300X lacks
    _card("MI300X", "CDNA 3", 192, 196592, 0),  # 201310208 KB, ROCm/legacy-rocm-build#4414
)
"""The cards, the oldest architecture of each vendor first."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import UsageError
from autotune.forecast.cards import CARDS, Card, find_card

MIB = 1 << 20


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A100 40GB", "A100 40GB"),
        ("a100-40", "A100 40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("A100-PCIE-40GB", "A100 40GB"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB"),
        ("RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("rtx4090", "RTX 4090"),
        ("4090", "RTX 4090"),
        ("4090 24 GiB", "RTX 4090"),
        ("2080ti", "RTX 2080 Ti"),
        ("Tesla T4", "T4"),
        ("Tesla V100-SXM2-32GB", "V100 32GB"),
        ("Tesla P100-PCIE-16GB", "P100"),
        ("A10G", "A10"),
        ("NVIDIA A10", "A10"),
        ("A6000", "RTX A6000"),
        ("NVIDIA RTX A6000", "RTX A6000"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("H100", "H100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("h100 pcie", "H100"),
        ("NVIDIA H100 NVL", "H100 NVL"),
        ("h100-nvl-94gb", "H100 NVL"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA H200 NVL", "H200"),
        ("B200", "B200"),
        ("AMD Instinct MI300X", "MI300X"),
    ],
)
def test_a_card_is_found_as_people_and_drivers_write_it(text: str, name: str) -> None:
    assert find_card(text).name == name


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("A100", ["A100 40GB", "A100 80GB"]),
        ("V100", ["V100 16GB", "V100 32GB"]),
        ("RTX 4900", ["RTX 4090"]),
        ("MI300", ["MI300X"]),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(text: str, names: list[str]) -> None:
    with pytest.raises(UsageError, match=f"'{text}' names no known GPU.") as caught:
        find_card(text)
    assert all(name in caught.value.remedy for name in names)


@given(st.text())
def test_any_text_is_a_card_or_refused_in_one_line(text: str) -> None:
    try:
        found = find_card(text)
    except UsageError as error:
        assert "\n" not in error.message + error.remedy
    else:
        assert found in CARDS


def test_no_spelling_names_two_cards() -> None:
    spellings = [spelling for card in CARDS for spelling in card.spellings]
    assert len(spellings) == len(set(spellings))
    assert "" not in spellings


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_every_card_is_found_by_its_own_name_and_has_most_of_its_memory_for_training(card: Card) -> None:
    assert find_card(card.name) is card
    lost_bytes = card.total_bytes - card.usable_bytes
    assert 400 * MIB < lost_bytes < 0.08 * card.total_bytes


@pytest.mark.parametrize(
    ("name", "lost_mib"), [("H100 NVL", 598 + 400 + 32), ("MI250X", 400 + 32), ("MI300X", 400 + 128)]
)
def test_driver_context_and_workspace_are_what_a_card_loses(name: str, lost_mib: int) -> None:
    card = find_card(name)
    assert card.total_bytes - card.usable_bytes == lost_mib * MIB


def test_cards_are_looked_up_without_torch() -> None:
    code = (
        "import sys; from autotune.forecast.cards import find_card; find_card('T4'); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

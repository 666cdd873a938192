"""An estimate: what is asked of forecasts and made of them, and the whole way through command line and Python."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from example_estimates import MIB, SAMPLE_BYTES, ModelledExecutor, modelled
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import autotune
from autotune.cli import main
from autotune.errors import NoForecastError, NothingFitsError, UsageError
from autotune.estimate import LARGEST, SHOWN_SIZES, Estimate, Place, Question, estimate, place_of
from autotune.forecast.cards import CARDS
from autotune.forecast.margin import MARGIN_SHARES
from autotune.forecast.records import Rules
from autotune.reports.estimate import as_json, render
from autotune.spec import Mode, Precision

GIB = 1 << 30
SMALL, LARGE = Place(name="small", memory_bytes=4 * GIB), Place(name="large", memory_bytes=32 * GIB)


def estimated(executor: ModelledExecutor | None = None, **question) -> Estimate:
    settings = {"places": (SMALL, LARGE), "most_sizes": None} | question
    return estimate(executor or ModelledExecutor(), Question(**settings))


def truth(budget_bytes: int, context_bytes: int = 0, rules: Rules = Rules.CUDA) -> int:
    """The largest size within a budget, found one by one."""
    size = 0
    while (modelled(size + 1, SAMPLE_BYTES[Precision.FP32]).held_bytes + context_bytes) * (
        1 + MARGIN_SHARES[rules]
    ) <= budget_bytes:
        size += 1
    return size


# ---------------------------------------------------------------------- what is made of forecasts


def test_the_largest_size_on_each_place_leaves_the_margin() -> None:
    found = estimated()
    assert found.variant().largest_batch_sizes == (truth(4 * GIB), truth(32 * GIB))
    largest = found.max_batch_size(4 * GIB) if Rules.CUDA is found.rules else 0
    assert found.with_margin(found.peak_bytes(largest)) <= 4 * GIB


def test_a_context_takes_its_part_of_the_memory() -> None:
    found = estimated(places=(Place(name="card", memory_bytes=4 * GIB, context_bytes=GIB),))
    assert found.variant().largest_batch_sizes == (truth(4 * GIB, context_bytes=GIB),)
    assert found.peak_bytes(1) == modelled(1, SAMPLE_BYTES[Precision.FP32]).held_bytes + GIB


def test_the_base_of_a_process_counts_as_memory() -> None:
    found = estimated(ModelledExecutor(base_bytes=GIB), rules=Rules.CPU)
    assert found.variant().largest_batch_sizes[0] == truth(4 * GIB, context_bytes=GIB, rules=Rules.CPU)
    assert found.max_batch_size("4GiB") == found.variant().largest_batch_sizes[0]
    assert found.max_batch_size("3GiB") <= truth(3 * GIB, context_bytes=GIB)


@given(st.integers(0, 32 * GIB))
def test_a_budget_that_was_not_asked_about_is_answered_from_below(budget_bytes: int) -> None:
    found = estimated(rules=Rules.CPU)
    answer, true = found.max_batch_size(budget_bytes), truth(budget_bytes, rules=Rules.CPU)
    assert answer <= true
    assert true - answer <= max(1, 0.3 * true)  # where the optimizer's peak gives way to the activations' it is coarse


def test_a_budget_beyond_what_was_asked_about_is_refused() -> None:
    with pytest.raises(UsageError, match="Nothing as large was asked about"):
        estimated().max_batch_size("64GiB")


def test_sizes_between_are_read_off_a_line_and_those_beyond_are_refused() -> None:
    found = estimated()
    assert found.peak_bytes(100) == modelled(100, SAMPLE_BYTES[Precision.FP32]).held_bytes
    with pytest.raises(UsageError, match="Batch size 1,000,000 is outside 1 to"):
        found.peak_bytes(1_000_000)


def test_chosen_sizes_are_powers_of_two_up_to_the_largest() -> None:
    assert estimated().batch_sizes == tuple(2**power for power in range(11))  # truth(32 GiB) is 1545
    thinned = estimated(most_sizes=SHOWN_SIZES).batch_sizes
    assert thinned == (1, 4, 16, 64, 256, 1024)
    assert all(estimated(most_sizes=SHOWN_SIZES).variant().footprint(size) for size in thinned)


def test_chosen_sizes_begin_where_the_model_runs() -> None:
    assert estimated(ModelledExecutor(smallest=2)).batch_sizes[0] == 2
    assert estimated(ModelledExecutor(smallest=3)).batch_sizes[0] == 4


def test_more_places_have_more_time() -> None:
    few, many = ModelledExecutor(), ModelledExecutor()
    estimated(few, batch_sizes=(8,))
    estimated(many, batch_sizes=(8,), places=(SMALL, LARGE) * 13)
    assert many.requests[0].timeout_seconds > 2 * few.requests[0].timeout_seconds


def test_sizes_asked_for_are_forecast_at_once_and_shown_as_asked() -> None:
    executor = ModelledExecutor()
    found = estimated(executor, batch_sizes=(64, 8))
    assert found.batch_sizes == (64, 8)
    assert [request.batch_sizes for request in executor.requests] == [(8, 64)]


def test_every_variant_is_a_forecast_of_its_own() -> None:
    executor = ModelledExecutor()
    found = estimated(executor, precisions=tuple(Precision), checkpointing=True, accumulation_steps=4)
    assert [variant.label for variant in found.variants] == [
        *("fp32", "bf16", "fp16"),
        *("fp32, checkpointed", "bf16, checkpointed", "fp16, checkpointed"),
    ]
    assert {request.accumulation_steps for request in executor.requests} == {4}
    assert found.max_batch_size(4 * GIB) < found.max_batch_size(4 * GIB, precision="bf16", checkpointing=True)
    assert "a guess in bf16" in found.guesses
    assert found.guesses.count("a guess in all") == 1


def test_one_variant_without_a_forecast_leaves_the_others() -> None:
    found = estimated(ModelledExecutor(has_switch=False), checkpointing=True)
    assert found.variants[1].no_forecast == "The model has no switch."
    with pytest.raises(NoForecastError, match="No forecast for fp32, checkpointed: The model has no switch"):
        found.max_batch_size(GIB, checkpointing=True)
    with pytest.raises(UsageError, match="no estimate for fp16"):
        found.peak_bytes(1, precision="fp16")


def test_no_forecast_at_all_is_an_error_that_says_why() -> None:
    with pytest.raises(NoForecastError, match="No forecast for fp32: a loop over data") as raised:
        estimated(ModelledExecutor(refused={Precision.FP32: "a loop over data"}))
    assert raised.value.exit_code == 7


def test_where_nothing_fits_there_is_zero_and_quiet_says_so() -> None:
    found = estimated(places=(Place(name="tiny", memory_bytes=100 * MIB),))
    assert found.variant().largest_batch_sizes == (0,)
    assert found.batch_sizes == (1,)
    with pytest.raises(NothingFitsError, match="100 MiB of tiny"):
        found.largest_batch_sizes()


def test_a_limit_is_compared_with_the_peak_and_its_margin() -> None:
    found = estimated(batch_sizes=(64,))
    peak_bytes = found.peak_bytes(64)
    found.check_within(found.with_margin(peak_bytes))
    with pytest.raises(NothingFitsError, match="Batch size 64 in fp32 is predicted to peak at"):
        found.check_within(found.with_margin(peak_bytes) - 1)


def test_memory_is_given_as_a_size_or_as_a_card() -> None:
    assert place_of("24GiB").memory_bytes == place_of(24 * GIB).memory_bytes == 24 * GIB
    assert place_of("24GiB").context_bytes > 0 == place_of("24GiB", Rules.CPU).context_bytes
    card = place_of("A100 40GB")
    assert (card.memory_bytes > 39 * GIB, card.context_bytes > 0) == (True, True)
    with pytest.raises(UsageError, match="A1000000"):
        place_of("A1000000")
    with pytest.raises(UsageError, match="A100 40GB"):
        place_of("A100 40GB", Rules.CPU)


def test_an_estimate_for_a_processor_has_no_answer_for_a_gpu() -> None:
    with pytest.raises(UsageError, match="'A100 40GB' is not a size"):
        estimated(rules=Rules.CPU).max_batch_size("A100 40GB")
    assert estimated().max_batch_size("T4") > 0


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("untouched_mib", [30, 1023, 1540])
def test_the_parts_add_up_where_the_allocator_holds_less_than_the_tensors_ask_for(
    untouched_mib: int, width: int
) -> None:
    sizes = tuple(100 * step for step in range(1, 13))
    found = estimated(ModelledExecutor(allocator_bytes=-untouched_mib * MIB), batch_sizes=sizes)
    for variant in json.loads(as_json(found))["variants"]:
        for size in variant["sizes"]:
            assert sum(size[part] for part in PARTS) == size["peak_bytes"]
            assert size["allocator_bytes"] == -untouched_mib * MIB
    text = render(found, width)
    lines = text.splitlines()
    rows = [line.split()[1:] for line in lines if line.startswith("allocator")]
    assert sum(len(row) // 2 for row in rows) == len(sizes)
    assert all(number.startswith("-") for row in rows for number in row[::2])
    assert max(map(len, lines)) <= width
    assert "…" not in text


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_every_card_leaves_room_for_a_model(card) -> None:
    place = place_of(card.name)
    assert 0.7 * card.total_bytes < place.room_bytes(0.05) < card.total_bytes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_sizes": (8, 0)}, "--batch-size is below 1"),
        ({"accumulation_steps": 0}, "--accumulate is below 1"),
        ({"accumulation_steps": 2, "mode": Mode.INFERENCE}, "--accumulate is for training"),
    ],
)
def test_a_question_that_no_step_answers_is_refused(settings, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        estimated(**settings)


# ---------------------------------------------------------------------- the command line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--gpu A1000000", "A1000000"),
        ("--device cpu --gpu T4", "--device cpu and a GPU are named together."),
        ("--fail-over 20GiB", "--fail-over needs --batch-size."),
        ("--device-memory 24XB", "--device-memory: '24XB' is not a size."),
        ("--batch-size 0", "0 is not in the range x>=1"),
        ("--accumulate 2 --mode inference", "--accumulate is for training."),
        ("--input 3x4", "--input describes a class"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(arguments: str, message: str, capsys) -> None:
    assert main(["estimate", "model.py", *arguments.split()]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err


def test_the_help_lists_every_option_in_its_section(capsys) -> None:
    assert main(["estimate", "--help"]) == 0
    text = capsys.readouterr().out
    for part in ("Hardware:", "--device-memory SIZE", "Model given as a class:", "--fail-over SIZE", "  7    "):
        assert part in text


def command(*arguments: str, **settings) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "autotune", "estimate", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        **settings,
    )


@pytest.mark.parametrize("device", [["--device", "cpu"], ["--gpu", "T4", "--gpu", "A100 40GB"]])
def test_a_real_model_is_estimated_without_running_it(device: list[str]) -> None:
    pytest.importorskip("sklearn")
    done = command("autotune.examples.digits", *device, "--batch-size", "64", "--batch-size", "512", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert [variant["precision"] for variant in answer["variants"]] == ["fp32", "bf16", "fp16"]
    assert answer["predicted"] is True
    for variant in answer["variants"]:
        sizes = {size["batch_size"]: size for size in variant["sizes"]}
        assert 1 <= sizes[64]["parameters_bytes"] / (4 * answer["parameters"]) < 1.05
        assert 7 < sizes[512]["activations_bytes"] / sizes[64]["activations_bytes"] < 9
        parts = sum(size for key, size in sizes[512].items() if key.endswith("_bytes") and key in PARTS)
        assert parts == sizes[512]["peak_bytes"] < sizes[512]["peak_with_margin_bytes"]
        for place, largest in zip(answer["devices"], variant["largest_batch_sizes"], strict=True):
            held = next(size for size in variant["sizes"] if size["batch_size"] == largest)
            held_bytes = held["peak_bytes"] - held["process_bytes"]
            own_bytes = place["context_bytes"] or held["process_bytes"]
            assert (held_bytes + own_bytes) * (1 + answer["margin_share"]) <= place["memory_bytes"] + 2


PARTS = {
    "parameters_bytes",
    "gradients_bytes",
    "optimizer_bytes",
    "activations_bytes",
    "batch_bytes",
    "temporary_bytes",
    "allocator_bytes",
    "process_bytes",
}

MODEL = """
import torch
from torch import nn

model = nn.Sequential(nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 8))
loss = nn.CrossEntropyLoss()

def make_batch(n):
    return torch.randn(n, 64), torch.randint(0, 8, (n,))
"""


@pytest.fixture
def model_file(tmp_path: Path) -> str:
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return str(path)


def test_a_budget_for_continuous_integration_ends_with_its_own_code(model_file: str) -> None:
    common = (model_file, "--gpu", "T4", "--batch-size", "32", "--precision", "bf16")
    assert command(*common, "--fail-over", "8GiB").returncode == 0
    over = command(*common, "--fail-over", "100MiB")
    assert over.returncode == 3
    assert "predicted largest batch size" in over.stdout.lower()
    assert over.stderr.startswith("error: Batch size 32 in bf16 is predicted to peak at ")


def test_quiet_prints_the_number_alone(model_file: str) -> None:
    done = command(model_file, "--device-memory", "2GiB", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    assert 1000 < int(done.stdout) < LARGEST


def test_a_step_that_depends_on_data_ends_with_code_7_and_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    path.write_text(MODEL + "\n\nclass Cut(nn.Module):\n    def forward(self, x):\n        return x[: int(x.sum())]\n")
    with path.open("a") as file:
        file.write("\nmodel = nn.Sequential(model, Cut())\n")
    done = command(str(path), "--gpu", "T4", "--precision", "fp32")
    assert (done.returncode, done.stdout) == (7, "")
    assert done.stderr.startswith("error: No forecast for fp32: ")
    assert "Traceback" not in done.stderr


def test_a_model_without_a_switch_for_checkpointing_is_told(model_file: str) -> None:
    done = command(model_file, "--gpu", "T4", "--precision", "fp32", "--checkpointing")
    assert done.returncode == 0
    assert "No forecast: fp32, checkpointed: The model has no switch" in done.stdout


def test_a_users_bug_while_building_keeps_its_traceback(tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    path.write_text("raise KeyError('mine')\n")
    done = command(str(path), "--gpu", "T4")
    assert done.returncode == 1
    assert "KeyError: 'mine'" in done.stderr


def test_an_estimate_imports_no_framework_here(model_file: str) -> None:
    code = (
        "import sys; from autotune.cli import main; "
        f"main(['estimate', {model_file!r}, '--gpu', 'T4', '--quiet']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"


# ---------------------------------------------------------------------- from Python


def test_live_objects_are_estimated_and_left_as_they_are() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 4096), nn.ReLU(), nn.Dropout(0.1), nn.Linear(4096, 4))
    optimizer = torch.optim.AdamW(model.parameters())
    data = (torch.randn(128, 32), torch.randint(0, 4, (128,)))
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()

    found = autotune.estimate_memory(
        model, data, loss=nn.CrossEntropyLoss(), optimizer=optimizer, memory="4GiB", precision=["fp32", "bf16"]
    )

    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not optimizer.state
    assert [p.grad for p in model.parameters()] == [None] * 4
    small, large = found.max_batch_size("2GiB"), found.max_batch_size("4GiB")
    assert 0 < small < large
    assert found.max_batch_size("4GiB", precision="bf16") > large
    assert found.with_margin(found.peak_bytes(small)) <= 2 * GIB
    assert "predicted" in found.summary()


def test_a_model_that_is_built_by_a_function_is_estimated_for_the_processor() -> None:
    def build() -> nn.Module:
        return nn.Linear(1000, 1000)

    def make_batch(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(n, 1000), torch.randn(n, 1000)

    found = autotune.estimate_memory(build, make_batch, loss=nn.MSELoss(), batch_size=16, device="cpu")
    footprint = found.variant().footprint(16)
    assert footprint is not None
    assert 4_004_000 <= footprint.composition.parameters_bytes < 4_010_000
    assert 2 * 4_004_000 <= footprint.composition.optimizer_bytes < 2 * 4_010_000  # AdamW keeps two of each
    assert footprint.composition.batch_bytes == 2 * 16 * 4000


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "fp8"}, "precision='fp8' is not known"),
        ({"device": "A1000000"}, "A1000000"),
        ({"device": "T4", "memory": "4GiB"}, "memory= is given beside a GPU"),
        ({"batch_size": 0}, "--batch-size is below 1"),
    ],
)
def test_a_wrong_argument_is_refused_before_anything_starts(settings, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        autotune.estimate_memory(nn.Linear(2, 2), torch.randn(4, 2), **settings)

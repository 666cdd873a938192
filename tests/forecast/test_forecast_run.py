"""Forecasts against steps that really ran, counted by the same tracker."""

from __future__ import annotations

from pathlib import Path

import pytest
from forecast_child import forecast, model_file, truth

from autotune.errors import NoForecastError
from autotune.spec import Mode, Precision

WORKLOADS = sorted((Path(__file__).parents[2] / "benchmarks" / "workloads").glob("*.py"))
SMALL = 16

MLP = """
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    def make_batch(n):
        return torch.randn(n, 64), torch.randint(10, (n,))
"""
LOSS = "    loss = nn.functional.cross_entropy\n"


@pytest.mark.parametrize("file", WORKLOADS, ids=lambda file: file.stem)
def test_a_forecast_is_what_the_same_tracker_sees_in_steps_that_run(file: Path) -> None:
    mode = Mode.INFERENCE if file.stem == "inference_only" else Mode.TRAIN
    ran = truth(str(file), SMALL, mode=mode)
    (said,) = forecast(str(file), SMALL, mode=mode).footprints
    assert said.peak_bytes == pytest.approx(ran.peak_bytes, rel=1e-3)
    assert (said.phase, said.operator, said.operators) == (ran.phase, ran.operator, ran.operators)
    assert set(said.phase_peak_bytes) == set(ran.phase_peak_bytes)


@pytest.mark.parametrize("precision", [Precision.BF16, Precision.FP16])
def test_autocast_and_the_gradient_scaler_are_followed(tmp_path: Path, precision: Precision) -> None:
    file = model_file(tmp_path, MLP + LOSS)
    ran = truth(file, SMALL, precision=precision)
    (said,) = forecast(file, SMALL, precision=precision).footprints
    assert said.peak_bytes == pytest.approx(ran.peak_bytes, rel=1e-3)
    assert "optimizer" in said.phase_peak_bytes  # the scaler found no infinity, and so the optimizer stepped


def test_accumulation_holds_gradients_during_the_next_micro_batch(tmp_path: Path) -> None:
    file = model_file(tmp_path, MLP + LOSS)
    ran = truth(file, 512, accumulation_steps=3)
    (said,) = forecast(file, 512, accumulation_steps=3).footprints
    assert said.peak_bytes == pytest.approx(ran.peak_bytes, rel=1e-3)
    assert said.peak_bytes > forecast(file, 512).footprints[0].peak_bytes


OWN_LOOP = (
    MLP
    + """
    class Trainer:
        def __init__(self, model):
            self.weights = [parameter for parameter in model.parameters()]
            self.optimizer = torch.optim.SGD(self.weights, lr=0.1, momentum=0.9)
            self.mask = torch.rand(10)
            self.losses = []
        def step(self, inputs, targets):
            self.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs) * self.mask, targets)
            loss.backward()
            nn.utils.clip_grad_norm_(self.weights, 1.0)
            self.optimizer.step()
            self.losses.append(loss.item())
    trainer = Trainer(model)
    def training_step(batch):
        trainer.step(*batch)
"""
)


def test_a_loop_of_the_users_own_that_holds_model_and_optimizer_is_followed(tmp_path: Path) -> None:
    file = model_file(tmp_path, OWN_LOOP)
    ran = truth(file, SMALL)
    told = forecast(file, SMALL)
    (said,) = told.footprints
    assert said.peak_bytes == pytest.approx(ran.peak_bytes, rel=1e-3)
    assert said.composition.gradients_bytes == said.composition.optimizer_bytes > 0
    assert any("model.py:20: a number read from a tensor" in guess for guess in told.guesses), told.guesses


LOADED = """
    optimizer = torch.optim.AdamW(model.parameters())
    nn.functional.cross_entropy(model(make_batch(2)[0]), torch.tensor([1, 2])).backward()
    optimizer.step()
"""


def test_an_optimizer_with_a_state_of_its_own_is_counted_once(tmp_path: Path) -> None:
    loaded = forecast(model_file(tmp_path, MLP + LOSS + LOADED), SMALL, SMALL).footprints
    fresh = forecast(model_file(tmp_path, MLP + LOSS), SMALL).footprints
    assert {f.peak_bytes for f in loaded} == {f.peak_bytes for f in fresh}
    assert loaded[1].composition == fresh[0].composition


def test_what_was_forecast_before_changes_nothing(tmp_path: Path) -> None:
    told = forecast(model_file(tmp_path, MLP + LOSS), 16, 4096, 16)
    first, _, again = told.footprints
    assert (first.peak_bytes, first.held_bytes, first.composition) == (
        again.peak_bytes,
        again.held_bytes,
        again.composition,
    )
    assert told.base_bytes > 50 * 2**20  # interpreter and torch


def test_a_forecast_takes_no_memory_of_the_batch(tmp_path: Path) -> None:
    batch_size = 2**30
    (said,) = forecast(model_file(tmp_path, MLP + LOSS), batch_size).footprints
    assert said.peak_bytes > 2**40
    assert said.composition.batch_bytes == batch_size * (64 * 4 + 8)


def test_the_composition_adds_up_to_the_peak(tmp_path: Path) -> None:
    for size in (1, 4096):
        (said,) = forecast(model_file(tmp_path, MLP + LOSS), size).footprints
        parts = said.composition
        assert said.peak_bytes == sum(getattr(parts, name) for name in parts.__struct_fields__)


def test_a_checkpointed_forward_runs_again_in_the_backward_phase(tmp_path: Path) -> None:
    text = """
        from torch.utils.checkpoint import checkpoint
        class Deep(nn.Module):
            def __init__(self):
                super().__init__()
                self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Dropout()) for _ in range(6))
            def forward(self, x):
                for block in self.blocks:
                    x = checkpoint(block, x, use_reentrant=False) if CHECKPOINTED else block(x)
                return x
        model = Deep()
        loss = nn.functional.mse_loss
        def make_batch(n):
            return torch.randn(n, 64), torch.randn(n, 64)
    """
    file = model_file(tmp_path, "CHECKPOINTED = True\n" + _dedented(text))
    ran, (said,) = truth(file, 1000), forecast(file, 1000).footprints
    (plain,) = forecast(model_file(tmp_path, "CHECKPOINTED = False\n" + _dedented(text)), 1000).footprints
    assert said.peak_bytes == pytest.approx(ran.peak_bytes, rel=1e-3)
    assert said.peak_bytes < 0.7 * plain.peak_bytes


def _dedented(text: str) -> str:
    from textwrap import dedent

    return dedent(text)


# What can't be followed


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("x[:, : int(x.argmax())]", "model.py:7 reads a whole number from a tensor"),
        ("x.unique()[:, None].expand(-1, 64)", "unique2, whose result's shape hangs on values"),
        ("torch.from_numpy(x.detach().numpy())", "numpy"),
    ],
)
def test_a_step_that_hangs_on_data_has_no_forecast_and_says_why(tmp_path: Path, line: str, reason: str) -> None:
    file = model_file(
        tmp_path,
        f"""
        class Chooser(nn.Linear):
            def forward(self, x):
                x = super().forward(x)
                return {line}.sum(dim=1)
        model = Chooser(64, 64)
        loss = nn.functional.mse_loss
        def make_batch(n):
            return torch.randn(n, 64), torch.randn(n)
        """,
    )
    with pytest.raises(NoForecastError, match=reason) as raised:
        forecast(file, SMALL)
    assert "\n" not in raised.value.message


def test_an_error_of_the_users_own_is_named_with_its_line(tmp_path: Path) -> None:
    text = """
        class Broken(nn.Linear):
            def forward(self, x):
                return super().forward(x) * self.missing
        model = Broken(64, 1)
        loss = nn.functional.mse_loss
        def make_batch(n):
            return torch.randn(n, 64), torch.randn(n, 1)
    """
    with pytest.raises(NoForecastError, match=r"no attribute 'missing' \(model.py:6\)") as raised:
        forecast(model_file(tmp_path, _dedented(text)), SMALL)
    assert "workload's own" in str(raised.value.remedy)


def test_a_compiled_model_has_no_forecast(tmp_path: Path) -> None:
    with pytest.raises(NoForecastError, match="compiled"):
        forecast(model_file(tmp_path, MLP + LOSS), SMALL, compile=True)


def test_a_mask_is_taken_to_select_everything(tmp_path: Path) -> None:
    text = """
        class Masked(nn.Linear):
            def forward(self, x):
                return super().forward(x[x[:, 0] > 0])
        model = Masked(64, 64)
        loss = lambda output, target: output.square().mean()
        def make_batch(n):
            return torch.randn(n, 64), torch.randn(n)
    """
    told = forecast(model_file(tmp_path, _dedented(text)), 1024)
    assert any("select everything" in guess for guess in told.guesses)
    assert told.footprints[0].peak_bytes > 2 * 1024 * 64 * 4

"""LightningModules, real ones: found, left alone, and trained with what was found."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from packing import pack, unpack
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

pytest.importorskip("lightning")
pytest.importorskip("greenlet")

import lightning.pytorch as pl

from autotune import UsageError, WorkloadError, find_batch_size
from autotune.lightning import BatchSizeAutotuner
from autotune.result import load_result
from autotune.spec import FileWorkload
from autotune.trial import Training
from autotune.workloads import BuildOptions
from autotune.workloads.frameworks import training_device
from autotune.workloads.live import LiveParts, from_live
from autotune.workloads.opening import build_workload

pytestmark = [pytest.mark.filterwarnings("ignore")]  # Lightning's, of many kinds

TRAIN = BuildOptions(device="cpu", mode="train")
VALIDATE = BuildOptions(device="cpu", mode="inference")
QUICK: dict[str, Any] = {"quiet": True, "max_trials": 3}
BARE: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
}


class Net(pl.LightningModule):
    """Two layers, dropout, and a scheduler; `fails` raises in the training step."""

    def __init__(self, fails: bool = False, manual: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.1), nn.Linear(16, 2))
        self.fails = fails
        self.automatic_optimization = not manual

    def training_step(self, batch: Any, _index: int) -> Any:
        if self.fails:
            raise KeyError("the user's own")
        inputs, targets = batch
        loss = nn.functional.cross_entropy(self.net(inputs), targets)
        self.log("loss", loss)
        if not self.automatic_optimization:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss

    def validation_step(self, batch: Any, _index: int) -> Any:
        inputs, targets = batch
        assert not torch.is_grad_enabled()
        self.log("validation", nn.functional.cross_entropy(self.net(inputs), targets))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1)}


class Data(pl.LightningDataModule):
    """96 samples; its loaders take the batch size when they are made."""

    def __init__(self, batch_size: int = 4, val_batch_size: int = 4) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.batch_size = batch_size
        self.val_batch_size = val_batch_size
        self.is_set_up = False

    def setup(self, stage: str) -> None:
        self.is_set_up = True
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(96, 4, generator=generator)
        self.samples = TensorDataset(inputs, (inputs.sum(1) > 0).long())

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.samples, batch_size=self.batch_size)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.samples, batch_size=self.val_batch_size)


def weights(module: nn.Module) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in module.state_dict().values()]


def same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    return len(ours) == len(theirs) > 0 and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    "settings", [{}, {"precision": "bf16-mixed", "gradient_clip_val": 0.01}], ids=["plain", "bf16"]
)
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_a_step_is_the_trainers_own(settings: dict[str, Any], micro_batches: int) -> None:
    """The same batches, the same number of steps, and the weights are the same bit for bit."""
    trainer = pl.Trainer(max_epochs=1, accumulate_grad_batches=micro_batches, **BARE, **settings)
    module, data = Net(), Data(batch_size=8)
    module.net[1].p = 0.0  # a loader draws random numbers when it begins, and so moves what dropout draws
    packed = pack(LiveParts(model=module, data=data, trainer=trainer))
    trainer.fit(module, data)
    workload = from_live(unpack(packed), TRAIN)
    batches = [tuple(part[k : k + 8] for part in data.samples.tensors) for k in range(0, 96, 8)]
    for k in range(0, len(batches), micro_batches):
        loss = workload.accumulated_step(batches[k : k + micro_batches])
    assert loss.ndim == 0
    assert same(weights(workload.model), weights(module))


def test_training_after_finding_a_batch_size_ends_where_it_ends_without() -> None:
    ends = []
    for finds in (True, False):
        module, data = Net(), Data()
        trainer = pl.Trainer(max_epochs=1, **BARE)
        state = random.getstate(), torch.get_rng_state().tolist()
        if finds:
            result = find_batch_size(module, data, trainer=trainer, **QUICK)
            assert result.batch_size in (1, 2, 4)
            assert (random.getstate(), torch.get_rng_state().tolist()) == state
            assert not data.is_set_up
        torch.manual_seed(1)
        trainer.fit(module, data)
        ends.append(weights(module))
    assert same(*ends)


@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_the_callback_sets_the_batch_sizes_before_the_loaders_are_made(package: str) -> None:
    lightning = pytest.importorskip(package)
    if package == "lightning.pytorch":
        module, data = Net(), Data(batch_size=5, val_batch_size=5)
    else:
        module, data = _of(lightning)
    tuner = BatchSizeAutotuner(quiet=True, start=8, max_batch_size=8)
    trainer = lightning.Trainer(max_epochs=3, callbacks=[tuner], **BARE)
    trainer.fit(module, data)
    assert tuner.result is not None and tuner.validation_result is not None
    assert (tuner.result.spec.mode.value, tuner.validation_result.spec.mode.value) == ("train", "inference")
    assert (data.batch_size, data.val_batch_size) == (8, 8)
    assert data.hparams.batch_size == 8
    assert trainer.global_step == 3 * 96 // 8


def _of(lightning: Any) -> tuple[Any, Any]:
    """The same module and data, of another package."""
    functions = {name: value for name, value in vars(Net).items() if callable(value) and name != "__init__"}

    class OtherNet(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(4, 2)
            self.fails = False

    for name, function in functions.items():
        setattr(OtherNet, name, function)

    class OtherData(lightning.LightningDataModule):
        def __init__(self, batch_size: int = 5, val_batch_size: int = 5) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.batch_size, self.val_batch_size = batch_size, val_batch_size

        setup, train_dataloader, val_dataloader = Data.setup, Data.train_dataloader, Data.val_dataloader

    return OtherNet(), OtherData()


def test_the_second_search_is_for_speed_and_leaves_the_file_of_the_first(tmp_path: Path) -> None:
    options: dict[str, Any] = {"objective": "time-to-quality", "noise": "off", "output": tmp_path / "result.json"}
    tuner = BatchSizeAutotuner(start=8, max_batch_size=8, **QUICK, **options)
    pl.Trainer(max_epochs=1, callbacks=[tuner], **BARE).fit(Net(), Data())
    assert tuner.result is not None and tuner.validation_result is not None
    assert tuner.validation_result.spec.objective.value == "throughput"
    assert load_result(tmp_path / "result.json") == tuner.result


TWO_PROCESSES = """
from test_lightning import BARE, BatchSizeAutotuner, Data, Net, pl

if __name__ == "__main__":
    tuner = BatchSizeAutotuner(quiet=True)
    pl.Trainer(devices=2, strategy="ddp", max_epochs=1, callbacks=[tuner], **BARE).fit(Net(), Data())
"""


@pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="torch lacks gloo here")
def test_a_trainer_of_several_processes_is_refused(tmp_path: Path) -> None:
    script = tmp_path / "two_processes.py"
    script.write_text(TWO_PROCESSES)
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": paths},
    )
    assert done.returncode != 0
    assert "The Trainer trains in 2 processes, and a trial is one process alone." in done.stderr
    assert "trainer=Trainer(devices=1)" in done.stderr


def test_where_the_trainer_trains_is_known() -> None:
    assert training_device(LiveParts(model=Net(), trainer=pl.Trainer(**BARE))) == "cpu"
    assert training_device(LiveParts(model=Net())) is None


@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_steps_may_log_and_schedules_may_ask_how_many_steps_there_will_be(package: str, tmp_path: Path) -> None:
    lightning = pytest.importorskip(package)
    plain, data = _of(lightning)

    class Scheduled(type(plain)):
        def training_step(self, batch: Any, index: int) -> Any:
            self.logger.experiment.add_scalar("inputs", batch[0].sum(), index)
            assert Path(self.logger.log_dir).is_dir() and Path(self.trainer.log_dir).is_dir()
            return super().training_step(batch, index)

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            steps = self.trainer.estimated_stepping_batches
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    trainer = lightning.Trainer(default_root_dir=tmp_path, accelerator="cpu", logger=True)
    for given in (trainer, None):
        workload = from_live(unpack(pack(LiveParts(model=Scheduled(), data=data, trainer=given))), TRAIN)
        for _ in range(60):  # every 50 steps Lightning logs
            workload.training_step(workload.make_batch(4))
    assert not any(tmp_path.iterdir())


def test_without_a_logger_a_step_has_none() -> None:
    workload = from_live(unpack(pack(LiveParts(model=Net(), data=Data(), trainer=pl.Trainer(**BARE)))), TRAIN)
    workload.training_step(workload.make_batch(4))
    assert workload.model.logger is None


def test_a_trial_accumulates_as_the_trainer_does_and_the_optimizer_is_known() -> None:
    trainer = pl.Trainer(max_epochs=1, accumulate_grad_batches=4, **BARE)
    result = find_batch_size(Net(), Data(batch_size=8), trainer=trainer, start=4, max_batch_size=4, **QUICK)
    assert {trial.measurement.accumulation_steps for trial in result.trials if trial.measurement} == {2}
    assert result.workload.training == Training("AdamW", 1e-2, 32, 4)
    assert any("from 32 to 16, 4 x 4" in text for text in result.advice)
    assert result.num_workers == 0  # the DataLoader's


class Counted(Data):
    """Has something for the module to ask for, and a hook on every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.classes = 2
        self.prepared = 0

    def prepare_data(self) -> None:
        self.prepared += 1

    def on_after_batch_transfer(self, batch: Any, _loader: int) -> Any:
        return batch[0] + 1, batch[1]


class Asking(Net):
    """Builds its loss from the data module."""

    def configure_optimizers(self) -> Any:
        self.classes = self.trainer.datamodule.classes
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch: Any, index: int) -> Any:
        self.seen = batch[0]
        return super().training_step(batch, index)

    def validation_step(self, batch: Any, index: int) -> Any:
        self.seen = batch[0]


@pytest.mark.parametrize("options", [TRAIN, VALIDATE], ids=["train", "validate"])
def test_the_data_module_is_there_in_a_step_and_its_hooks_run(options: BuildOptions) -> None:
    data = Counted()
    workload = from_live(unpack(pack(LiveParts(model=Asking(), data=data))), options)
    for micro_batches in (1, 2):
        batch = workload.make_batch(4)
        if options.mode == "train":
            workload.accumulated_step([batch] * micro_batches)
        else:
            workload.inference_step(batch)
        assert torch.equal(workload.model.seen, batch[0] + 1)
    assert workload.model.trainer.datamodule.prepared == 1 and data.prepared == 0
    assert options.mode != "train" or workload.model.classes == 2


def doubled(samples: list[Any]) -> Any:
    inputs, targets = torch.utils.data.default_collate(samples)
    return 2 * inputs, targets


def test_a_loader_collates_and_reads_as_for_any_model() -> None:
    samples = TensorDataset(torch.ones(96, 4), torch.zeros(96, dtype=torch.long))
    loader = DataLoader(samples, batch_size=6, num_workers=1, collate_fn=doubled)
    workload = from_live(unpack(pack(LiveParts(model=Net(), data=loader))), TRAIN)
    workload.training_step(workload.make_batch(4))
    assert workload.make_batch(4)[0].unique().tolist() == [2.0]
    assert (workload.num_workers, workload.training().batch_size) == (1, 6)


def test_validation_runs_without_gradients() -> None:
    workload = from_live(LiveParts(model=Net(), data=Data()), VALIDATE)
    for size in (4, 4, 9):
        workload.inference_step(workload.make_batch(size))


def test_manual_optimization_runs_as_it_is() -> None:
    workload = from_live(LiveParts(model=Net(manual=True), data=Data()), TRAIN)
    assert workload.accumulated_step is None
    losses = [float(workload.training_step(workload.make_batch(32)).detach()) for _ in range(20)]
    assert losses[-1] < losses[0]


FILE = """
from tests.test_lightning import Data, Net
import lightning.pytorch as pl

model = Net()
datamodule = Data()
trainer = pl.Trainer(accelerator="cpu", precision="bf16-mixed", logger=False)
"""


def test_a_file_may_hold_a_module_a_data_module_and_a_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "with_lightning.py").write_text(FILE)
    workload = build_workload(FileWorkload(target="with_lightning.py"), TRAIN)
    seen = []
    workload.model.net[0].register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    assert float(workload.training_step(workload.make_batch(2))) > 0
    assert seen == [torch.bfloat16]
    assert workload.dataset_size == 96


FILE_WITH_A_DATASET = """
from tests.test_lightning import Net, doubled
import torch

model = Net()
dataset = [(torch.ones(4), 0)] * 50
collate_fn = doubled
dataset_size = 20
"""


def test_what_a_file_says_of_its_data_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "with_a_dataset.py").write_text(FILE_WITH_A_DATASET)
    workload = build_workload(FileWorkload(target="with_a_dataset.py"), TRAIN)
    assert workload.make_batch(3)[0].unique().tolist() == [2.0]
    assert workload.dataset_size == 20


def test_the_users_own_error_arrives_with_its_traceback() -> None:
    with pytest.raises(WorkloadError, match="the user's own") as caught:
        find_batch_size(Net(fails=True), Data(), quiet=True)
    assert 'raise KeyError("the user\'s own")' in caught.value.user_traceback


def test_nothing_is_left_in_the_folder_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert find_batch_size(Net(), Data(), **QUICK).isolated
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("autotune")] == []


def test_a_module_without_a_loader_is_refused_with_what_to_give() -> None:
    with pytest.raises(UsageError, match=r"Net has no train_dataloader") as caught:
        find_batch_size(Net(), quiet=True)
    assert "DataLoader" in caught.value.remedy


def test_a_callback_without_anything_to_set_says_which_line_to_add() -> None:
    data = Data()
    del data.batch_size
    trainer = pl.Trainer(callbacks=[BatchSizeAutotuner(batch_arg_name="size", quiet=True)], **BARE)
    with pytest.raises(UsageError, match="has a size to set") as caught:
        trainer.fit(Net(), data)
    assert "self.size = 32" in caught.value.remedy


TRAINING = """
import sys
from pathlib import Path
from test_lightning import BARE, Data, Net, pl

pl.Trainer(max_epochs=3, **BARE).fit(Net(), Data(batch_size=int(sys.argv[1])))
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(int(peak.split()[1]) // 1024)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
def test_three_epochs_with_the_size_found_stay_within_the_budget() -> None:
    budget_mib = 2048
    result = find_batch_size(Net(), Data(), memory_budget=budget_mib << 20, **QUICK)
    done = subprocess.run(
        [sys.executable, "-c", TRAINING, str(result.batch_size)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) <= budget_mib

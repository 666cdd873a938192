from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from autotune.errors import UsageError, WorkloadError
from autotune.spec import FileWorkload
from autotune.workloads import Workload
from autotune.workloads.batches import describe
from autotune.workloads.checks import check_batch, watch_inputs
from autotune.workloads.opening import build_workload

HEAD = """
import torch
from torch import nn
"""
NET = "model = nn.Linear(4, 3)\n"
LOSS = "loss = nn.CrossEntropyLoss()\n"
BATCH = """
def make_batch(batch_size):
    return torch.randn(batch_size, 4), torch.randint(3, (batch_size,))
"""


def step_once(workload: Workload, batch_size: int = 8) -> torch.Tensor:
    """One whole training step, guarded as in a trial."""
    batch = workload.make_batch(batch_size)
    check_batch(batch, batch_size)
    assert workload.training_step is not None
    with watch_inputs(workload.model, batch_size):
        return workload.training_step(batch)


def opened(path: str, options) -> Workload:
    return build_workload(FileWorkload(target=path), options)


def refusal(path: str, options) -> UsageError:
    with pytest.raises(UsageError) as caught:
        opened(path, options)
    assert "\n" not in caught.value.message
    assert caught.value.remedy
    return caught.value


# What a file may hold


def test_model_loss_optimizer_and_make_batch_train_the_model(write_file, train):
    optimizer = "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\ndataset_size = 1000\n"
    workload = opened(write_file(HEAD + NET + LOSS + optimizer + BATCH), train)
    before = workload.model.weight.detach().clone()
    first = step_once(workload)
    assert first.shape == ()
    assert not torch.equal(before, workload.model.weight)
    assert workload.dataset_size == 1000
    assert workload.assumptions == ()
    assert workload.name == "model.py"


def test_builders_are_called_and_the_default_optimizer_is_told(write_file, train):
    text = "def build_model():\n    return nn.Linear(4, 3)\n"
    workload = opened(write_file(HEAD + text + LOSS + BATCH), train)
    step_once(workload)
    assert any("AdamW with lr=0.001" in text for text in workload.assumptions)


def test_build_optimizer_gets_the_parameters_of_the_model(write_file, train):
    text = """
SEEN = []
def build_optimizer(parameters):
    SEEN.extend(parameters)
    return torch.optim.SGD(SEEN, lr=0.1)
"""
    workload = opened(write_file(HEAD + NET + LOSS + text + BATCH), train)
    seen = sys.modules["model"].SEEN
    assert [id(p) for p in seen] == [id(p) for p in workload.model.parameters()]
    before = workload.model.weight.detach().clone()
    step_once(workload)
    assert not torch.equal(before, workload.model.weight)


def test_dataset_with_collate_fn(write_file, train):
    text = """
dataset = [([1.0] * 4, i % 3) for i in range(30)]
def collate_fn(samples):
    return torch.tensor([x for x, _ in samples]), torch.tensor([y for _, y in samples])
"""
    workload = opened(write_file(HEAD + NET + LOSS + text), train)
    step_once(workload)
    assert workload.dataset_size == 30


@pytest.mark.parametrize("collates", [False, True])
def test_a_dataloader_brings_its_dataset_and_how_it_is_read(write_file, train, collates):
    data = """
from torch.utils.data import DataLoader, TensorDataset
dataset = TensorDataset(torch.randn(10, 4), torch.randint(3, (10,)))
def double(samples):
    inputs, targets = torch.utils.data.default_collate(samples)
    return 2 * inputs, targets
"""
    collate_fn = "double" if collates else None
    loader = f"dataloader = DataLoader(dataset, batch_size=2, num_workers=2, collate_fn={collate_fn})\n"
    workload = opened(write_file(HEAD + NET + LOSS + data + loader), train)
    step_once(workload, 8)
    assert workload.dataset_size == 10
    assert workload.num_workers == 2
    plain = opened(write_file(HEAD + NET + LOSS + data, "plain.py"), train)
    assert torch.equal(workload.make_batch(8)[0], (1 + collates) * plain.make_batch(8)[0])


def test_sample_is_stacked(write_file, train):
    workload = opened(write_file(HEAD + NET + LOSS + "sample = (torch.ones(4), 2)\n"), train)
    step_once(workload, 5)
    assert describe(workload.make_batch(5)) == "float32[5, 4], int64[5]"


def test_make_worst_batch_overrides_the_dataset_whose_size_remains(write_file, train):
    text = """
class Unread(torch.utils.data.Dataset):
    def __len__(self):
        return 77
    def __getitem__(self, index):
        raise AssertionError("not needed")
dataset = Unread()
def make_worst_batch(batch_size):
    return torch.randn(batch_size, 4), torch.zeros(batch_size, dtype=torch.long)
"""
    workload = opened(write_file(HEAD + NET + LOSS + text), train)
    step_once(workload)
    assert workload.dataset_size == 77


def test_make_worst_batch_beside_a_loader_leaves_the_number_of_samples_that_it_chooses(write_file, train):
    text = """
from torch.utils.data import DataLoader, SubsetRandomSampler
dataloader = DataLoader(range(1000), 8, sampler=SubsetRandomSampler(range(200)))
def make_worst_batch(batch_size):
    return torch.randn(batch_size, 4), torch.zeros(batch_size, dtype=torch.long)
"""
    assert opened(write_file(HEAD + NET + LOSS + text), train).dataset_size == 200


@pytest.mark.parametrize(
    "returned", ["value", "{'loss': value, 'logits': x}", "(value, x)", "type('Out', (), {'loss': value})()"]
)
def test_a_model_may_return_its_own_loss(write_file, train, returned):
    text = f"""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 3)
    def forward(self, x, labels):
        value = nn.functional.cross_entropy(self.inner(x), labels)
        return {returned}
model = Net()
"""
    assert step_once(opened(write_file(HEAD + text + BATCH), train)).shape == ()


def test_a_model_of_keywords_as_hugging_face_has_them(write_file, train):
    text = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(50, 8)
    def forward(self, input_ids, attention_mask=None, labels=None):
        logits = self.table(input_ids) @ self.table.weight.T
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()) if labels is not None else None
        return {"loss": loss, "logits": logits}
model = Net()
def make_batch(batch_size):
    ids = torch.randint(50, (batch_size, 6))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
"""
    path = write_file(HEAD + text)
    step_once(opened(path, train))
    workload = opened(path, replace(train, mode="inference"))
    output = workload.inference_step(workload.make_batch(3))
    assert output["loss"] is None, "labels are left out in inference"
    assert output["logits"].shape == (3, 6, 50)


def test_a_training_step_of_ones_own(write_file, train):
    text = """
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
def training_step(batch):
    x, y = batch
    optimizer.zero_grad()
    value = nn.functional.cross_entropy(model(x), y)
    value.backward()
    optimizer.step()
    return value
"""
    workload = opened(write_file(HEAD + NET + text + BATCH), train)
    before = workload.model.weight.detach().clone()
    step_once(workload)
    assert not torch.equal(before, workload.model.weight)
    assert workload.accumulated_step is None


def test_an_inference_step_of_ones_own_runs_without_gradients(write_file, inference):
    text = "def inference_step(batch):\n    return model(batch[0])\n"
    workload = opened(write_file(HEAD + NET + text + BATCH), inference)
    assert not workload.inference_step(workload.make_batch(2)).requires_grad
    assert not workload.model.training


def test_a_step_of_ones_own_needs_no_model(write_file, train):
    text = "def training_step(batch):\n    return batch[0].sum()\n"
    workload = opened(write_file(HEAD + text + BATCH), train)
    assert workload.model is None
    step_once(workload)


def test_workload_function_returns_the_whole(write_file, train):
    text = """
from autotune.workloads import Workload
net = nn.Linear(4, 3)
def workload():
    return Workload(make_batch=lambda n: torch.randn(n, 4), training_step=lambda b: net(b).sum(), model=net,
                    name="mine", dataset_size=9)
"""
    workload = opened(write_file(HEAD + text), train)
    step_once(workload)
    assert (workload.name, workload.dataset_size) == ("mine", 9)


def test_inference_drops_the_target_and_leaves_training_mode(write_file, inference):
    workload = opened(write_file(HEAD + NET + LOSS + BATCH), inference)
    assert workload.training_step is None
    output = workload.inference_step(workload.make_batch(5))
    assert output.shape == (5, 3)
    assert not output.requires_grad
    assert not workload.model.training


def test_the_bundled_digits_train(train):
    workload = build_workload(FileWorkload(target="autotune.examples.digits"), train)
    losses = [float(step_once(workload, 64)) for _ in range(10)]
    assert losses[-1] < losses[0]
    assert workload.dataset_size == 1797
    assert describe(workload.make_batch(8)) == "float32[8, 1, 8, 8], int64[8]"


def test_digits_without_scikit_learn_says_what_to_install(monkeypatch, train):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    monkeypatch.delitem(sys.modules, "autotune.examples.digits", raising=False)
    error = refusal("autotune.examples.digits", train)
    assert error.message == "The digits example needs scikit-learn, which is not installed."
    assert error.remedy == "python -m pip install scikit-learn"


# How a file is run


def test_a_file_is_run_once_as_a_module_of_its_own_folder(write_file, train):
    write_file("SHAPE = 4\n", "shapes_beside_it.py")
    text = """
import sys
from shapes_beside_it import SHAPE
assert __name__ == "my_net" and sys.modules[__name__].__file__ == __file__
assert sys.argv == [__file__]
if __name__ == "__main__":
    raise AssertionError("the guard must not run")
"""
    arguments = list(sys.argv)
    path = write_file(HEAD + text + NET + LOSS + BATCH, "my_net.py")
    step_once(opened(path, train))
    assert sys.path[0] == str(Path(path).parent)
    assert sys.argv == arguments


def test_a_file_named_like_a_module_in_use_does_not_replace_it(write_file, train):
    before = sys.modules["dataclasses"]
    opened(write_file(HEAD + NET + LOSS + BATCH, "dataclasses.py"), train)
    assert sys.modules["dataclasses"] is before
    del sys.modules["workload_dataclasses"]


def test_the_seed_makes_the_same_model_and_batch(write_file, train):
    path = write_file(HEAD + NET + LOSS + BATCH)
    weights = []
    for seed in (1, 1, 2):
        workload = opened(path, replace(train, seed=seed))
        weights.append((workload.model.weight.detach().clone(), workload.make_batch(2)[0]))
    assert torch.equal(weights[0][0], weights[1][0])
    assert torch.equal(weights[0][1], weights[1][1])
    assert not torch.equal(weights[0][0], weights[2][0])


def test_an_imported_module_called_loss_is_not_the_loss_and_a_forgotten_loss_is_told(write_file, train):
    write_file("def Net():\n    import torch\n    return torch.nn.Linear(4, 3)\n", "loss.py")
    text = "import loss\ndef build_model():\n    return loss.Net()\n"
    path = write_file(HEAD + text + BATCH, "with_modules.py")
    workload = opened(path, train)
    with pytest.raises(WorkloadError) as caught:
        step_once(workload)
    assert caught.value.message == (
        "There is no loss, and the model does not take the target itself; a batch is float32[8, 4], int64[8]."
    )
    assert "loss = torch.nn.functional.cross_entropy" in caught.value.remedy


# What is wrong with a file


@pytest.mark.parametrize(
    ("text", "message", "remedy"),
    [
        (NET + LOSS, "model.py has model, loss, but nothing to make batches of", "def make_batch(batch_size):"),
        (LOSS + BATCH, "model.py has loss, make_batch, but no model or build_model()", "def build_model():"),
        ("", "model.py has none of the names that are looked for, but no model", "def build_model():"),
        (NET + "build_model = lambda: model\n" + BATCH, "has both model and build_model", "rename the other"),
        (NET + BATCH + "dataset = [1]\n", "has both make_batch and dataset", "rename the other"),
        (
            NET + BATCH + "optimizer = build_optimizer = torch.optim.SGD\n",
            "has both optimizer and build_optimizer",
            "rename the other",
        ),
        (
            "def inference_step(batch): pass\n" + BATCH,
            "has inference_step and no training_step, but the mode is train",
            "def training_step(batch):",
        ),
        (
            "def build_model(): pass\ndef training_step(batch): pass\n" + BATCH,
            "has build_model() and training_step(batch), which cannot see the model",
            "model = build_model()",
        ),
        (NET + "make_batch = 3\n", "make_batch in model.py is a int, not a function", "def make_batch(...)"),
        (NET + BATCH + "dataset_size = 0\n", "dataset_size in model.py is 0, not a positive", "dataset_size = 50_000"),
        ("model = {'a': 1}\n" + BATCH, "The model is a dict, not a torch.nn.Module.", "def build_model()"),
        ("def build_model(): return 3\n" + BATCH, "The model is a int, not a torch.nn.Module.", "def build_model()"),
        (NET + "loss = nn.MSELoss\n" + BATCH, "loss is the class MSELoss, not an instance.", "loss = MSELoss()"),
        (NET + "loss = 0.5\n" + BATCH, "loss is a float, which cannot be called.", "loss = torch"),
        (NET + "optimizer = 'adam'\n" + BATCH, "The optimizer is a str", "def build_optimizer(parameters):"),
        (
            NET + "optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters())\n" + BATCH,
            "The optimizer holds none of the model's parameters",
            "def build_optimizer(parameters)",
        ),
        (
            "model = nn.Linear(4, 3).requires_grad_(False)\n" + BATCH,
            "no parameter that requires a gradient",
            "--mode inference",
        ),
        (
            "from .parts import model\n",
            "cannot import: ImportError: attempted relative",
            "autotune probe PACKAGE.model",
        ),
        ("def workload(): return 3\n", "workload() of model.py returned a int", "return autotune.Workload("),
        (
            "from autotune.workloads import Workload\ndef workload(): return Workload(make_batch=len)\n",
            "has no training_step, but the mode is train",
            "training_step=...",
        ),
        (NET + "dataset = []\n", "The dataset is empty.", "split"),
        (NET + "dataset = {'train': [1], 'test': [2]}\n", "The data is a dict of list", "Give a Dataset"),
        (
            NET + "dataset = [object()]\n",
            "Samples of object cannot be stacked into a batch: TypeError",
            "Add collate_fn(samples)",
        ),
        ("import argparse\nargparse.ArgumentParser().add_argument\nexit(3)\n", "exit code 3", '"__main__"'),
        ("import no_such_module\n", "model.py:4 imports no_such_module, which is not installed.", "no_such_module"),
        ("from torch import no_such\n", "model.py:4 cannot import: ImportError: cannot import name", "torch"),
        ("import torch.no_such\n", "imports torch.no_such, which is not installed", "torch is installed"),
        ("x = '\0'\n", "model.py: source code string cannot contain null bytes.", "Save the file as text in UTF-8."),
        ("x = = 1\n", "model.py:4: invalid syntax: x = = 1", "Correct that line."),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_what_to_do(write_file, train, text, message, remedy):
    error = refusal(write_file(HEAD + text), train)
    assert message in error.message
    assert remedy in error.remedy


def test_an_import_of_what_is_no_text_is_told_by_its_line(write_file, train, tmp_path):
    (tmp_path / "helper_in_utf16.py").write_text("x = 1\n", encoding="utf-16")
    error = refusal(write_file(HEAD + "import helper_in_utf16\n"), train)
    assert error.message == "model.py:4: source code string cannot contain null bytes."


def test_a_required_command_line_is_no_traceback(write_file, train, capsys):
    text = "import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('data')\nparser.parse_args()\n"
    error = refusal(write_file(HEAD + text), train)
    assert "model.py ends the interpreter while it is loaded (exit code 2)" in error.message
    assert "the following arguments are required: data" in capsys.readouterr().err


def test_paths_that_are_no_file(write_file, train, tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    assert refusal(str(tmp_path), train).message == f"{tmp_path} is a directory, not a Python file."
    assert refusal(str(tmp_path / "gone.py"), train).message == f"{tmp_path / 'gone.py'} does not exist."
    assert refusal(str(tmp_path / "notes.txt"), train).message == f"{tmp_path / 'notes.txt'} is not a Python file."
    assert refusal("no_such.module", train).message == "There is no module no_such."


def test_a_missing_module_with_another_distribution_name(write_file, train, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    error = refusal(write_file("import cv2\n"), train)
    assert "model.py:1 imports cv2" in error.message


@pytest.mark.parametrize(
    ("option", "text"), [({"precision": "bf16"}, "--precision bf16"), ({"compile": True}, "--compile")]
)
def test_options_of_the_standard_loop_are_refused_for_ones_own(write_file, train, option, text):
    path = write_file(HEAD + NET + "def training_step(batch): pass\n" + BATCH)
    error = refusal(path, replace(train, **option))
    assert f"{text} cannot be used with model.py" in error.message


def test_what_the_file_raises_is_told_whole_and_without_our_frames(write_file, train):
    text = """
def load_weights():
    try:
        return {}["weights"]
    except KeyError as error:
        raise RuntimeError("weights are damaged") from error
model = load_weights()
"""
    with pytest.raises(WorkloadError) as caught:
        opened(write_file(HEAD + text), train)
    told = caught.value.user_traceback
    assert caught.value.message == "Loading model.py raised RuntimeError: weights are damaged"
    assert "KeyError: 'weights'" in told
    assert 'raise RuntimeError("weights are damaged")' in told
    assert "loading.py" not in told
    assert "tracebacks.py" not in told
    assert "importlib" not in told


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def build_model(): return nn.Linear('a', 3)\n", "Building the model raised TypeError"),
        (NET + "def build_optimizer(parameters): return 1 / 0\n", "Building the optimizer raised ZeroDivisionError"),
        ("def workload(): return 1 / 0\n", "workload() of model.py raised ZeroDivisionError"),
    ],
)
def test_what_a_builder_raises_names_the_builder(write_file, train, text, message):
    with pytest.raises(WorkloadError) as caught:
        opened(write_file(HEAD + text + BATCH), train)
    assert message in caught.value.message
    assert "model.py" in caught.value.user_traceback

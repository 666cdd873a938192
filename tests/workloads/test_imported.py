from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, mse_loss

from autotune.errors import UsageError, WorkloadError
from autotune.spec import ClassWorkload
from autotune.workloads.batches import describe
from autotune.workloads.imported import RandomTensor, parse_answer, parse_argument, parse_input
from autotune.workloads.opening import build_workload

NETS = """
import torch
from torch import nn

class Classifier(nn.Module):
    def __init__(self, features, classes=10, *, bias=True):
        super().__init__()
        self.inner = nn.Linear(features, classes, bias=bias)
    def forward(self, x):
        return self.inner(x)

class OwnLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(100, 8)
    def forward(self, ids, weights):
        return {"loss": (self.table(ids).sum(-1) * weights).mean()}

def pixels():
    return nn.Conv2d(3, 21, 1)

def broken():
    raise ValueError("no such weights")

def number():
    return 3

ready = nn.Linear(5, 5)
constant = 7
"""

shapes = st.lists(st.integers(1, 10**6), min_size=1, max_size=4).map(tuple)


def written(shape):
    return "x".join(map(str, shape))


@given(shapes, st.none() | st.integers(1, 10**6))
def test_an_input_is_read_as_it_was_written(shape, below):
    text = written(shape) if below is None else f"int:{below}:{written(shape)}"
    assert parse_input(text) == RandomTensor(shape, below)


@given(shapes, st.integers(1, 10**6))
def test_a_target_is_read_as_it_was_written(shape, classes):
    assert parse_answer(f"class:{classes}") == (RandomTensor((), classes), cross_entropy)
    assert parse_answer(f"class:{classes}:{written(shape)}") == (RandomTensor(shape, classes), cross_entropy)
    assert parse_answer(f"float:{written(shape)}") == (RandomTensor(shape), mse_loss)


@pytest.mark.parametrize("text", ["", "3x", "x3", "3x0", "3,224,224", "int:128", "int:0:5", "int:5:", "-1", "3 x 4"])
def test_a_malformed_input_is_refused(text):
    with pytest.raises(UsageError) as caught:
        parse_input(text)
    assert caught.value.message == f"--input {text} is no shape."


@pytest.mark.parametrize("text", ["", "class", "class:", "class:0", "class:10:", "float", "5", "float:0", "int:5"])
def test_a_malformed_target_is_refused(text):
    with pytest.raises(UsageError, match="is no target"):
        parse_answer(text)


@pytest.mark.parametrize(
    ("text", "value"), [("n=3", 3), ("n=None", None), ("n=(1, 2)", (1, 2)), ("n='a=b'", "a=b"), ("n=[1.5]", [1.5])]
)
def test_arguments_are_python_literals(text, value):
    assert parse_argument(text) == ("n", value)


@pytest.mark.parametrize("text", ["n", "=3", "1n=3"])
def test_what_is_no_argument_is_refused(text):
    with pytest.raises(UsageError, match="is not NAME=VALUE"):
        parse_argument(text)


def test_text_without_quotes_gets_the_quotes_as_a_remedy():
    with pytest.raises(UsageError) as caught:
        parse_argument("kind=resnet18")
    assert "kind='resnet18'" in caught.value.remedy


@pytest.fixture
def nets(write_file, tmp_path, monkeypatch):
    write_file(NETS, "nets_under_test.py")
    monkeypatch.chdir(tmp_path)
    return "nets_under_test"


def test_a_class_of_the_current_folder_trains(nets, train):
    ref = ClassWorkload(
        target=f"{nets}:Classifier", inputs=("12",), answer="class:4", arguments=("features=12", "classes=4")
    )
    workload = build_workload(ref, train)
    before = workload.model.inner.weight.detach().clone()
    workload.training_step(workload.make_batch(8))
    assert not torch.equal(before, workload.model.inner.weight)
    assert describe(workload.make_batch(8)) == "float32[8, 12], int64[8]"
    assert torch.equal(workload.make_batch(8)[0], workload.make_batch(8)[0])
    assert workload.name == f"{nets}:Classifier"


def test_several_inputs_are_positional_and_the_model_may_make_its_loss(nets, train):
    ref = ClassWorkload(target=f"{nets}:OwnLoss", inputs=("int:100:6", "6"))
    workload = build_workload(ref, train)
    assert workload.training_step(workload.make_batch(3)).shape == ()


def test_a_function_with_dense_labels(nets, train):
    ref = ClassWorkload(target=f"{nets}:pixels", inputs=("3x16x16",), answer="class:21:16x16")
    workload = build_workload(ref, train)
    assert workload.training_step(workload.make_batch(2)).shape == ()


def test_a_ready_module_and_a_regression(nets, train):
    workload = build_workload(ClassWorkload(target=f"{nets}:ready", inputs=("5",), answer="float:5"), train)
    assert workload.training_step(workload.make_batch(2)).shape == ()


def test_torchs_own_classes_in_inference(inference):
    ref = ClassWorkload(
        target="torch.nn:Linear", inputs=("3x7",), arguments=("in_features=7", "out_features=2", "bias=False")
    )
    workload = build_workload(ref, inference)
    assert workload.inference_step(workload.make_batch(4)).shape == (4, 3, 2)


@pytest.mark.parametrize(
    ("target", "arguments", "said"),
    [
        ("torch.nn", (), ("torch.nn is not package.module:Class.", "torchvision.models:resnet50")),
        ("torch.nn:Lineer", (), ("torch.nn has no Lineer", "Did you mean Linear")),
        ("no_such_package.nets:Net", (), ("There is no module no_such_package.", "pip install no_such_package")),
        ("torch.nn:Linear", (), ("torch.nn:Linear needs in_features, out_features.", "--arg in_features=VALUE")),
        (
            "torch.nn:Linear",
            ("in_features=3", "out_features=3", "biass=True"),
            ("torch.nn:Linear takes no biass.", "in_features, out_features, bias"),
        ),
        ("collections:OrderedDict", (), ("is a class that makes no torch.nn.Module", "subclass")),
        ("math:pi", (), ("math:pi is a float, which makes no torch.nn.Module", "subclass")),
        ("nets_under_test:number", (), ("returned a int, not a torch.nn.Module", "subclass")),
        ("nets_under_test:ready", ("a=3",), ("is a Linear, which makes no", "subclass")),
    ],
)
@pytest.mark.usefixtures("nets")
def test_what_cannot_be_found_or_called_is_said_in_one_line(train, target, arguments, said):
    with pytest.raises(UsageError) as caught:
        build_workload(ClassWorkload(target=target, inputs=("3",), arguments=arguments), train)
    message, remedy = said
    assert message in caught.value.message
    assert "\n" not in caught.value.message
    assert remedy in caught.value.remedy


def test_no_input_is_refused(train):
    with pytest.raises(UsageError, match="was given no input"):
        build_workload(ClassWorkload(target="torch.nn:Linear", inputs=()), train)


def test_a_constructor_that_raises_is_told_with_its_traceback(nets, train):
    with pytest.raises(WorkloadError) as caught:
        build_workload(ClassWorkload(target=f"{nets}:broken", inputs=("3",)), train)
    assert caught.value.message == "nets_under_test:broken() raised ValueError: no such weights"
    assert "nets_under_test.py" in caught.value.user_traceback
    assert "imported.py" not in caught.value.user_traceback

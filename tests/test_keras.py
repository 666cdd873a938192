"""Keras models on the torch backend, real ones: found, left alone, and trained with what was found."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packing import pack, unpack
from torch.utils.data import DataLoader, TensorDataset

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")

from autotune import UsageError, WorkloadError, find_batch_size  # noqa: E402
from autotune.spec import FileWorkload  # noqa: E402
from autotune.workloads import BuildOptions  # noqa: E402
from autotune.workloads.live import LiveParts, from_live  # noqa: E402
from autotune.workloads.opening import build_workload  # noqa: E402

pytestmark = [
    pytest.mark.skipif(keras.backend.backend() != "torch", reason="Keras runs another backend here"),
    pytest.mark.filterwarnings("ignore"),  # Keras' own, of many kinds
]

TRAIN = BuildOptions(device="cpu", mode="train")
PREDICT = BuildOptions(device="cpu", mode="inference")
QUICK: dict[str, Any] = {"quiet": True, "max_trials": 3}
RNG = np.random.default_rng(0)
X = RNG.random((1000, 4), dtype="float32")
Y = (X.sum(axis=1) > 2).astype("int64")


def mlp(**compilation: Any) -> Any:
    """BatchNorm, dropout with a seed generator, L2, and an optimizer with a momentum that has stepped."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(16, activation="relu", kernel_regularizer=keras.regularizers.L2(0.01)),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.2, seed=1),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )
    schedule = keras.optimizers.schedules.ExponentialDecay(1e-2, 10, 0.9)
    given = {"optimizer": keras.optimizers.Adam(schedule), "loss": "sparse_categorical_crossentropy"}
    model.compile(**given | {"metrics": ["accuracy"]} | compilation)
    model.fit(X[:64], Y[:64], batch_size=16, verbose=0)
    return model


def state(model: Any) -> list[np.ndarray]:
    """Weights, optimizer, seed generators and metrics."""
    tree = model.get_state_tree(value_format="numpy_array")
    return [np.asarray(leaf) for leaf in keras.tree.flatten(tree)]


def same(ours: list[np.ndarray], theirs: list[np.ndarray]) -> bool:
    return len(ours) == len(theirs) > 0 and all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def random_states() -> tuple[Any, ...]:
    numpy = np.random.get_state()
    return random.getstate(), numpy[1].tolist(), numpy[2], torch.get_rng_state().tolist()


def test_the_model_stays_as_it_is_and_training_goes_on_alike() -> None:
    found, other = mlp(), mlp()
    assert same(state(found), state(other))
    keras.utils.set_random_seed(1)
    before, numbers = state(found), random_states()
    result = find_batch_size(found, X, Y, **QUICK)
    assert result.batch_size in (1, 2, 4)
    assert result.forecast is not None, result.no_forecast  # dropout reads its seed from a tensor
    assert random_states() == numbers
    assert same(state(found), before)
    ends = []
    for model in (found, other):
        keras.utils.set_random_seed(2)
        model.fit(X, Y, batch_size=100, epochs=1, verbose=0)
        ends.append(state(model))
    assert same(*ends)


def test_the_optimizer_is_known_and_the_batch_size_where_data_comes_in_batches() -> None:
    x, y = np.zeros((64, 4), "float32"), np.zeros(64, "int64")
    (text,) = find_batch_size(mlp(), x, y, max_batch_size=2, **QUICK).advice
    assert "If this changes your batch size" in text and "2205.10287" in text
    assert find_batch_size(mlp(), Batches(), max_batch_size=2, **QUICK).workload.training.batch_size == 32


def test_a_step_is_that_of_fit() -> None:
    """The copy in another process, as it is unpickled there, takes the very steps that `fit` takes."""
    theirs = mlp()
    theirs.layers[2].rate = 0.0  # Keras saves no seed generators, so dropout would draw other numbers
    packed = pack(LiveParts(model=theirs, data=(X, Y)))
    theirs.fit(X[:96], Y[:96], batch_size=32, shuffle=False, verbose=0)
    workload = from_live(unpack(packed), TRAIN)
    for k in range(0, 96, 32):
        workload.training_step((torch.from_numpy(X[k : k + 32]), torch.from_numpy(Y[k : k + 32])))
    assert same([np.asarray(w) for w in workload.model.get_weights()], [np.asarray(w) for w in theirs.get_weights()])


@keras.saving.register_keras_serializable(package="tests")
def test_a_step_that_accumulates_is_that_of_fit_too() -> None:
    ends = []
    for accumulates in (True, False):
        workload = from_live(LiveParts(model=mlp(metrics=[]), data=(X, Y)), TRAIN)
        keras.utils.set_random_seed(1)
        for _ in range(3):
            batch = workload.make_batch(16)
            workload.accumulated_step([batch]) if accumulates else workload.training_step(batch)
        ends.append([np.asarray(weight) for weight in workload.model.get_weights()])
    assert same(*ends)


class OwnStep(keras.Sequential):
    def train_step(self, data: Any) -> Any:
        return super().train_step(data)


def test_a_step_of_the_users_own_is_not_taken_apart() -> None:
    model = OwnStep([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    assert from_live(LiveParts(model=model, data=(X, Y)), TRAIN).accumulated_step is None


class Registered(keras.layers.Layer):
    """Known to Keras."""

    def call(self, inputs: Any) -> Any:
        return 2 * inputs


class Unregistered(keras.layers.Layer):
    """The user's own, with a weight."""

    def build(self, shape: Any) -> None:
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, inputs: Any) -> Any:
        return self.scale * inputs


class Subclassed(keras.Model):
    """A model by inheritance."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.dense, self.own, self.known = keras.layers.Dense(1), Unregistered(), Registered()

    def call(self, inputs: Any, training: bool = False) -> Any:
        return self.known(self.own(self.dense(inputs)))


def test_classes_and_functions_of_the_users_own_come_along() -> None:
    def own_loss(targets: Any, outputs: Any) -> Any:
        return keras.ops.mean(keras.ops.square(outputs - keras.ops.cast(targets, outputs.dtype)))

    model = Subclassed()
    model.compile("sgd", loss=own_loss)
    model.fit(X[:8], Y[:8, None], verbose=0)
    workload = from_live(unpack(pack(LiveParts(model=model, data=(X, Y[:, None])))), TRAIN)
    assert same([np.asarray(w) for w in workload.model.get_weights()], [np.asarray(w) for w in model.get_weights()])
    assert workload.training_step(workload.make_batch(8)) > 0
    assert workload.dataset_size == 1000


def build_and_compile() -> Any:
    return mlp()


def test_a_function_may_build_and_compile_it() -> None:
    result = find_batch_size(build_and_compile, X, Y, **QUICK)
    assert [trial.outcome.value for trial in result.trials] == ["fits"] * 3
    assert result.workload.parameters is not None


def test_several_inputs_and_weights_of_samples() -> None:
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    outputs = keras.layers.Dense(1)(keras.layers.Concatenate()([left, right]))
    model = keras.Model([left, right], outputs)
    model.compile("sgd", "mse")
    data = ({"left": X, "right": X}, Y[:, None].astype("float32"), np.ones(1000, dtype="float32"))
    workload = from_live(LiveParts(model=model, data=data), TRAIN)
    inputs, targets, weights = workload.make_batch(6)
    assert inputs["left"].shape == (6, 4) and targets.shape == (6, 1) and weights.shape == (6,)
    assert workload.training_step((inputs, targets, weights)) > 0
    assert workload.dataset_size == 1000


class Batches(keras.utils.PyDataset):
    """100 samples in batches of 32, the last of which is smaller."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        rows = slice(32 * index, min(32 * index + 32, 100))
        return X[rows], Y[rows]


def test_a_dataset_of_batches_is_taken_apart() -> None:
    workload = from_live(unpack(pack(LiveParts(model=mlp(), data=Batches()))), TRAIN)
    inputs, targets = workload.make_batch(50)
    assert inputs.shape == (50, 4) and targets.shape == (50,)
    assert workload.dataset_size == 100
    assert workload.training_step((inputs, targets)) > 0


def test_prediction_needs_no_compilation_and_training_does() -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    workload = from_live(LiveParts(model=model, data=X), PREDICT)
    assert workload.inference_step(workload.make_batch(3)).shape == (3, 2)
    with pytest.raises(UsageError, match="is not compiled") as caught:
        find_batch_size(model, X, Y, quiet=True)
    assert "model.compile(" in caught.value.remedy


def test_a_precision_of_ours_is_refused_since_keras_has_policies() -> None:
    with pytest.raises(UsageError, match="--precision bf16") as caught:
        find_batch_size(mlp(), X, Y, precision="bf16", quiet=True)
    assert "dtype policy" in caught.value.remedy


def test_the_users_own_error_arrives_with_its_traceback() -> None:
    def wrong(targets: Any, outputs: Any) -> Any:
        raise KeyError("the user's own")

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile("sgd", loss=wrong)
    with pytest.raises(WorkloadError, match="the user's own") as caught:
        find_batch_size(model, X, Y, quiet=True)
    assert 'raise KeyError("the user\'s own")' in caught.value.user_traceback


FILE = """
import keras
import numpy as np

model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
model.compile("sgd", "mse")
x, y = np.zeros((50, 4), dtype="float32"), np.zeros((50, 2), dtype="float32")
"""


def test_a_file_may_hold_a_compiled_model_with_x_and_y(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keras_model.py").write_text(FILE)
    workload = build_workload(FileWorkload(target="keras_model.py"), TRAIN)
    assert workload.training_step(workload.make_batch(5)) >= 0
    assert workload.dataset_size == 50


APPLICATIONS = ["MobileNetV3Small", "DenseNet121"]


@pytest.mark.parametrize("name", APPLICATIONS)
def test_an_application_is_probed_without_a_special_case(name: str) -> None:
    def build() -> Any:
        model = getattr(keras.applications, name)(weights=None, input_shape=(32, 32, 3), classes=10)
        model.compile("sgd", "sparse_categorical_crossentropy")
        return model

    images, classes = RNG.random((4, 32, 32, 3), dtype="float32"), np.arange(4)
    result = find_batch_size(build, images, classes, quiet=True, max_trials=2)
    assert [trial.outcome.value for trial in result.trials] == ["fits"] * 2


TRAINING = """
import sys
from importlib.util import find_spec
from pathlib import Path
from test_keras import X, Y, mlp

mlp().fit(X, Y, batch_size=int(sys.argv[1]), epochs=3, verbose=0)
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(int(peak.split()[1]) // 1024)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
def test_three_epochs_with_the_size_found_stay_within_the_budget() -> None:
    budget_mib = 2048
    result = find_batch_size(mlp(), X, Y, memory_budget=budget_mib << 20, **QUICK)
    done = subprocess.run(
        [sys.executable, "-c", TRAINING, str(result.batch_size)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) <= budget_mib


OTHER_BACKEND = """
import os
import sys
from importlib.util import find_spec

os.environ["KERAS_BACKEND"] = sys.argv[1]
import keras
import numpy as np
from autotune import find_batch_size

x = np.random.default_rng(0).random((64, 4), dtype="float32")
y = (x.sum(axis=1) > 2).astype("int64")


def state(model):
    return [np.asarray(variable) for variable in (*model.variables, *model.optimizer.variables)]


def made():
    keras.utils.set_random_seed(0)
    layers = [keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dropout(0.2), keras.layers.Dense(2)]
    model = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    model.fit(x, y, verbose=0)
    return model


found, other = made(), made()
before = state(found)
result = find_batch_size(found, x, y, quiet=True, max_trials=2)
assert [trial.outcome.value for trial in result.trials] == ["fits"] * 2, result.trials
assert result.workload.dataset_size == 64
assert all(np.array_equal(a, b) for a, b in zip(before, state(found), strict=True))
for model in (found, other):
    keras.utils.set_random_seed(1)
    model.fit(x, y, batch_size=result.batch_size, verbose=0)
assert all(np.array_equal(a, b) for a, b in zip(state(found), state(other), strict=True))
"""


@pytest.mark.parametrize("backend", ["jax", "tensorflow"])
def test_another_backend_is_that_of_the_trials_too(backend: str) -> None:
    if find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    done = subprocess.run(
        [sys.executable, "-c", OTHER_BACKEND, backend],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent.parent,
        env={name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"},
    )
    assert done.returncode == 0, done.stderr


def test_a_backend_that_is_not_there_is_told_as_such(tmp_path: Path) -> None:
    if find_spec("tensorflow") is not None:
        pytest.skip("tensorflow is installed")
    (tmp_path / "keras_model.py").write_text(FILE)
    environment = os.environ | {"KERAS_BACKEND": "tensorflow"}
    command = [sys.executable, "-m", "autotune", "probe", "keras_model.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Keras is set to a backend that is not installed: tensorflow." in done.stderr
    assert "KERAS_BACKEND=torch" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_without_data_says_what_to_give() -> None:
    with pytest.raises(UsageError, match="There is no data"):
        find_batch_size(mlp(), quiet=True)


def doubled(samples: list[Any]) -> Any:
    inputs, targets = torch.utils.data.default_collate(samples)
    return 2 * inputs, targets


def test_a_loader_collates_and_reads_as_for_any_model() -> None:
    dataset = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    loader = DataLoader(dataset, batch_size=6, num_workers=1, collate_fn=doubled)
    workload = from_live(unpack(pack(LiveParts(model=mlp(), data=loader))), TRAIN)
    plain = from_live(LiveParts(model=mlp(), data=dataset), TRAIN)
    assert torch.equal(workload.make_batch(8)[0], 2 * plain.make_batch(8)[0])
    assert (workload.num_workers, workload.training().batch_size) == (1, 6)
    assert workload.training_step(workload.make_batch(8)) > 0


FILE_WITH_A_DATASET = """
import keras
import torch

model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
model.compile("sgd", "mse")
dataset = [(torch.zeros(4), torch.zeros(1))] * 50
dataset_size = 20


def collate_fn(samples):
    inputs, targets = torch.utils.data.default_collate(samples)
    return inputs + 1, targets
"""
WORST = """
def make_worst_batch(batch_size):
    return torch.full((batch_size, 4), 7.0), torch.zeros(batch_size, 1)
"""


@pytest.mark.parametrize(("more", "value"), [("", 1), (WORST, 7)])
def test_what_a_file_says_of_its_data_holds_for_keras_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str, value: float
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keras_data.py").write_text(FILE_WITH_A_DATASET + more)
    workload = build_workload(FileWorkload(target="keras_data.py"), TRAIN)
    assert workload.make_batch(5)[0].unique().tolist() == [value]
    assert workload.dataset_size == 20
    assert workload.training_step(workload.make_batch(5)) >= 0

from __future__ import annotations

import pickle
import random
import subprocess
import sys
import threading
from io import BytesIO
from pathlib import Path
from types import FunctionType

import numpy as np
import pytest
import torch
from packing import pack, unpack
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset

from autotune.devices import linux_process as linux
from autotune.errors import UsageError, WorkloadError
from autotune.spec import LiveWorkload, PickledWorkload
from autotune.workloads import live
from autotune.workloads.live import LiveParts, from_live
from autotune.workloads.opening import build_workload
from autotune.workloads.pickling import dump

X, Y = torch.randn(64, 4), torch.randint(3, (64,))


def trained_parts(**changes):
    """A model with an optimizer that has stepped, and so has a state."""
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    cross_entropy(model(X), Y).backward()
    optimizer.step()
    return LiveParts(**{"model": model, "data": (X, Y), "loss": cross_entropy, "optimizer": optimizer, **changes})


def state_of(parts):
    tensors = [*parts.model.state_dict().values()]
    for state in parts.optimizer.state.values():
        tensors += [value for value in state.values() if torch.is_tensor(value)]
    return [tensor.clone() for tensor in tensors]


def assert_same(ours, theirs):
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)


def test_the_optimizer_keeps_the_models_parameters_and_its_state_on_the_way():
    parts = trained_parts()
    arrived = unpack(pack(parts))
    held = [id(p) for group in arrived.optimizer.param_groups for p in group["params"]]
    assert held == [id(p) for p in arrived.model.parameters()]
    assert_same(state_of(arrived), state_of(parts))
    assert len(arrived.optimizer.state) == 4


def test_packing_and_training_the_copy_leaves_the_caller_alone(train):
    parts = trained_parts()
    gradients = [p.grad.clone() for p in parts.model.parameters()]
    before, python, numpy, host = state_of(parts), random.getstate(), np.random.get_state(), torch.get_rng_state()
    packed = pack(parts)
    assert random.getstate() == python
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), numpy, strict=True))
    assert torch.equal(torch.get_rng_state(), host)
    workload = from_live(unpack(packed), train)
    workload.training_step(workload.make_batch(16))
    assert_same(state_of(parts), before)
    assert_same([p.grad for p in parts.model.parameters()], gradients)


def test_training_the_copy_goes_on_as_the_caller_would(train):
    parts = trained_parts()
    workload = from_live(unpack(pack(parts)), train)
    batch = workload.make_batch(16)
    workload.training_step(batch)
    parts.optimizer.zero_grad()
    cross_entropy(parts.model(batch[0]), batch[1]).backward()
    parts.optimizer.step()
    assert_same(list(workload.model.state_dict().values()), list(parts.model.state_dict().values()))


def test_a_scheduler_on_the_optimizer_does_not_stand_in_the_way(train):
    parts = trained_parts()
    scheduler = torch.optim.lr_scheduler.StepLR(parts.optimizer, step_size=1, gamma=0.1)
    parts.optimizer.step()
    scheduler.step()
    arrived = unpack(pack(parts))
    assert arrived.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3)
    workload = from_live(arrived, train)
    before = arrived.model[0].weight.detach().clone()
    workload.training_step(workload.make_batch(8))
    assert not torch.equal(before, arrived.model[0].weight)
    assert scheduler.optimizer is parts.optimizer


def test_tied_weights_arrive_tied():
    model = nn.ModuleDict({"table": nn.Embedding(20, 8), "head": nn.Linear(8, 20, bias=False)})
    model["head"].weight = model["table"].weight
    arrived = unpack(pack(LiveParts(model=model, data=X)))
    assert arrived.model["head"].weight is arrived.model["table"].weight


def test_a_lazy_model_arrives_lazy_and_is_initialized(train):
    arrived = unpack(pack(LiveParts(model=nn.LazyLinear(3), data=(X, Y), loss=cross_entropy)))
    workload = from_live(arrived, train)
    workload.training_step(workload.make_batch(8))
    assert workload.model.weight.shape == (3, 4)


def test_closures_and_builders_travel(train):
    width = 16

    def build_model():
        return nn.Sequential(nn.Linear(4, width), nn.Linear(width, 3))

    parts = LiveParts(
        model=build_model,
        data=lambda n: (torch.zeros(n, 4), torch.zeros(n, dtype=torch.long)),
        loss=nn.CrossEntropyLoss(),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
        name="mine",
    )
    workload = from_live(unpack(pack(parts)), train)
    workload.training_step(workload.make_batch(8))
    assert workload.name == "mine"
    assert workload.dataset_size is None


def test_a_step_that_closes_over_model_and_optimizer_keeps_them_on_the_way(train):
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def training_step(batch):
        optimizer.zero_grad()
        loss = cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        return loss

    workload = from_live(unpack(pack(LiveParts(model=model, data=(X, Y), training_step=training_step))), train)
    before = workload.model.weight.detach().clone()
    workload.training_step(workload.make_batch(8))
    assert not torch.equal(before, workload.model.weight)
    assert torch.equal(before, model.weight)


def test_a_loader_with_workers_and_what_cannot_travel_gives_its_dataset():
    loader = DataLoader(TensorDataset(X, Y), batch_size=4, num_workers=2, worker_init_fn=lambda _: threading.Lock())
    iterator = iter(DataLoader(TensorDataset(X, Y)))
    loader.held = iterator  # something that a loader may carry and that no pickle takes
    parts = unpack(pack(trained_parts(data=loader)))
    assert isinstance(parts.data, TensorDataset)
    assert parts.collate_fn is not None


class Unpicklable:
    """A callable that holds what no pickle takes."""

    def __init__(self):
        self.lock = threading.Lock()

    def __call__(self, output, target):
        return output.sum()


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("model", nn.Sequential(nn.Linear(4, 3)), "model=build_model"),
        ("data", (sample for sample in [1, 2]), "data=make_batch"),
        ("loss", Unpicklable(), "Pass a function"),
    ],
)
def test_the_part_that_cannot_travel_is_named_with_what_to_pass_instead(name, value, remedy):
    if name == "model":
        value.lock = threading.Lock()
    with pytest.raises(UsageError) as caught:
        pack(trained_parts(optimizer=None, **{name: value}))
    assert caught.value.message.startswith(f"The {name} cannot be sent to another process: TypeError: cannot pickle")
    assert remedy in caught.value.remedy


def test_a_pickled_reference_is_opened(tmp_path, train):
    path = tmp_path / "parts.pickle"
    path.write_bytes(pack(trained_parts(name="net")))
    workload = build_workload(PickledWorkload(path=str(path), name="net"), train)
    workload.training_step(workload.make_batch(8))
    assert (workload.name, workload.dataset_size) == ("net", 64)


def test_modules_of_the_callers_path_are_found(write_file, tmp_path, monkeypatch, train):
    write_file("import torch\nclass Net(torch.nn.Linear):\n    pass\n", "nets_of_the_caller.py")
    monkeypatch.syspath_prepend(tmp_path)
    import sys

    import nets_of_the_caller

    path = tmp_path / "parts.pickle"
    path.write_bytes(pack(LiveParts(model=nets_of_the_caller.Net(4, 3), data=(X, Y), loss=cross_entropy)))
    sys.modules.pop("nets_of_the_caller")
    sys.path.remove(str(tmp_path))
    with pytest.raises(UsageError, match="nets_of_the_caller, which is not installed"):
        build_workload(PickledWorkload(path=str(path)), train)
    workload = build_workload(PickledWorkload(path=str(path), search_path=(str(tmp_path),)), train)
    workload.training_step(workload.make_batch(8))


def test_live_objects_are_used_as_they_are(train):
    parts = trained_parts()
    workload = build_workload(LiveWorkload(name="net"), train, live=parts)
    assert workload.model is parts.model
    moments = parts.optimizer.state[parts.model[0].weight]["exp_avg"]
    workload.training_step(workload.make_batch(8))
    assert parts.optimizer.state[parts.model[0].weight]["exp_avg"] is moments


def test_live_objects_without_their_parts_are_refused(train):
    with pytest.raises(UsageError, match="net lives in another process"):
        build_workload(LiveWorkload(name="net"), train)


def test_an_optimizer_of_another_model_is_refused(train):
    stranger = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    with pytest.raises(UsageError, match="holds none of the model's parameters"):
        from_live(trained_parts(optimizer=stranger), train)


def test_a_builder_that_raises_is_told(train):
    def build_model():
        raise OSError("weights.pt is missing")

    with pytest.raises(WorkloadError, match=r"Building the model raised OSError: weights.pt is missing"):
        from_live(LiveParts(model=build_model, data=X), train)


HOOKED = """
from pathlib import Path
from torch import nn, randn
from autotune.workloads.live import LiveParts, pack
model = nn.utils.spectral_norm(nn.Linear(3, 3))  # whose work is done by a hook
pack(LiveParts(model=model, data=randn(4, 3)), Path("/dev/stdout"))
"""

WATCHED = """
from pathlib import Path
from autotune.workloads.live import unpack
model = unpack(Path("/dev/stdin")).model
model.register_forward_pre_hook(lambda module, inputs: None)
print(len(model._forward_pre_hooks))
"""


def test_a_hook_that_comes_along_keeps_its_place_beside_those_registered_here() -> None:
    packed = subprocess.run([sys.executable, "-c", HOOKED], capture_output=True, check=True).stdout
    shown = subprocess.run([sys.executable, "-c", WATCHED], input=packed, capture_output=True, check=True).stdout
    assert shown.split() == [b"2"]


def test_a_function_that_travels_keeps_the_name_of_its_file_and_one_with_odd_constants_travels_too() -> None:
    def twice(x: int) -> int:
        return 2 * x

    odd = FunctionType(twice.__code__.replace(co_consts=(None, nn.Identity)), {})
    file = BytesIO()
    dump((twice, odd), file)
    there, odd_there = pickle.loads(file.getvalue())
    assert there(3) == 6 and there.__code__.co_filename == __file__
    assert odd_there.__code__.co_consts == (None, nn.Identity)


def test_parametrized_modules_come_along_with_their_weights_tied_to_the_optimizer() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
        nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)),
        nn.utils.parametrizations.orthogonal(nn.Linear(4, 2)),
    )
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    packed = pack(LiveParts(model=model, optimizer=optimizer, data=(torch.ones(8, 4), torch.ones(8, 2))))
    came = unpack(packed).model
    assert type(came[0]).__name__ == type(model[0]).__name__ == "ParametrizedLinear"
    assert torch.nn.utils.parametrize.is_parametrized(came[0], "weight")
    assert all(torch.equal(tensor, before[name]) for name, tensor in came.state_dict().items())
    x = torch.ones(3, 4)
    assert torch.equal(came.eval()(x), model.eval()(x))
    held = {id(parameter) for group in unpack(packed).optimizer.param_groups for parameter in group["params"]}
    assert len(held) == len(list(model.parameters()))


LARGE = """
import sys
from pathlib import Path
import torch
from autotune.devices import linux_process as linux
from autotune.workloads.live import LiveParts, pack, unpack
if sys.argv[1] == "pack":
    parts = LiveParts(data=torch.ones(64, 1 << 20))  # 256 MiB
linux.reset_peak()
before_bytes = linux.resident().total_bytes
arrived = pack(parts, Path(sys.argv[2])) if sys.argv[1] == "pack" else unpack(Path(sys.argv[2]))
print((linux.peak_resident_bytes() - before_bytes) >> 20)
"""


@pytest.mark.skipif(not linux.IS_LINUX, reason="reads the peak from /proc")
def test_data_of_the_callers_is_not_held_twice_to_write_it(tmp_path: Path) -> None:
    def grown_mib(work: str) -> int:
        command = [sys.executable, "-c", LARGE, work, str(tmp_path / "parts")]
        return int(subprocess.run(command, capture_output=True, check=True).stdout)

    assert grown_mib("pack") < 64
    assert 256 <= grown_mib("unpack") < 2.5 * 256


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no disk that is always full")
def test_no_room_for_the_copy_is_told() -> None:
    with pytest.raises(UsageError, match=r"no room to copy .* No space left"):
        live.pack(trained_parts(), Path("/dev/full"))


def test_arrays_that_map_a_file_travel_as_its_name_and_are_not_written_to(tmp_path: Path) -> None:
    path = tmp_path / "tokens.bin"
    with path.open("wb") as file:
        file.truncate(4 << 30)  # sparse
    tokens = np.memmap(path, np.uint16, mode="r+", offset=4096, shape=(1000, 7))
    tokens[:] = np.arange(7000).reshape(1000, 7)
    views = (tokens, tokens[3:], np.asarray(tokens[::-2, 1:3]), tokens.T)
    packed = pack(LiveParts(data=views))
    assert len(packed) < 10_000
    arrived = unpack(packed).data
    for theirs, ours in zip(views, arrived, strict=True):
        assert type(ours) is type(theirs) and np.array_equal(ours, theirs)
    arrived[0][:] = 0
    assert tokens[1, 1] == 8


def test_what_is_not_in_the_file_travels_itself(tmp_path: Path) -> None:
    path = tmp_path / "tokens.bin"
    path.write_bytes(bytes(80))
    private = np.memmap(path, np.int64, mode="c")
    private[:] = range(10)
    masked = np.ma.masked_array(np.memmap(path, np.int64, mode="r"), mask=[True] * 5 + [False] * 5)
    arrived, arrived_masked = unpack(pack(LiveParts(data=(private, masked)))).data
    assert np.array_equal(arrived, range(10))
    assert arrived_masked.mask.tolist() == masked.mask.tolist()


ARRIVAL = """
import sys
from pathlib import Path
from autotune.workloads.live import unpack
unpack(Path(sys.argv[1]))
print("torch._dynamo" in sys.modules)
"""


def test_what_torch_loads_late_is_there_before_children_are_forked(tmp_path):
    """Else each child would load it in its first step: an optimizer that comes in a pickle is not made anew."""
    (tmp_path / "parts").write_bytes(pack(trained_parts()))
    command = [sys.executable, "-c", ARRIVAL, str(tmp_path / "parts")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "True", done.stderr


def test_views_of_a_tensor_travel_with_what_they_share_written_once():
    inputs, targets = torch.randn(1000, 64), torch.arange(1000)
    packed = pack(LiveParts(data=list(zip(inputs, targets, strict=True))))
    assert len(packed) < 2 * inputs.nbytes
    arrived = [torch.stack(column) for column in zip(*unpack(packed).data, strict=True)]
    assert_same(arrived, [inputs, targets])
    for column in zip(*unpack(packed).data, strict=True):
        assert len({sample.untyped_storage().data_ptr() for sample in column}) == 1


def test_parameters_within_one_buffer_stay_within_it():
    flat = torch.randn(8 * 64)
    model = nn.ParameterList(nn.Parameter(flat[start : start + 64].view(8, 8)) for start in range(0, 512, 64))
    model.register_buffer("bits", flat.view(torch.int32))
    arrived = unpack(pack(LiveParts(model=model, data=X))).model
    assert_same(list(arrived.state_dict().values()), list(model.state_dict().values()))
    with torch.no_grad():
        arrived[3].zero_()
    assert not arrived.bits[3 * 64 : 4 * 64].any() and arrived.bits[: 3 * 64].all() and flat.all()


def test_how_a_loader_chooses_its_samples_travels(train):
    loader = DataLoader(TensorDataset(X, Y), batch_size=4, sampler=SubsetRandomSampler(range(10)))
    assert from_live(unpack(pack(trained_parts(data=loader))), train).dataset_size == 10

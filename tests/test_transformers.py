"""Hugging Face Trainers, real ones: found, left alone, and trained with what was found."""

from __future__ import annotations

import copy
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from packing import pack, unpack

pytest.importorskip("accelerate")
transformers = pytest.importorskip("transformers")

from autotune import UsageError, find_batch_size  # noqa: E402
from autotune.result import load_result  # noqa: E402
from autotune.spec import FileWorkload  # noqa: E402
from autotune.transformers import tuned_arguments  # noqa: E402
from autotune.trial import Training  # noqa: E402
from autotune.workloads import BuildOptions  # noqa: E402
from autotune.workloads.frameworks import adapter_of, training_device  # noqa: E402
from autotune.workloads.live import LiveParts, from_live  # noqa: E402
from autotune.workloads.opening import build_workload  # noqa: E402

TRAIN = BuildOptions(device="cpu", mode="train")
QUICK: dict[str, Any] = {"quiet": True, "max_trials": 3}


class Samples(torch.utils.data.Dataset):
    """Token ids of several lengths, as a tokenizer makes them."""

    def __len__(self) -> int:
        return 48

    def __getitem__(self, index: int) -> dict[str, Any]:
        length = 4 + index % 29
        return {"input_ids": [1 + (index + k) % 90 for k in range(length)], "labels": index % 2}


def padded(samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Padded to the longest sample of the batch."""
    longest = max(len(sample["input_ids"]) for sample in samples)
    ids = [sample["input_ids"] + [0] * (longest - len(sample["input_ids"])) for sample in samples]
    return {"input_ids": torch.tensor(ids), "labels": torch.tensor([sample["labels"] for sample in samples])}


def bert() -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=100
    )
    return transformers.BertForSequenceClassification(config)


def trainer_of(folder: Path, kind: type | None = None, model: torch.nn.Module | None = None, **settings: Any) -> Any:
    defaults = {"report_to": [], "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1000}
    args = transformers.TrainingArguments(str(folder / "out"), **defaults | settings)
    made = (kind or transformers.Trainer)(
        model or bert(), args, train_dataset=Samples(), eval_dataset=Samples(), data_collator=padded
    )
    return made


class Weighted(transformers.Trainer):
    """A user's own Trainer, with an argument of its own."""

    def __init__(self, *arguments: Any, weight_of_mine: float = 0.5, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.weight_of_mine = weight_of_mine

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        outputs = model(**inputs)
        loss = self.weight_of_mine * outputs.loss
        return (loss, outputs) if return_outputs else loss


def weights(model: torch.nn.Module) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in model.state_dict().values()]


def assert_same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    assert len(ours) == len(theirs) > 0
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def random_states() -> tuple[Any, ...]:
    return random.getstate(), torch.get_rng_state().tolist()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"bf16": True, "max_grad_norm": 0.1},
        {"gradient_accumulation_steps": 2},
        {"activation_checkpointing": True},
    ],
)
def test_training_after_finding_a_batch_size_ends_where_it_ends_without(tmp_path: Path, settings: dict) -> None:
    first, second = (trainer_of(tmp_path, num_train_epochs=1, **settings) for _ in range(2))
    before, state, args = weights(first.model), random_states(), copy.deepcopy(first.args.to_dict())
    find_batch_size(first, **QUICK)
    assert random_states() == state
    assert first.optimizer is None and first.args.to_dict() == args
    assert_same(weights(first.model), before)
    for trainer in (first, second):
        torch.manual_seed(1)
        trainer.train()
    assert_same(weights(first.model), weights(second.model))


def test_a_trial_accumulates_as_the_trainer_does_and_its_loader_is_timed(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, gradient_accumulation_steps=4, dataloader_num_workers=1)
    result = find_batch_size(trainer, start=4, max_batch_size=4, **QUICK)
    assert {trial.measurement.accumulation_steps for trial in result.trials if trial.measurement} == {2}
    assert result.num_workers == 1


def test_how_the_trainer_trains_is_told_as_it_was_before_a_step(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, per_device_train_batch_size=8, gradient_accumulation_steps=4, learning_rate=1e-3)
    workload = from_live(unpack(pack(LiveParts(model=trainer))), TRAIN)
    workload.accumulated_step([workload.make_batch(2)] * 2)
    assert workload.training() == Training(trainer.args.optim.value, 1e-3, 32, 4)
    workload.set_learning_rate(0.5)
    assert workload.training().learning_rate == 0.5


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_a_step_is_the_trainers_own(tmp_path: Path, micro_batches: int) -> None:
    """The same batches, the same number of steps, and the weights are the same bit for bit."""
    settings = {"max_steps": 3, "learning_rate": 1e-2, "lr_scheduler_type": "constant"}
    theirs = trainer_of(tmp_path, gradient_accumulation_steps=micro_batches, **settings)
    packed = pack(LiveParts(model=theirs))
    batches = [padded([Samples()[8 * k + index] for index in range(8)]) for k in range(micro_batches)]
    theirs.get_train_dataloader = lambda: batches * 3
    theirs.train()
    workload = from_live(unpack(packed), TRAIN)
    torch.manual_seed(theirs.args.seed)  # as the Trainer does, for dropout
    losses = [float(workload.accumulated_step(batches)) for _ in range(3)]
    assert losses[2] < losses[0]
    assert_same(weights(workload.model), weights(theirs.model))


@pytest.mark.parametrize("asked", [False, True])
def test_a_step_recomputes_activations_where_the_arguments_say_so(tmp_path: Path, asked: bool) -> None:
    trainer = trainer_of(tmp_path, activation_checkpointing=asked)
    workload = from_live(unpack(pack(LiveParts(model=trainer))), TRAIN)
    calls: list[bool] = []
    layer = workload.model.bert.encoder.layer[0]
    layer.attention.register_forward_hook(lambda *_: calls.append(True))
    workload.training_step(workload.make_batch(2))
    assert len(calls) == (2 if asked else 1)
    assert not trainer.model.is_activation_checkpointing


def test_a_class_of_the_users_own_trains_with_its_own_loss(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, Weighted)
    trainer.weight_of_mine = 0.0
    batch = padded([Samples()[index] for index in range(4)])
    workload = from_live(unpack(pack(LiveParts(model=trainer))), TRAIN)
    assert float(workload.training_step(batch)) == 0.0
    assert type(trainer.model) is type(workload.model)


def test_the_longest_samples_are_what_is_tried(tmp_path: Path) -> None:
    workload = from_live(LiveParts(model=trainer_of(tmp_path)), TRAIN)
    assert workload.make_batch(5)["input_ids"].shape == (5, 32)
    assert workload.dataset_size == 48
    assert "the largest of 48" in workload.assumptions[0]


def test_the_caller_is_asked_for_nothing_but_the_trainer_and_gets_three_numbers_that_belong_together(
    tmp_path: Path,
) -> None:
    trainer = trainer_of(tmp_path, per_device_train_batch_size=6, gradient_accumulation_steps=4)
    args = tuned_arguments(trainer, quiet=True, max_trials=3)  # 1, 2 and 4 are tried
    assert args.per_device_train_batch_size * args.gradient_accumulation_steps == 24
    assert args.per_device_train_batch_size in (1, 2, 4)
    assert args.per_device_eval_batch_size in (1, 2, 4)
    assert (trainer.args.per_device_train_batch_size, trainer.args.gradient_accumulation_steps) == (6, 4)


def test_a_cap_holds_for_training_and_evaluation_and_the_file_is_that_of_training(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=1)
    output = tmp_path / "result.json"
    options = {"objective": "time-to-quality", "noise": "off", "max_trials": 2}
    args = tuned_arguments(trainer, max_batch_size=1, output=output, quiet=True, **options)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (1, 2)
    assert args.per_device_eval_batch_size == 1
    assert load_result(output).spec.mode.value == "train"


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")  # peft's own
def test_adapters_of_a_large_model_train_alone(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(bert(), peft.LoraConfig(r=2, target_modules=["query", "value"], task_type="SEQ_CLS"))
    workload = from_live(unpack(pack(LiveParts(model=trainer_of(tmp_path, model=adapted)))), TRAIN)
    frozen = {name: p.clone() for name, p in workload.model.named_parameters() if not p.requires_grad}
    assert frozen
    for _ in range(2):
        workload.training_step(workload.make_batch(4))
    after = dict(workload.model.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in frozen.items())
    assert find_batch_size(trainer_of(tmp_path, model=adapted), **QUICK).batch_size >= 1


CONFIGS = [
    ("GPT2", {"n_layer": 1, "n_embd": 32, "n_head": 2, "vocab_size": 100, "bos_token_id": 1, "eos_token_id": 2}),
    ("Llama", {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}),
    ("OPT", {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "ffn_dim": 64}),
    ("GPTNeoX", {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}),
    ("Qwen2", {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2}),
    ("Mamba", {"num_hidden_layers": 1, "hidden_size": 32, "vocab_size": 100, "state_size": 4}),
]


@pytest.mark.parametrize(("family", "settings"), CONFIGS, ids=[family for family, _ in CONFIGS])
def test_any_architecture_is_probed_without_a_special_case(tmp_path: Path, family: str, settings: dict) -> None:
    small = {"vocab_size": 100, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2} | settings
    config = transformers.AutoConfig.for_model({"GPTNeoX": "gpt_neox"}.get(family, family.lower()), **small)
    model = transformers.AutoModelForCausalLM.from_config(config)
    trainer = trainer_of(tmp_path, model=model)
    samples = [{"input_ids": list(range(1, 17)), "labels": list(range(1, 17))} for _ in range(16)]
    trainer.train_dataset, trainer.data_collator = samples, transformers.default_data_collator
    result = find_batch_size(trainer, **QUICK)
    assert [trial.outcome.value for trial in result.trials] == ["fits"] * 3


FILE = """
import transformers
from tests.test_transformers import Samples, bert, padded

args = transformers.TrainingArguments("unused", report_to=[], use_cpu=True)
trainer = transformers.Trainer(bert(), args, train_dataset=Samples(), data_collator=padded)
"""


def test_a_file_may_hold_a_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "with_a_trainer.py").write_text(FILE)
    workload = build_workload(FileWorkload(target="with_a_trainer.py"), TRAIN)
    assert float(workload.training_step(workload.make_batch(2))) > 0


def test_a_trainer_without_data_is_refused_with_the_line_to_add(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    trainer.train_dataset = None
    with pytest.raises(UsageError, match="no train_dataset") as caught:
        find_batch_size(trainer, quiet=True)
    assert "train_dataset=" in caught.value.remedy


def test_a_precision_of_ours_is_refused_since_the_trainer_has_its_own(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="bf16"):
        find_batch_size(trainer_of(tmp_path), precision="bf16", quiet=True)


def test_where_the_trainer_trains_is_known(tmp_path: Path) -> None:
    assert training_device(LiveParts(model=trainer_of(tmp_path))) == "cpu"


def test_only_a_trainer_is_taken_for_one() -> None:
    assert adapter_of(bert()) is None


TRAINING = """
import sys
from pathlib import Path
from test_transformers import trainer_of
size, folder = int(sys.argv[1]), Path(sys.argv[2])
trainer = trainer_of(folder, per_device_train_batch_size=size, num_train_epochs=3)
trainer.train()
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(int(peak.split()[1]) // 1024)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
def test_three_epochs_with_the_size_found_stay_within_the_budget(tmp_path: Path) -> None:
    budget_mib = 2048
    result = find_batch_size(trainer_of(tmp_path), memory_budget=budget_mib << 20, quiet=True, max_trials=6)
    done = subprocess.run(
        [sys.executable, "-c", TRAINING, str(result.batch_size), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) <= budget_mib

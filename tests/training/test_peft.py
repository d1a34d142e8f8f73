"""The same loss, gradients, files and logits as PEFT's."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, MistralConfig, Qwen3Config

from alorakit.engine.pretrained import resolve_model
from alorakit.kernels.backend import use_backend
from alorakit.training.adapter_folder import adapter_config
from alorakit.training.config import TrainConfig
from alorakit.training.data import Example
from alorakit.training.loss import SuffixModel
from alorakit.training.prepare import build_model

Settings = Callable[..., TrainConfig]
CASES = [("alora", ("q_proj", "k_proj", "v_proj")), ("alora", "all-linear"), ("lora", ("q_proj", "v_proj"))]
IDS = ["alora-qkv", "alora-all", "lora-qv"]


@pytest.fixture
def triton_interpreted() -> Iterator[None]:
    """Force Triton; without a GPU, its interpreter."""
    use_backend("triton")
    yield
    use_backend(None)


def ours(base: Path, examples: list[Example], config: TrainConfig) -> SuffixModel:
    """Our model with random A and B."""
    torch.manual_seed(3)
    model = build_model(resolve_model(base), examples, config)
    with torch.no_grad():
        for name, tensor in model.lora.named_tensors().items():
            if ".lora_B." in name:
                tensor.normal_(std=0.05)
    return model


def theirs(base: Path, examples: list[Example], config: TrainConfig) -> Any:
    invocation = list(examples[0].invocation_ids) if config.adapter == "alora" else None
    peft = LoraConfig(
        r=config.effective_rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(config.targets),
        task_type="CAUSAL_LM",
        alora_invocation_tokens=invocation,
    )
    return get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), peft)


def full_sequence_loss(model: Any, example: Example, eos_id: int) -> Tensor:
    """Summed loss of label and EOS, every token of the row entering the model."""
    asked, answer = [*example.prefix_ids, *example.invocation_ids], [*example.label_ids, eos_id]
    labels = torch.tensor([[-100] * len(asked) + answer])
    loss: Tensor = model(input_ids=torch.tensor([asked + answer]), labels=labels).loss
    return loss * len(answer)


@pytest.mark.usefixtures("triton_interpreted")
@pytest.mark.parametrize(("adapter", "targets"), CASES, ids=IDS)
def test_loss_and_gradients_of_the_triton_kernels(
    tiny_base: Path, examples: list[Example], settings: Settings, adapter: str, targets: object
) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = settings(adapter=adapter, target_modules=targets, device=device)
    assert_loss_and_gradients_equal(tiny_base, examples, config)


@pytest.mark.parametrize("rows", [slice(0, 1), slice(0, 5)], ids=["one-row", "five-rows"])
@pytest.mark.parametrize(("adapter", "targets"), CASES, ids=IDS)
def test_loss_and_gradients_equal_full_sequence_training(
    tiny_base: Path, examples: list[Example], settings: Settings, adapter: str, targets: object, rows: slice
) -> None:
    assert_loss_and_gradients_equal(tiny_base, examples[rows], settings(adapter=adapter, target_modules=targets))


@pytest.mark.parametrize(
    "kind", [(Qwen3Config, {"head_dim": 32}), (MistralConfig, {"sliding_window": 12})], ids=["qwen3", "mistral"]
)
def test_gradients_pass_through_the_norms_of_heads_and_through_windows(
    make_base: Callable[..., Path], examples: list[Example], settings: Settings, kind: tuple[Any, dict[str, int]]
) -> None:
    base = make_base(kind[0], **kind[1])
    assert_loss_and_gradients_equal(base, examples, settings(target_modules="all-linear"))


def assert_loss_and_gradients_equal(base: Path, batch: list[Example], config: TrainConfig) -> None:
    model, reference = ours(base, batch, config), theirs(base, batch, config)
    parameters = {n.replace(".default", ""): p for n, p in reference.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, tensor in model.lora.named_tensors().items():
            parameters[name].copy_(tensor)
    model.prefixes.fill(model.prefix(e) for e in batch)

    loss = -model.log_probabilities(batch, [[model.answer(e)] for e in batch]).sum()
    loss.backward()
    expected = torch.stack([full_sequence_loss(reference, e, model.eos_id) for e in batch]).sum()
    expected.backward()

    assert torch.allclose(loss.cpu(), expected, rtol=1e-4)
    gradients = model.lora.named_gradients()
    assert set(gradients) == set(parameters)
    for name, gradient in gradients.items():
        wanted = parameters[name].grad
        assert wanted is not None and wanted.norm() > 0, name
        assert (gradient.cpu() - wanted).norm() <= 1e-4 * wanted.norm(), name


@pytest.mark.parametrize(("adapter", "targets"), CASES, ids=IDS)
def test_peft_loads_the_saved_folder(
    tiny_base: Path,
    examples: list[Example],
    settings: Settings,
    adapter: str,
    targets: object,
    tmp_path: Path,
    write_peft: Callable[..., Path],
) -> None:
    config = settings(adapter=adapter, target_modules=targets)
    model = ours(tiny_base, examples, config)
    target = write_peft(tmp_path / "adapter", model, config)

    base = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    loaded = PeftModel.from_pretrained(base, target)
    for example in examples:
        ids = [*example.prefix_ids, *example.invocation_ids, *model.answer(example)]
        asked = len(ids) - len(model.answer(example))
        with torch.no_grad():
            values = model.log_probabilities([example], [[model.answer(example)]])
            logits = loaded(input_ids=torch.tensor([ids])).logits[0, asked - 1 : -1]
        wanted = logits.log_softmax(-1).gather(1, torch.tensor(model.answer(example))[:, None])[:, 0]
        assert torch.allclose(values, wanted, atol=1e-4)


@pytest.mark.parametrize("adapter", ["alora", "lora"])
def test_adapter_config_is_what_peft_writes(
    tiny_base: Path, examples: list[Example], settings: Settings, adapter: str, tmp_path: Path
) -> None:
    config = settings(adapter=adapter, dropout=0.1)
    theirs(tiny_base, examples, config).save_pretrained(tmp_path)
    wanted = json.loads((tmp_path / "adapter_config.json").read_text())
    found = adapter_config(config, str(tiny_base), examples[0].invocation_ids)
    assert set(found) <= set(wanted)
    assert sorted(found.pop("target_modules")) == sorted(wanted.pop("target_modules"))
    del found["peft_version"]
    assert found == {key: wanted[key] for key in found}
    # What PEFT has added since 0.18 is off by default, so leaving it out says the same.
    assert not any(wanted[key] for key in set(wanted) - set(found) - {"peft_version"})


def test_initial_weights_are_pefts(tiny_base: Path, examples: list[Example], settings: Settings) -> None:
    config = settings(rank=64)
    fresh = build_model(resolve_model(tiny_base), examples, config).lora.snapshot()
    reference = theirs(tiny_base, examples, config)
    for name, parameter in reference.named_parameters():
        if parameter.requires_grad:
            tensor = fresh[name.replace(".default", "")]
            assert tensor.shape == parameter.shape
            assert torch.isclose(tensor.std(), parameter.std(), rtol=0.05)
            assert torch.isclose(tensor.abs().max(), parameter.abs().max(), rtol=0.05)

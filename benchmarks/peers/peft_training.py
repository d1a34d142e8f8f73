"""The training loop as transformers and PEFT have it: every token of every row, in every epoch, through the model.

Rows, order, learning rates and initial weights are those of ``alorakit.training``, so that both learn the same.
"""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from alorakit.engine.devices import pick_device, pick_dtype
from alorakit.engine.pretrained import resolve_model
from alorakit.training import Example, TrainConfig
from alorakit.training.prepare import build_model
from alorakit.training.schedule import learning_rate

IGNORED = -100  # a label that cross_entropy leaves out


@dataclass(frozen=True)
class PeerStep:
    """One optimizer step.

    Attributes:
        loss: Before the update: the weighted mean over the group's label tokens, EOS included, in nats.
        seconds: Of all its forward and backward passes and the update.
    """

    loss: float
    seconds: float


def optimizer_groups(rows: Sequence[int], config: TrainConfig) -> list[list[int]]:
    """The rows of every optimizer step of a run, in the order in which ``alorakit.training.train`` takes them.

    Args:
        rows: Training rows, as ``alorakit.training.prepare.split`` gives them.
        config: Settings.
    """
    order, shuffler, size = list(rows), random.Random(config.seed), config.batch_size * config.grad_accum
    groups: list[list[int]] = []
    for _ in range(config.epochs):
        shuffler.shuffle(order)
        groups += [order[first : first + size] for first in range(0, len(order), size)]
    return groups


def initial_weights(base: str | Path, examples: Sequence[Example], config: TrainConfig) -> dict[str, Tensor]:
    """PEFT's name and value of every adapter weight that ``alorakit.training.train`` starts from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return build_model(resolve_model(base), examples, config).lora.snapshot()


class PeftTrainer:
    """Base model, adapter and optimizer.

    Attributes:
        model: The ``PeftModel``; adapter weights are float32, as PEFT makes them.
        config: Settings; validation, dtype and device included.
    """

    def __init__(
        self,
        base: Path,
        invocation: Sequence[int],
        eos_id: int,
        config: TrainConfig,
        num_steps: int,
        weights: dict[str, Tensor] | None = None,
    ) -> None:
        """Load the base model and put an adapter on it.

        Args:
            base: Its folder.
            invocation: Tokens that activate an aLoRA; a LoRA has no use for them.
            eos_id: Closes every label, and pads.
            config: Settings.
            num_steps: Optimizer steps of the whole run, for the schedule.
            weights: What the adapter starts from, by PEFT's names; None: PEFT's own initial weights.
        """
        self._device = pick_device(config.device)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=pick_dtype(config.dtype, self._device))
        lora = LoraConfig(
            r=config.effective_rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=list(config.targets),
            alora_invocation_tokens=list(invocation) if config.adapter == "alora" else None,
            task_type="CAUSAL_LM",
        )
        self.model, self.config = get_peft_model(model.to(self._device), lora), config
        self._eos_id, self._num_steps = eos_id, num_steps
        named = {name.replace(".default", ""): p for name, p in self.model.named_parameters() if p.requires_grad}
        if weights is not None:
            with torch.no_grad():
                for name, parameter in named.items():
                    parameter.copy_(weights[name])
        self._adapter = named
        self._optimizer = torch.optim.AdamW(
            named.values(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )

    def run(self, examples: Sequence[Example], groups: Sequence[Sequence[int]]) -> list[PeerStep]:
        """Train on ``groups`` of rows, one optimizer step after the other, from step 0."""
        return [self.step([examples[row] for row in group], step) for step, group in enumerate(groups)]

    def step(self, group: Sequence[Example], step: int) -> PeerStep:
        """One update from the weighted mean over the label tokens of ``group``; ``step``, from 0, decides the rate."""
        began, size, total = time.perf_counter(), self.config.batch_size, 0.0
        self.model.train()
        self._optimizer.zero_grad()
        num_tokens = sum(example.weight * len(self._answer(example)) for example in group)
        for first in range(0, len(group), size):
            batch = group[first : first + size]
            weights = torch.tensor([example.weight for example in batch], device=self._device)
            loss = (self._losses(batch) * weights).sum() / num_tokens
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(list(self._adapter.values()), self.config.max_grad_norm)
        for parameters in self._optimizer.param_groups:
            parameters["lr"] = learning_rate(self.config, step, self._num_steps)
        self._optimizer.step()
        return PeerStep(total, time.perf_counter() - began)

    @torch.no_grad()
    def validation_loss(self, examples: Sequence[Example]) -> float:
        """Mean loss of all label tokens, EOS included, in nats; dropout off."""
        self.model.eval()
        size = self.config.batch_size
        batches = (examples[first : first + size] for first in range(0, len(examples), size))
        total = sum(self._losses(batch).sum().item() for batch in batches)
        return total / sum(len(self._answer(example)) for example in examples)

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of every adapter weight on the CPU, by PEFT's name."""
        return {name: parameter.detach().to("cpu", copy=True) for name, parameter in self._adapter.items()}

    def _answer(self, example: Example) -> list[int]:
        return [*example.label_ids, self._eos_id]

    def _losses(self, batch: Sequence[Example]) -> Tensor:
        """Summed loss of each row's label tokens [rows], float32; rows padded on the right and masked there."""
        shape = (len(batch), max(example.num_tokens for example in batch))
        ids = torch.full(shape, self._eos_id)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
        for row, example in enumerate(batch):
            asked, answer = [*example.prefix_ids, *example.invocation_ids], self._answer(example)
            end = len(asked) + len(answer)
            ids[row, :end] = torch.tensor(asked + answer)
            mask[row, :end] = 1
            labels[row, len(asked) : end] = torch.tensor(answer)
        ids, mask, labels = (tensor.to(self._device) for tensor in (ids, mask, labels))
        logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        # As transformers' own ForCausalLMLoss: every position's logits in float32, the labels moved by one.
        target = F.pad(labels[:, 1:], (0, 1), value=IGNORED)
        losses = F.cross_entropy(logits.float().flatten(0, 1), target.flatten(), ignore_index=IGNORED, reduction="none")
        return losses.view(shape).sum(dim=1)

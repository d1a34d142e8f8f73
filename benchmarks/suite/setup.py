"""What all parts of a run share: engine, adapters, sizes, the machine's speed."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from alorakit import Engine, SamplingParams
from alorakit.engine.devices import pick_dtype
from benchmarks.bench_check import as_lora
from benchmarks.machine import Machine
from benchmarks.peers import peft_peer
from benchmarks.roofline import Lora, ModelShape
from benchmarks.workloads import INVOCATION, random_ids

QUESTION, RANK = 20, 32
BASE, ALORA, LORA = "base model", "alorakit aLoRA", "alorakit LoRA"
SCORE = "alorakit aLoRA, score"
KINDS = (BASE, ALORA, LORA)


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        contexts: Tokens before a check.
        outputs: Tokens that a check decodes.
        context: Tokens of context where that does not vary.
        new: Tokens decoded where that does not vary.
        checks: How many checks of one context.
        rounds: Rounds that count.
        long: Contestants that read more tokens than this in a round are in the first ``long_rounds`` only; those that
            read over three times as many in the first.
        long_rounds: See there.
        adapters: How many adapters the mixed traffic has.
        requests: How many requests.
        turns: Turns of an agent's chat.
        peer_contexts: Contexts at which peers take part.
        training: Rows, tokens of each, epochs, and optimizer steps that the peer takes of them.
        whole: Whether it is a whole run: the scripts with tables of their own too, and the marks of its sizes.
    """

    contexts: tuple[int, ...] = (256, 512, 1024, 2048, 4096, 8000)
    outputs: tuple[int, ...] = (1, 8, 16, 64)
    context: int = 2048
    new: int = 8
    checks: tuple[int, ...] = (1, 2, 4, 8, 16)
    rounds: int = 5
    long: int = 2048
    long_rounds: int = 2
    adapters: int = 16
    requests: int = 32
    turns: int = 4
    peer_contexts: tuple[int, ...] = (1024, 2048, 4096, 8000)
    training: tuple[int, int, int, int] = (32, 1000, 6, 2)
    whole: bool = True

    def fewer(self, tokens: int, *readers: str) -> dict[str, int]:
        """Rounds of the contestants that read so many tokens anew in each, for ``take_turns``."""
        rounds = self.rounds if tokens <= self.long else self.long_rounds if tokens <= 3 * self.long else 1
        return dict.fromkeys(readers, rounds)


FULL = Sizes()
QUICK = Sizes(
    contexts=(1024,),
    outputs=(8,),
    context=1024,
    checks=(1, 8),
    rounds=2,
    long_rounds=1,
    adapters=8,
    requests=8,
    turns=2,
    peer_contexts=(1024,),
    training=(8, 256, 2, 1),
    whole=False,
)
TINY = Sizes(
    contexts=(32, 64),
    outputs=(2,),
    context=64,
    new=2,
    checks=(1, 2),
    rounds=2,
    long_rounds=1,
    adapters=2,
    requests=4,
    turns=2,
    peer_contexts=(64,),
    training=(4, 128, 1, 1),
    whole=False,
)


def on_gpu(sizes: Sizes) -> Sizes:
    """The same with the contexts of a GPU; fewer lengths of answer, for peers decode slowly there."""
    if sizes is not FULL:
        return sizes
    return replace(
        sizes,
        contexts=(*sizes.contexts, 16384, 32768, 65000),
        peer_contexts=(*sizes.peer_contexts, 32768),
        outputs=(1, 8, 64),
    )


@dataclass
class Suite:
    """A run's engine and what goes with it.

    Attributes:
        engine: With ``alora-0`` … and ``lora-0`` …, ``sizes.adapters`` of each, the same weights pair by pair.
        sizes: How much is measured.
        machine: What was measured of the device.
        shape: The model.
        folder: For files; holds the adapters ``alora-0`` and ``lora-0``.
        device: Where it runs.
        dtype: Of the model.
    """

    engine: Engine
    sizes: Sizes
    machine: Machine
    shape: ModelShape
    folder: Path
    device: torch.device
    dtype: torch.dtype

    @property
    def lora(self) -> Lora:
        """What the adapters are like, for the roofline."""
        return Lora(RANK)

    def name(self, kind: str, index: int = 0) -> str | None:
        """An adapter's name; None for the base model."""
        return {BASE: None, ALORA: f"alora-{index}", LORA: f"lora-{index}"}[kind]

    def read(self, context: list[int]) -> None:
        """Let the base model read a context, as one that has just been generated is."""
        self.engine.generate(context, SamplingParams(max_tokens=1))

    def params(self, new: int) -> SamplingParams:
        """Exactly ``new`` greedy tokens."""
        return SamplingParams(max_tokens=new, ignore_eos=True)


def own(*seed: object) -> list[int]:
    """A check's own tokens: a question and the invocation."""
    return random_ids(QUESTION, *seed) + INVOCATION


def unseen(context: list[int], turn: int) -> list[int]:
    """A context that differs from the others in its first token, so that nothing of it is cached."""
    return [1000 + (context[0] + 1 + turn) % 48000, *context[1:]]


@contextmanager
def prepared(model: str, sizes: Sizes, folder: Path, device: torch.device, dtype: str) -> Iterator[Suite]:
    """Load the model, make the adapters, measure the machine. Drafts are off: no answer is guessed."""
    kind = pick_dtype(dtype, device)
    with Engine.from_pretrained(
        model,
        device=str(device),
        dtype=str(kind).removeprefix("torch."),
        max_draft_tokens=0,
        max_adapters=2 * sizes.adapters,
        memory_fraction=0.4 if device.type == "cuda" else None,  # the peers' models have to fit beside it
    ) as engine:
        limit = engine.config.max_model_len or engine.model_config.max_position_embeddings
        own = QUESTION + len(INVOCATION) + max(*sizes.outputs, sizes.new)
        sizes = replace(sizes, contexts=tuple(n for n in sizes.contexts if n + own <= limit))
        for index in range(sizes.adapters):
            alora = peft_peer.make_adapter(engine.model_path, folder / f"alora-{index}", RANK, INVOCATION, seed=index)
            engine.add_adapter(f"alora-{index}", alora)
            engine.add_adapter(f"lora-{index}", as_lora(alora, folder / f"lora-{index}"))
            if index:  # peers load the first pair only
                shutil.rmtree(folder / f"alora-{index}")
                shutil.rmtree(folder / f"lora-{index}")
        measured = Machine.measure(device, kind)
        yield Suite(engine, sizes, measured, ModelShape(engine.model_config, kind.itemsize), folder, device, kind)

"""The quick benchmark: one check after the base model read a context, three ways, and how fast tokens are decoded."""

import json
import random
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
import typer
from safetensors.torch import save_file

from alorakit.bindings.cli.demo_measure import add_plain_lora
from alorakit.bindings.cli.demo_table import print_table
from alorakit.bindings.cli.progress import ProgressDisplay
from alorakit.engine.adapter_config import tensor_name
from alorakit.engine.adapters import AdapterInfo, linear_shapes
from alorakit.engine.config import EngineConfig
from alorakit.engine.engine import Engine
from alorakit.engine.errors import AdapterError
from alorakit.engine.layouts import DEFAULT_INVOCATION
from alorakit.engine.loading import load_model
from alorakit.engine.request import SamplingParams
from alorakit.training.adapter_folder import CONFIG_NAME, WEIGHTS_NAME, adapter_config
from alorakit.training.config import ProgressEvent, TrainConfig

QUESTION, DECODED = 16, 32
LABELS = ("yes", "no")
ALORA, LORA, AGAIN = "aLoRA", "LoRA", "base model, context read again"
_CHECK_HEAD = ("a check by", "ms", "of the aLoRA's", "tokens reused", "tokens computed")
_LEGEND = (
    "The base model has just read the context; each round has another one. A LoRA changes the model from the first "
    "token on, so it cannot use what the base model has read."
)


@dataclass(frozen=True)
class Check:
    """One kind of check; the round of median time.

    Attributes:
        milliseconds: Wall time.
        prompt_tokens: Tokens of context, question and invocation.
        reused_tokens: Those of them found in the KV cache.
        computed_tokens: Rows that went through the model, those of the labels included.
    """

    milliseconds: float
    prompt_tokens: int
    reused_tokens: int
    computed_tokens: int


@dataclass(frozen=True)
class QuickReport:
    """What the quick benchmark found; medians.

    Attributes:
        model: Name of the model.
        adapter: Folder of the adapter; None: random weights.
        device: What it ran on.
        dtype: Compute type.
        rounds: Rounds that counted.
        checks: A check by each kind.
        tokens_per_s: Tokens decoded a second by one sequence, by the base model and with the aLoRA.
    """

    model: str
    adapter: str | None
    device: str
    dtype: str
    rounds: int
    checks: dict[str, Check]
    tokens_per_s: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """The figures."""
        return asdict(self)

    def print(self) -> None:
        """Print the tables."""
        weights = "random weights" if self.adapter is None else self.adapter
        typer.echo(f"{self.model}, adapter: {weights}; {self.dtype} on {self.device}; medians of {self.rounds} rounds")
        alora = self.checks[ALORA].milliseconds
        rows = [
            (
                name,
                f"{check.milliseconds:,.1f}",
                f"{check.milliseconds / alora:.1f} x",
                f"{check.reused_tokens:,} of {check.prompt_tokens:,}",
                f"{check.computed_tokens:,}",
            )
            for name, check in self.checks.items()
        ]
        print_table(_CHECK_HEAD, rows)
        typer.echo(f"{_LEGEND}\n")
        rates = [(name, f"{rate:,.1f}") for name, rate in self.tokens_per_s.items()]
        print_table(("decoding, one sequence", "tokens/s"), rates)


def measure(
    model: str, adapter: Path | None, context: int, rounds: int, device: str, dtype: str, progress: TextIO
) -> QuickReport:
    """Measure; the contestants take turns, and the first round warms up and does not count.

    Args:
        model: Hub id or folder.
        adapter: Folder of an activated LoRA; None: random weights.
        context: Tokens that the base model reads before each check.
        rounds: Rounds that count.
        device: As in ``EngineConfig``.
        dtype: As in ``EngineConfig``.
        progress: Where to show how far it is.

    Raises:
        AdapterError: The adapter is a plain LoRA, or cannot be loaded.
        RequestError: The context is too long for the model.
    """
    # Answers of random weights recur; guesses at them would make the rounds unequal.
    drafts = EngineConfig.max_draft_tokens if adapter is not None else 0
    loaded = load_model(model, EngineConfig(device=device, dtype=dtype, max_draft_tokens=drafts))  # type: ignore[arg-type]
    decoder = loaded[1]
    with Engine(*loaded) as engine, tempfile.TemporaryDirectory() as scratch:
        info = engine.add_adapter("alora", adapter or _random_adapter(engine, Path(scratch) / "alora"))
        if info.invocation_tokens is None:
            raise AdapterError(f"{adapter} is a plain LoRA; give an activated one, it is compared with its own LoRA")
        add_plain_lora(engine, "alora", Path(scratch) / "lora")
        bench = _Bench(engine, info, context)
        with ProgressDisplay(progress) as display:
            for turn in range(rounds + 1):
                bench.round(turn, counts=turn > 0)
                display(ProgressEvent("bench", turn + 1, rounds + 1, "rounds"))
        return QuickReport(
            model=engine.model_name,
            adapter=None if adapter is None else str(adapter),
            device=str(decoder.device),
            dtype=str(decoder.dtype).removeprefix("torch."),
            rounds=rounds,
            checks={name: _median(found) for name, found in bench.checks.items()},
            tokens_per_s={name: statistics.median(found) for name, found in bench.rates.items()},
        )


class _Bench:
    """Rounds of all contestants, and what was measured in them."""

    def __init__(self, engine: Engine, info: AdapterInfo, context: int) -> None:
        self._engine, self._context = engine, context
        self._invocation = list(info.invocation_tokens or ())
        manifest = info.manifest
        self._labels = manifest.labels if manifest is not None and len(manifest.labels) > 1 else LABELS
        self.checks: dict[str, list[Check]] = {ALORA: [], LORA: [], AGAIN: []}
        self.rates: dict[str, list[float]] = {"base model": [], ALORA: []}

    def round(self, turn: int, counts: bool) -> None:
        """Every contestant once, each round in another order and on other tokens."""
        read, unread = (self._ids(self._context, turn, which) for which in range(2))
        asked = [*self._ids(QUESTION, turn, 2), *self._invocation]
        self._engine.generate([read], SamplingParams(max_tokens=1))
        checks: list[tuple[str, list[int], str | None]] = [
            (ALORA, [*read, *asked], "alora"),
            (LORA, [*read, *asked], "lora"),
            (AGAIN, [*unread, *asked], None),
        ]
        for name, prompt, adapter in checks[turn % 3 :] + checks[: turn % 3]:
            check = self._check(prompt, adapter)
            if counts:
                self.checks[name].append(check)
        for at, (name, adapter) in enumerate((("base model", None), (ALORA, "alora"))):
            rate = self._rate([*self._ids(QUESTION, turn, 3 + at), *self._invocation], adapter)
            if counts:
                self.rates[name].append(rate)

    def _check(self, prompt: list[int], adapter: str | None) -> Check:
        before, began = self._engine.stats().tokens_computed, time.perf_counter()
        end = self._engine.tokenizer.eos_token_id is not None
        usage = self._engine.score(prompt, self._labels, adapter, end=end).usage
        elapsed = 1e3 * (time.perf_counter() - began)
        rows = self._engine.stats().tokens_computed - before
        return Check(elapsed, usage.prompt_tokens, usage.cached_tokens, rows)

    def _rate(self, prompt: list[int], adapter: str | None) -> float:
        params = SamplingParams(max_tokens=DECODED, ignore_eos=True)
        [output] = self._engine.generate([prompt], params, adapter)
        return (len(output.token_ids) - 1) / (output.timing.total_s - output.timing.ttft_s)

    def _ids(self, number: int, *seed: int) -> list[int]:
        """Ordinary tokens that no other seed begins with."""
        rng = random.Random(repr(seed))
        found: list[int] = []
        tokenizer = self._engine.tokenizer
        size = min(tokenizer.vocab_size, self._engine.model_config.vocab_size)
        while len(found) < number:
            token = rng.randrange(size)
            if tokenizer.has_text(token) and token not in self._invocation:
                found.append(token)
        return found


def _random_adapter(engine: Engine, folder: Path, rank: int = 32) -> Path:
    """An activated LoRA on q, k and v whose weights are random and small."""
    config = TrainConfig(adapter="alora", rank=rank)
    invocation = engine.tokenizer.encode(DEFAULT_INVOCATION, add_special_tokens=False)
    folder.mkdir()
    raw = adapter_config(config, engine.model_name, tuple(invocation))
    (folder / CONFIG_NAME).write_text(json.dumps(raw), encoding="utf-8")
    generator, shapes, tensors = torch.Generator().manual_seed(0), linear_shapes(engine.model_config), {}
    for layer in range(engine.model_config.num_layers):
        for target in config.targets:
            ins, outs = shapes[target]
            tensors[tensor_name(layer, target, "A")] = torch.randn(rank, ins, generator=generator) / ins**0.5
            tensors[tensor_name(layer, target, "B")] = 0.01 * torch.randn(outs, rank, generator=generator)
    save_file(tensors, folder / WEIGHTS_NAME, metadata={"format": "pt"})
    return folder


def _median(checks: list[Check]) -> Check:
    """The check of median time, so that its numbers belong together."""
    return sorted(checks, key=lambda check: check.milliseconds)[len(checks) // 2]

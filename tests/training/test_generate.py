"""The same answers as transformers and PEFT give."""

from collections.abc import Callable
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, MistralConfig

from alorakit.engine.pretrained import resolve_model
from alorakit.training import generate as module
from alorakit.training.answers import EXTRA_TOKENS
from alorakit.training.config import TrainConfig
from alorakit.training.data import Example
from alorakit.training.generate import generate
from alorakit.training.loss import SuffixModel
from alorakit.training.prepare import build_model

Settings = Callable[..., TrainConfig]
MAX_TOKENS = 3 + EXTRA_TOKENS  # the longest label's, and some


def build(base: Path, examples: list[Example], config: TrainConfig) -> SuffixModel:
    torch.manual_seed(3)
    model = build_model(resolve_model(base), examples, config)
    with torch.no_grad():
        for tensor in model.lora.parameters():
            tensor.normal_(std=0.1)
    return model


def pefts_answers(base: Path, folder: Path, examples: list[Example], ends: list[int]) -> list[tuple[int, ...]]:
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    peft = PeftModel.from_pretrained(plain, folder)
    found = []
    for example in examples:
        ids = torch.tensor([[*example.prefix_ids, *example.invocation_ids]])
        out = peft.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=MAX_TOKENS,
                            do_sample=False, eos_token_id=ends, pad_token_id=0)  # fmt: skip
        answer = out[0, ids.shape[1] :].tolist()
        found.append(tuple(takewhile(lambda token: token not in ends, answer)))
    return found


@pytest.mark.parametrize("kind", ["llama", "windows"])
@pytest.mark.parametrize("adapter", ["alora", "lora"])
def test_answers_are_pefts(
    tiny_base: Path,
    make_base: Callable[..., Path],
    examples: list[Example],
    settings: Settings,
    tmp_path: Path,
    adapter: str,
    kind: str,
    write_peft: Callable[..., Path],
) -> None:
    base = tiny_base if kind == "llama" else make_base(MistralConfig, sliding_window=12)
    config = settings(adapter=adapter, target_modules="all-linear", dropout=0.5)
    model = build(base, examples, config)
    model.lora.training = True
    target = write_peft(tmp_path / "adapter", model, config)
    # Some answer reaches an end-of-sequence token before the others do.
    free = generate(model, examples, MAX_TOKENS)
    ends = replace(model, eos_id=free[0][4])
    wanted = pefts_answers(base, target, examples, [ends.eos_id, *model.decoder.config.eos_token_ids])
    assert generate(ends, examples, MAX_TOKENS) == wanted
    assert len({len(answer) for answer in wanted}) > 1
    assert len(set(wanted)) > 1


def test_batches_and_kept_prefixes_change_nothing(
    tiny_base: Path, examples: list[Example], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(tiny_base, examples, settings(prefix_memory=0))
    wanted = generate(model, examples, MAX_TOKENS)
    kept = build(tiny_base, examples, settings())
    kept.prefixes.fill(kept.prefix(example) for example in examples)
    monkeypatch.setattr(module, "TOKENS_PER_BATCH", 60)
    seen: list[tuple[int, int]] = []
    assert generate(kept, examples, MAX_TOKENS, lambda done, total: seen.append((done, total))) == wanted
    assert len(seen) > 1
    assert seen[-1] == (5, 5)
    assert generate(kept, [], MAX_TOKENS) == []


def test_the_context_ends_an_answer(tiny_base: Path, examples: list[Example], settings: Settings) -> None:
    model = build(tiny_base, examples, settings())
    longest = model.decoder.rotary.tables[0].shape[0]
    model.decoder.config = replace(model.decoder.config, eos_token_ids=())
    endless = replace(model, eos_id=-1)
    for example, answer in zip(examples, generate(endless, examples, 10_000), strict=True):
        # The last token is decoded from the last position, and takes none itself.
        assert len(example.prefix_ids) + len(example.invocation_ids) + len(answer) == longest + 1

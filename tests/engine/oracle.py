"""The answer key: greedy decoding with PEFT's own model, the whole sequence computed anew for every token."""

from pathlib import Path

import torch

from .conftest import reference


class Oracle:
    """Greedy continuations of a model folder under adapters' folders; computed once each."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._models = {}
        self._known: dict[tuple[Path | None, tuple[int, ...]], list[int]] = {}

    @torch.no_grad()
    def generate(self, prompt: list[int], adapter: Path | None, num: int) -> list[int]:
        """``num`` tokens after ``prompt``; no cache, no end-of-sequence."""
        if adapter not in self._models:
            self._models[adapter] = reference(self._base, adapter)
        tokens = self._known.setdefault((adapter, tuple(prompt)), list(prompt))
        while len(tokens) < len(prompt) + num:
            logits = self._models[adapter](input_ids=torch.tensor([tokens]), use_cache=False).logits
            tokens.append(int(logits[0, -1].argmax()))
        return tokens[len(prompt) : len(prompt) + num]

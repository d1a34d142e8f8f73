"""The model card of an adapter folder."""

import json

from alorakit.engine.manifest import Manifest
from alorakit.training.config import TrainConfig

_CARD = """\
---
library_name: peft
base_model: {base_json}
tags:
- {tag}
- alorakit
---

# {title} for {base}

{what} It reads a text and answers with one of {num_labels} labels.

| | |
|---|---|
| base model | {base} |
| invocation | {invocation} |
| layout | {layout}{requirement} |
| rank, alpha | {rank}, {alpha:g} |
| adapted layers | {targets} |
| labels | {labels} |
| labels that pass | {passing} |

## Metrics of the saved epoch

| metric | value |
|---|---|
{metrics}

Settings and the figures of every epoch are in `training.json`.

## Use

With alorakit, which computes only the tokens after the invocation:

```python
from alorakit import Engine

engine = Engine.from_pretrained({base_json})
engine.add_adapter("check", "path/to/this/folder")
```

or `m alora check path/to/this/folder "some text"`. With PEFT 0.18 or later:

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({base_json}), "path/to/this/folder")
```

The prompt must end with the invocation; the answer is the label and the end-of-sequence token.
"""

_WHAT = {
    "alora": "An activated LoRA: weights change from the invocation on, so the KV cache of what comes before is the "
    "base model's.",
    "lora": "A LoRA: weights change for every token.",
}


def model_card(manifest: Manifest, config: TrainConfig) -> str:
    """Text of ``README.md`` for an adapter trained with these settings."""
    return _CARD.format(
        base=manifest.base_model,
        base_json=json.dumps(manifest.base_model, ensure_ascii=False),
        tag=config.adapter,
        title={"alora": "Activated LoRA", "lora": "LoRA"}[config.adapter],
        what=_WHAT[config.adapter],
        num_labels=len(manifest.labels),
        invocation=_code(manifest.invocation),
        layout=manifest.layout,
        requirement=", with a requirement" if manifest.requirements else "",
        rank=config.effective_rank,
        alpha=config.alpha,
        targets=", ".join(config.targets),
        labels=_codes(manifest.labels),
        passing=_codes(manifest.pass_labels) if manifest.pass_labels else "decided by the requirement",
        metrics="\n".join(f"| {name} | {value:.4f} |" for name, value in manifest.metrics.items()),
    )


def _codes(labels: tuple[str, ...]) -> str:
    return ", ".join(_code(label) for label in labels)


def _code(text: str) -> str:
    """``text`` in a table cell, whatever it holds."""
    return "`" + json.dumps(text, ensure_ascii=False)[1:-1].replace("|", "\\|").replace("`", "'") + "`"

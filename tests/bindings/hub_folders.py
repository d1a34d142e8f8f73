"""Adapter folders as training leaves them, without training: for what reads, describes and uploads them."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from alorakit.engine.adapter_config import tensor_name
from alorakit.engine.manifest import Manifest
from alorakit.training.adapter_folder import adapter_config
from alorakit.training.card import model_card
from alorakit.training.config import TrainConfig
from alorakit.training.io_yaml import io_yaml
from alorakit.training.report import TrainReport

BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
INVOCATION = "<|start_of_role|>check_requirement<|end_of_role|>"
FILES = {
    "README.md", "adapter_config.json", "adapter_model.safetensors", "alorakit.json", "io.yaml", "training.json",
    "training.png",
}  # fmt: skip
SHAPES = {"q_proj": (16, 16), "k_proj": (16, 8), "v_proj": (16, 8)}


def make_adapter(folder: Path, kind: str = "alora", base: str = BASE, seed: int = 0, layers: int = 2) -> Path:
    """A small adapter with all the files that training writes."""
    folder.mkdir(parents=True)
    config = TrainConfig(adapter=kind, rank=4, target_modules=tuple(SHAPES))  # type: ignore[arg-type]
    manifest = Manifest(
        labels=("no_failure", "overheating"), base_model=base, invocation=INVOCATION, metrics={"accuracy": 0.9}
    )
    report = TrainReport(
        history=[{"epoch": 1, "train_loss": 0.5, "accuracy": 0.9}],
        best_epoch=1,
        metrics=manifest.metrics,
        before={"accuracy": 0.5},
        num_train=8,
        num_val=2,
        truncated=0,
        prefixes={"kept": 0},
        prefix_seconds=0.0,
        recompute_seconds=0.0,
        seconds=3.0,
        tokens_per_s=1.0,
        path=folder,
        steps=[0.5],
        device="cpu",
        dtype="float32",
        data_digest="ab" * 32,
    )
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(layers):
        for target, (ins, outs) in SHAPES.items():
            tensors[tensor_name(layer, target, "A")] = torch.randn(4, ins, generator=generator)
            tensors[tensor_name(layer, target, "B")] = torch.randn(outs, 4, generator=generator)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    texts = {
        "adapter_config.json": json.dumps(adapter_config(config, base, (5, 6, 7))),
        "alorakit.json": manifest.to_json(),
        "training.json": report.to_json(config),
        "io.yaml": io_yaml(manifest),
        "README.md": model_card(manifest, config),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "training.png").write_bytes(b"\x89PNG")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

"""The adapter folder: PEFT's two files and ours, written beside and renamed into place."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from alorakit.engine.errors import TrainingError
from alorakit.engine.manifest import MANIFEST_NAME, Manifest
from alorakit.training.card import model_card
from alorakit.training.config import TrainConfig
from alorakit.training.report import REPORT_NAME, TrainReport

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
CARD_NAME = "README.md"
# All that may lie in an adapter folder which a run replaces: what we, Mellea's conventions and PEFT put there.
_OURS = {CONFIG_NAME, WEIGHTS_NAME, MANIFEST_NAME, REPORT_NAME, CARD_NAME, "io.yaml", "training.png", ".gitattributes"}
_BESIDE = ".alorakit-"


def check_outfile(outfile: str | Path) -> Path:
    """See that an adapter folder can be written, before anything expensive is done.

    Returns:
        The absolute path, links resolved.

    Raises:
        TrainingError: The path is a file, a folder that holds anything but an adapter, or cannot be written.
    """
    try:
        target = Path(outfile).expanduser().resolve()
        if target.exists():
            if not target.is_dir():
                raise TrainingError(f"outfile {outfile}: is a file; name a folder to write the adapter into")
            if foreign := _foreign(target)[:8]:
                raise TrainingError(
                    f"outfile {outfile}: replacing it would delete {foreign}, which are no adapter's; "
                    "name a new or an empty folder, or move them away"
                )
        _try_to_write(target)
    except TrainingError:
        raise
    except (OSError, ValueError, RuntimeError) as exc:  # RuntimeError: the home folder of nobody
        raise TrainingError(f"outfile {outfile}: cannot be written ({exc}); name another folder") from exc
    return target


def _foreign(folder: Path) -> list[str]:
    """What lies in a folder and is not an adapter's; everything, where there is no adapter."""
    entries = sorted(folder.iterdir())
    adapter = (folder / CONFIG_NAME).is_file()
    return [entry.name for entry in entries if not (adapter and entry.name in _OURS and entry.is_file())]


def _try_to_write(target: Path) -> None:
    """Make ``target`` in a temporary folder: only trying sees read-only systems, access lists and names too long."""
    ancestor = next(parent for parent in target.parents if parent.exists())
    trial = Path(tempfile.mkdtemp(prefix=_BESIDE, dir=ancestor))
    try:
        (trial / target.relative_to(ancestor)).mkdir(parents=True)
    finally:
        shutil.rmtree(trial, ignore_errors=True)


def adapter_config(config: TrainConfig, base_model: str, invocation_ids: tuple[int, ...]) -> dict[str, Any]:
    """``adapter_config.json`` as PEFT 0.18 writes it."""
    return {
        "alora_invocation_tokens": list(invocation_ids) if config.adapter == "alora" else None,
        "alpha_pattern": {},
        "auto_mapping": None,
        "base_model_name_or_path": base_model,
        "bias": "none",
        "exclude_modules": None,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layer_replication": None,
        "layers_pattern": None,
        "layers_to_transform": None,
        "loftq_config": {},
        "lora_alpha": config.alpha,
        "lora_bias": False,
        "lora_dropout": config.dropout,
        "megatron_config": None,
        "megatron_core": "megatron.core",
        "modules_to_save": None,
        "peft_type": "LORA",
        "peft_version": "0.18.0",
        "qalora_group_size": 16,
        "r": config.effective_rank,
        "rank_pattern": {},
        "revision": None,
        "target_modules": sorted(config.targets),
        "target_parameters": None,
        "task_type": "CAUSAL_LM",
        "trainable_token_indices": None,
        "use_dora": False,
        "use_qalora": False,
        "use_rslora": False,
    }


def save_adapter(
    target: Path,
    tensors: Mapping[str, Tensor],
    config: TrainConfig,
    manifest: Manifest,
    invocation_ids: tuple[int, ...],
    report: TrainReport,
) -> None:
    """Write the adapter folder ``target``, whole or not at all; an adapter that was there is replaced.

    Args:
        target: As :func:`check_outfile` returned it.
        tensors: Weights by PEFT's names, float32, contiguous, on the CPU.
        config: The run's settings.
        manifest: Contents of ``alorakit.json``.
        invocation_ids: Invocation tokens; not written for a LoRA.
        report: Contents of ``training.json``.

    Raises:
        TrainingError: The disk refused; what was there before is still there.
    """
    peft = adapter_config(config, manifest.base_model, invocation_ids)
    files = {
        CONFIG_NAME: (json.dumps(peft, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode(),
        WEIGHTS_NAME: save(dict(tensors), metadata={"format": "pt"}),
        MANIFEST_NAME: manifest.to_json().encode(),
        REPORT_NAME: report.to_json(config).encode(),
        CARD_NAME: model_card(manifest, config).encode(),
    }
    try:
        with _parents(target), _beside(target) as folder:
            for name, content in files.items():
                _write(folder / name, content)
            _sync_folder(folder)
            folder.chmod(0o755)  # mkdtemp's 0700 would hide the adapter from other users
            _replace(folder, target)
            _sync_folder(target.parent)
    except OSError as exc:
        raise TrainingError(f"outfile {target}: cannot be written ({exc.strerror}); nothing was changed there") from exc


@contextmanager
def _parents(target: Path) -> Iterator[None]:
    """Make the parents that are missing; remove them again on failure."""
    missing = [parent for parent in target.parents if not parent.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for parent in missing:
            if parent.exists() and not any(parent.iterdir()):
                parent.rmdir()
        raise


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A temporary folder on the same file system; gone at the end, unless it was renamed."""
    folder = Path(tempfile.mkdtemp(prefix=_BESIDE, dir=target.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())


def _replace(folder: Path, target: Path) -> None:
    """Rename ``folder`` to ``target``; on failure what was there is put back.

    A folder cannot be renamed over a full one, so the old one steps aside first: between the two renames there is
    no adapter at ``target``, and never half of one.
    """
    if not target.exists():
        folder.rename(target)
        return
    with _beside(target) as aside:
        old = aside / target.name
        target.rename(old)
        try:
            folder.rename(target)
        except BaseException:
            old.rename(target)
            raise


def _sync_folder(folder: Path) -> None:
    """Make the folder's entries durable, where the system can (not on Windows)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

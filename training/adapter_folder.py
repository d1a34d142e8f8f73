"""The adapter folder: PEFT's two files and ours.

Everything that is written lies inside the folder, under a name that ends in ``.partial`` until it is whole and on the
disk. ``adapter_config.json``, without which no adapter is there, goes first from an old adapter and comes last of a new
one: a folder never holds half of one, nor parts of two.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from alorakit.engine.errors import TrainingError
from alorakit.engine.manifest import MANIFEST_NAME
from alorakit.training.config import TrainConfig
from alorakit.training.io_yaml import IO_YAML_NAME
from alorakit.training.report import REPORT_NAME

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
CARD_NAME = "README.md"
PICTURE_NAME = "training.png"
STATE_NAME = "training_state.safetensors"
PARTIAL = ".partial"
# What an adapter folder holds, in the order it is put there.
FILES = (PICTURE_NAME, IO_YAML_NAME, CARD_NAME, REPORT_NAME, MANIFEST_NAME, WEIGHTS_NAME, CONFIG_NAME)
# What a run may delete: what we, Mellea's conventions and PEFT put into an adapter's folder, and what a run that was
# killed left there.
_OURS = {*FILES, ".gitattributes"}
_LEFT = {STATE_NAME, *(name + PARTIAL for name in (*FILES, STATE_NAME))}


def check_outfile(outfile: str | Path) -> Path:
    """See that an adapter folder can be written, before anything expensive is done.

    Returns:
        The absolute path, links resolved.

    Raises:
        TrainingError: The path is a file, a folder that holds anything but an adapter, or cannot be written.
    """
    with outfile_folder(outfile) as target:
        return target


@contextmanager
def outfile_folder(outfile: str | Path) -> Iterator[Path]:
    """The folder, made with its parents where they are missing; those that are empty in the end are removed again.

    Yields:
        The absolute path, links resolved.

    Raises:
        TrainingError: As :func:`check_outfile`.
    """
    made: list[Path] = []
    try:
        with _named(outfile):
            target = Path(outfile).expanduser().resolve()
            if problem := folder_problem(outfile, target):
                raise TrainingError(problem)
            for folder in reversed([target, *target.parents]):
                if not folder.exists():
                    folder.mkdir()
                    made.append(folder)
            trial = target / (CONFIG_NAME + PARTIAL)
            trial.write_bytes(b"{}")  # only trying sees read-only systems and access lists
            trial.unlink()
        yield target
    finally:
        for folder in reversed(made):
            with suppress(OSError):  # it is not empty
                folder.rmdir()


@contextmanager
def _named(outfile: str | Path) -> Iterator[None]:
    try:
        yield
    except TrainingError:
        raise
    except (OSError, ValueError, RuntimeError) as exc:  # RuntimeError: the home folder of nobody
        raise TrainingError(f"outfile {outfile}: cannot be written ({exc}); name another folder") from exc


def folder_problem(outfile: str | Path, target: Path) -> str | None:
    """Why what is at ``target`` cannot be replaced, or None; ``outfile``: its name for people."""
    if not target.exists():
        return None
    if not target.is_dir():
        return f"outfile {outfile}: is a file; name a folder to write the adapter into"
    if foreign := _foreign(target)[:8]:
        return (
            f"outfile {outfile}: replacing it would delete {foreign}, which are no adapter's; "
            "name a new or an empty folder, or move them away"
        )
    return None


def _foreign(folder: Path) -> list[str]:
    """What lies in a folder and is not an adapter's; everything, where there is neither an adapter nor a killed run."""
    entries = sorted(folder.iterdir())
    names = {entry.name for entry in entries if entry.is_file()}
    # A run that is killed while it replaces an adapter leaves the state it had reached.
    ours = _OURS | _LEFT if CONFIG_NAME in names or STATE_NAME in names else _LEFT
    return [entry.name for entry in entries if not (entry.name in ours and entry.is_file())]


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


def write_adapter(target: Path, files: Mapping[str, bytes]) -> None:
    """Put an adapter into its folder, whole or not at all; an adapter that was there is replaced.

    The checkpoint it was made from goes last: a process killed before that can be resumed.

    Args:
        target: As :func:`outfile_folder` gives it.
        files: Contents by name, of :data:`FILES`.

    Raises:
        TrainingError: The disk refused; what was there before is still there.
    """
    unknown = set(files) - set(FILES)
    assert not unknown and CONFIG_NAME in files, unknown
    try:
        for name, content in files.items():
            write_partial(target / name, content)
    except BaseException as exc:
        with suppress(OSError):  # a disk that has turned read-only
            remove_partials(target)
        if not isinstance(exc, OSError):
            raise
        raise TrainingError(f"outfile {target}: cannot be written ({exc.strerror}); nothing was changed there") from exc
    try:
        # The old adapter goes, its most telling files first, and the new one comes in the opposite order.
        for name in (CONFIG_NAME, WEIGHTS_NAME, *sorted(_OURS - files.keys())):
            (target / name).unlink(missing_ok=True)
        for name in FILES:
            if name in files:
                (target / (name + PARTIAL)).replace(target / name)
        sync_folder(target)
        (target / STATE_NAME).unlink(missing_ok=True)
    except OSError as exc:
        raise TrainingError(
            f"outfile {target}: the adapter cannot be put in place ({exc.strerror}); its files and the run's "
            "checkpoint are there: resume it"
        ) from exc


def write_partial(path: Path, content: bytes) -> None:
    """Write beside ``path``, under the name that :func:`write_adapter` renames, and wait until it is on the disk."""
    with path.with_name(path.name + PARTIAL).open("wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())


def remove_partials(target: Path) -> None:
    """Remove what a run that was killed had not finished writing."""
    for name in (*FILES, STATE_NAME):
        (target / (name + PARTIAL)).unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the folder's entries durable, where the system can (not on Windows)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

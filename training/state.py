"""What a run has reached, in one file, from which it goes on to the bit: ``training_state.safetensors``."""

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from alorakit.engine.errors import TrainingError
from alorakit.engine.model import PROJECTIONS, Decoder
from alorakit.training.adapter_folder import PARTIAL, STATE_NAME, sync_folder, write_partial
from alorakit.training.config import TrainConfig
from alorakit.training.data import Example
from alorakit.training.data_report import digest

# Settings that do not change what is computed, or by rounding only.
_FREE = {"save_steps", "prefix_memory", "activation_checkpointing"}


@dataclass
class Progress:
    """Where a run is, between two optimizer steps.

    Attributes:
        epoch: The epoch under way, from 1.
        rows: Its training rows that are done; all of them: only its validation is left.
        step: Optimizer steps done.
        loss: Summed loss of the epoch's label tokens so far, in nats, rows by weight.
        tokens: Those tokens, rows by weight.
        seconds: Time spent on the epoch so far.
        steps: Mean loss of every optimizer step.
        history: Finished epochs, as in ``TrainReport``.
        before: The base model's figures.
        best_epoch: The best finished epoch; 0: none yet.
        best: What else that epoch's validation found: ``temperature``, ``confusion``, ``per_class``.
        spent: Time of all processes so far, in seconds; what came after a killed one's last checkpoint does not count.
        budgets: Bytes for kept prefixes, on the device and in host memory: what is kept decides what is computed
            together, and so the rounding.
    """

    epoch: int = 1
    rows: int = 0
    step: int = 0
    loss: float = 0.0
    tokens: float = 0.0
    seconds: float = 0.0
    steps: list[float] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)
    before: dict[str, float] = field(default_factory=dict)
    best_epoch: int = 0
    best: dict[str, Any] = field(default_factory=dict)
    spent: float = 0.0
    budgets: tuple[int, int] | None = None


@dataclass(frozen=True)
class Identity:
    """What a run computes with; runs that agree in it compute the same.

    Attributes:
        model: Digest of the base model's weights.
        data: Digest of the rows.
        settings: The settings that matter.
    """

    model: str
    data: str
    settings: dict[str, Any]

    @classmethod
    def of(
        cls, decoder: Decoder, examples: Sequence[Example], validation: Sequence[Example] | None, config: TrainConfig
    ) -> "Identity":
        """Of a run that is about to begin."""
        settings = {name: value for name, value in asdict(config).items() if name not in _FREE}
        if validation is not None:
            settings["val_fraction"] = None  # no row is held out
        return cls(_model_digest(decoder), digest(examples, validation or ()), json.loads(json.dumps(settings)))

    def demand(self, found: "Identity", where: Path, remedy: str = "resume with what it was started with") -> None:
        """See that ``found``, read at ``where``, is this run; ``remedy``: what to do if it is not.

        Raises:
            TrainingError: It is another run; the message names what differs.
        """
        differs = ["another base model"] if self.model != found.model else []
        differs += ["other data"] if self.data != found.data else []
        for name, here in self.settings.items():
            if here != (there := found.settings.get(name)):
                differs.append(f"{name}={there!r} there, {here!r} here")
        if differs:
            raise TrainingError(f"{where} is of another run ({', '.join(differs)}); {remedy}, or give another outfile")


@dataclass(frozen=True)
class State:
    """A checkpoint.

    Attributes:
        identity: Of the run.
        progress: Where it is.
        tensors: Adapter, optimizer, best adapter, generators.
    """

    identity: Identity
    progress: Progress
    tensors: Mapping[str, Tensor]

    def write(self, folder: Path) -> None:
        """Replace the folder's checkpoint, whole or not at all.

        Raises:
            TrainingError: The disk refused; the checkpoint that was there before is still there.
        """
        path = folder / STATE_NAME
        partial = path.with_name(path.name + PARTIAL)
        header = json.dumps({"identity": asdict(self.identity), "progress": asdict(self.progress)})
        try:
            write_partial(path, save(dict(self.tensors), metadata={"alorakit": header}))
            partial.replace(path)
            sync_folder(folder)
        except BaseException as exc:
            with suppress(OSError):  # a disk that has turned read-only
                partial.unlink(missing_ok=True)
            if not isinstance(exc, OSError):
                raise
            left = "; the one before it is still there" if path.exists() else ""
            raise TrainingError(
                f"{path}: the checkpoint cannot be written ({exc.strerror}){left}; make room and resume, "
                "or give another outfile"
            ) from exc

    @classmethod
    def read(cls, folder: Path) -> "State | None":
        """The folder's checkpoint, or None.

        Raises:
            TrainingError: It cannot be read.
        """
        path = folder / STATE_NAME
        if not path.exists():
            return None
        try:
            content = path.read_bytes()
            [size] = struct.unpack("<Q", content[:8])
            found = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["alorakit"])
            progress = Progress(**found["progress"])
            if progress.budgets is not None:
                progress.budgets = (progress.budgets[0], progress.budgets[1])
            return cls(Identity(**found["identity"]), progress, load(content))
        except (OSError, ValueError, KeyError, TypeError, struct.error, SafetensorError) as exc:
            raise TrainingError(
                f"{path} cannot be read as a checkpoint ({exc}); delete it to start from the first step"
            ) from exc


def _model_digest(decoder: Decoder) -> str:
    """SHA-256 over the integer sum of every weight's bits: the same in any order of summing, so on any device."""
    hasher = hashlib.sha256(repr(decoder.config).encode())
    tensors = [decoder.embedding, decoder.lm_head.weight, decoder.final_norm]
    for layer in decoder.layers:
        tensors += [layer.input_norm, layer.post_norm, *(layer.qk_norm or ())]
        for name in PROJECTIONS:
            linear = getattr(layer, name)
            tensors += [linear.weight, *([] if linear.bias is None else [linear.bias])]
    kinds = {2: torch.int16, 4: torch.int32}
    for tensor in tensors:
        total = tensor.detach().contiguous().view(kinds[tensor.element_size()]).sum(dtype=torch.int64).item()
        hasher.update(f"{tuple(tensor.shape)} {total}\n".encode())
    return hasher.hexdigest()

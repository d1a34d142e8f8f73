"""Figures of a run: written to disk after every one of its parts, so that nothing measured is lost."""

import platform
import re
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.harness import Target, write_json


def device_slug(device: torch.device) -> str:
    """The device's name as a part of a file's name."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} {platform.machine()}"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def versions(device: torch.device) -> dict[str, str]:
    """What the figures were measured with."""
    found = {"device": device_slug(device), "torch": torch.__version__, "python": platform.python_version()}
    try:
        import triton

        found["triton"] = triton.__version__
    except ImportError:
        pass
    return found


@dataclass
class Results:
    """What was measured so far.

    Attributes:
        path: Where it is written; None: nowhere.
        about: Device, versions, settings.
        figures: Name -> value; the name says the unit.
        targets: Those of them that have a limit.
        errors: Part of the run -> why it failed.
    """

    path: Path | None
    about: dict[str, object]
    figures: dict[str, object] = field(default_factory=dict)
    targets: list[Target] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, value: float | int | bool | None) -> None:
        """Keep a figure, and print it."""
        self.figures[name] = round(value, 5) if isinstance(value, float) else value
        print(f"{name:74}{value:>14,.4g}" if value is not None else f"{name:74}{'not known':>14}", flush=True)

    def add_target(self, target: Target) -> None:
        """Keep a figure that should reach something, and print it."""
        self.figures[target.what] = round(target.value, 5)
        self.targets.append(target)
        print(target, flush=True)

    def write(self) -> None:
        """Write everything so far; a run that is cut off leaves the file of the part before."""
        if self.path is None:
            return
        content = {
            **self.about,
            "figures": self.figures,
            "targets": {target.what: target.to_json() for target in self.targets},
            "errors": self.errors,
        }
        write_json(self.path, content)

    def summary(self) -> str:
        """Which figures fall short, and what could not be measured."""
        missed = [str(target) for target in self.targets if not target.met]
        lines = [f"{len(self.targets) - len(missed)} of {len(self.targets)} targets met", *missed]
        return "\n".join([*lines, *(f"FAILED  {part}: {why}" for part, why in self.errors.items())])

"""What a run of the suite leaves: records of contests, targets, and what they were measured on; one JSON file."""

import json
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_results import device_slug, versions
from benchmarks.harness import Target, write_json
from benchmarks.machine import Machine, measure_matrix_rate

SCHEMA = 1
# A fixed product is timed before, between and after the parts; if its time varies by more, the machine was busy.
MOST_NOISE = 0.15

Point = Mapping[str, int | float | str]


@dataclass(frozen=True)
class Record:
    """One contestant at one point of a workload.

    Attributes:
        workload: Such as ``"check"``.
        contestant: Such as ``"alorakit aLoRA"``.
        point: What varies: ``{"context": 2048, "new": 8}``.
        seconds: Of each round, end to end; empty: it was not timed.
        first: Seconds to the first token, of each round; empty where that is not known.
        computed: Tokens that entered the model in a round, mean; None where that is not known.
        cached: Prompt tokens that the cache held, mean; None likewise.
        limit: Seconds that the bytes and operations need at least; None where that is not counted.
        note: Why it was not timed, or what else a reader must know.
    """

    workload: str
    contestant: str
    point: Point
    seconds: Sequence[float]
    first: Sequence[float] = ()
    computed: float | None = None
    cached: float | None = None
    limit: float | None = None
    note: str = ""

    @property
    def median(self) -> float:
        """Median of the rounds, in seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, of the median; 0 for fewer than two rounds."""
        if len(self.seconds) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return (high - low) / 2 / self.median

    def to_json(self) -> dict[str, Any]:
        """As the file has it."""
        rounded = {name: [round(value, 6) for value in getattr(self, name)] for name in ("seconds", "first")}
        return {**asdict(self), "point": dict(self.point), **rounded}


def paired(a: Record, b: Record) -> float:
    """Median of a's time divided by b's in the same round, over the rounds that both were in.

    What a busy moment does to both cancels.
    """
    return statistics.median(x / y for x, y in zip(a.seconds, b.seconds, strict=False))


@dataclass
class Results:
    """A run so far; written to disk after every part.

    Attributes:
        path: Where; None: nowhere.
        about: What it was measured on.
        records: Of all contests.
        targets: Numbers to reach.
        scripts: Name -> what a script of its own reported.
        errors: Part -> why it failed.
        part_seconds: Part -> how long it took.
        probes: Seconds of the fixed product, each time it was timed.
    """

    path: Path | None
    about: dict[str, Any]
    records: list[Record] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    scripts: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    part_seconds: dict[str, float] = field(default_factory=dict)
    probes: list[float] = field(default_factory=list)

    @property
    def on_cpu(self) -> bool:
        """Whether it was measured on a CPU."""
        return str(self.about["device"]).startswith("cpu")

    @property
    def noise(self) -> float:
        """By how much the fixed product's time varied over the run, of its best."""
        return max(self.probes) / min(self.probes) - 1 if self.probes else 0.0

    def find(self, workload: str, contestant: str, **point: object) -> Record | None:
        """The record of a contestant at a point, if it was timed."""
        for record in self.records:
            same = record.workload == workload and record.contestant == contestant
            if same and record.seconds and all(record.point.get(name) == value for name, value in point.items()):
                return record
        return None

    def probe(self, device: torch.device, dtype: torch.dtype) -> None:
        """Time the fixed product."""
        size = 1024 if device.type == "cpu" else 8192
        self.probes.append(2 * size**3 / measure_matrix_rate(device, dtype, size))

    def to_json(self) -> dict[str, Any]:
        """As the file has it."""
        return {
            "schema": SCHEMA,
            "about": {**self.about, "noise": round(self.noise, 3), "noisy": self.noise > MOST_NOISE},
            "records": [record.to_json() for record in self.records],
            "targets": [
                {**asdict(target), "value": round(target.value, 4), "met": target.met} for target in self.targets
            ],
            "scripts": self.scripts,
            "errors": self.errors,
            "part_seconds": {name: round(seconds, 1) for name, seconds in self.part_seconds.items()},
        }

    def write(self) -> None:
        """Write everything so far."""
        if self.path is not None:
            write_json(self.path, self.to_json())


def load(path: Path) -> Results:
    """Read what a run wrote.

    Raises:
        SystemExit: It is of another schema.
    """
    found = json.loads(path.read_text(encoding="utf-8"))
    if found.get("schema") != SCHEMA:
        raise SystemExit(f"{path}: schema {found.get('schema')!r}, this code reads {SCHEMA}; run the suite again")
    targets = [
        Target(**{name: t[name] for name in ("what", "value", "limit", "at_least", "unit")}) for t in found["targets"]
    ]
    results = Results(path, found["about"], [Record(**record) for record in found["records"]], targets)
    results.scripts, results.errors, results.part_seconds = found["scripts"], found["errors"], found["part_seconds"]
    return results


def about(
    device: torch.device, dtype: torch.dtype, machine: Machine, model: str, seed: int, quick: bool
) -> dict[str, Any]:
    """What a run is measured on."""
    return {
        **versions(device),
        "processor": processor() if device.type == "cpu" else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "dtype": str(dtype).removeprefix("torch."),
        "model": model,
        "seed": seed,
        "quick": quick,
        "commit": commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "bandwidth": machine.bandwidth,
        "matrix_rate": machine.matrix_rate,
    }


def processor() -> str:
    """The CPU's name and the instructions that decide its speed here."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    name = re.search(r"model name\s*: (.*)", text)
    flags = [flag for flag in ("avx2", "avx512_bf16", "amx_bf16") if re.search(rf"\b{flag}\b", text)]
    return f"{name.group(1).strip() if name else platform.machine()} ({flags[-1] if flags else 'no avx2'})"


def commit() -> str:
    """The checkout's commit, with a + if it was changed since; empty outside of one."""
    root = Path(__file__).resolve().parents[2]
    git = ["git", "-C", str(root)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
        status = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.strip() + ("+" if status.strip() else "")


def file_name(device: torch.device, quick: bool) -> str:
    """Name of the results file: the device, on a CPU with its number of cores."""
    slug = device_slug(device)
    if device.type == "cpu":
        slug = re.sub(r"[^a-z0-9]+", "-", f"cpu {processor()} {os.cpu_count()} cores".lower()).strip("-")
    return f"suite-{slug}{'-quick' if quick else ''}.json"

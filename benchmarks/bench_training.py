"""Training against transformers + PEFT: the time and the memory of a run, and whether it gives the same adapter.

Same rows, order, hyper-parameters and base dtype on both sides; each contestant runs in a process of its own, one after
the other. Ours runs whole. The peer takes so long that where only its time is asked for it takes ``--peer-steps``
optimizer steps, spread over the run; their median times the number of steps is its time. Without ``--full`` the sizes
are small, to see that everything works; the targets hold for the full ones. Run:
``python -m benchmarks.bench_training [data.jsonl] [--full] [--part long --part memory]``; rows have ``item`` and
``label``; without a file they are made up.

    long    rows of one length of about 1,000 tokens: the whole run, prefix pass included
    memory  the same rows: resident bytes beyond the loaded model, and a run with little memory for prefixes
    short   the rows as they are
    lora    the rows as they are, a plain LoRA, which has no prefix to keep
    same    float32, no dropout: every step's loss; with dropout, the validation loss in the end, mean of the seeds
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from alorakit.engine.pretrained import resolve_model
from alorakit.engine.tokenizer import Tokenizer
from benchmarks.harness import Target, Timings, report
from benchmarks.training_rows import long_rows, read_rows, write_rows
from benchmarks.training_run import OURS, PEER, Outcome, Run, measure
from benchmarks.workloads import MODEL

MIB = 1 << 20
LIMITED = "alorakit, little memory for prefixes"


@dataclass(frozen=True)
class Size:
    """Rows and epochs of a part.

    Attributes:
        rows: How many.
        epochs: Passes over them.
        peer_steps: Optimizer steps that the peer takes of them; None: all.
        tokens: Of each row; None: as they come.
    """

    rows: int
    epochs: int
    peer_steps: int | None
    tokens: int | None = None


FULL = {
    "long": Size(64, 6, 3, 1000),
    "short": Size(480, 3, 10),
    "lora": Size(80, 1, 10),
    "same": Size(100, 5, None),
}
SMALL = {
    "long": Size(8, 2, 1, 256),
    "short": Size(24, 2, 1),
    "lora": Size(8, 1, 1),
    "same": Size(10, 2, None),
}
PARTS = ("long", "memory", "short", "lora", "same")


class Bench:
    """Runs contestants and reports; a run that two parts need is made once."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self._args, self._folder = args, folder
        self._sizes = dict(FULL if args.full else SMALL)
        if args.epochs:
            self._sizes = {part: replace(size, epochs=args.epochs) for part, size in self._sizes.items()}
        self._prefix_memory = (256 if args.full else 24) * MIB
        self._tokenizer = Tokenizer.from_pretrained(resolve_model(args.model).path)
        self._done: dict[str, Outcome] = {}

    def size(self, part: str) -> Size:
        """Of a part."""
        return self._sizes[part]

    def outcome(self, who: str, part: str, **changes: object) -> Outcome:
        """Of a contestant on a part's rows, with other settings than the common ones."""
        size, args = self.size(part), self._args
        config = {"epochs": size.epochs, "learning_rate": 3e-4, "rank": 32, "val_fraction": 0.0, **changes}
        config = {"dtype": args.dtype, "device": args.device, **config}
        steps = args.peer_steps if args.peer_steps and size.peer_steps else size.peer_steps
        run = Run(who, args.model, str(self._rows(part)), size.tokens or 1024, config, steps, args.threads)
        if repr(run) not in self._done:
            print(f"running {who}, {part} {json.dumps(changes)} …", flush=True)
            self._done[repr(run)] = measure(run)
        return self._done[repr(run)]

    def speed(self, part: str, limit: float, **changes: object) -> dict[str, object]:
        """The whole run against the peer's steps."""
        ours, peer = self.outcome(OURS, part, **changes), self.outcome(PEER, part, **changes)
        timings = {OURS: Timings(OURS, [ours.seconds]), PEER: whole_run(peer)}
        ratio = timings[PEER].median / ours.seconds
        print(f"\nof alorakit's {ours.seconds:.1f} s, {ours.prefix_seconds:.1f} s are for the prefixes")
        print(
            f"the peer took {len(peer.step_seconds)} of its {peer.num_steps} optimizer steps; its time is their ",
            end="",
        )
        print(f"median of {statistics.median(peer.step_seconds):.2f} s times {peer.num_steps}")
        targets = [Target(f"{part}: whole run against {PEER}", ratio, limit)]
        return self._report(part, f"{part}: {self._what(part, ours)}", timings, targets)

    def long(self) -> dict[str, object]:
        """Rows of about 1,000 tokens."""
        return self.speed("long", 10)

    def short(self) -> dict[str, object]:
        """Rows as they come."""
        return self.speed("short", 4)

    def lora(self) -> dict[str, object]:
        """A plain LoRA."""
        return self.speed("lora", 1.15, adapter="lora", rank=6)

    def memory(self) -> dict[str, object]:
        """Growth beyond the loaded model."""
        ours, peer = self.outcome(OURS, "long"), self.outcome(PEER, "long")
        epochs = self._args.limited_epochs or self.size("long").epochs
        limited = self.outcome(OURS, "long", prefix_memory=self._prefix_memory, epochs=epochs)
        named = {OURS: ours, LIMITED: limited, PEER: peer}
        print(f"\n{'MiB':42}{'loaded':>10}{'growth':>10}{'prefixes':>10}")
        for name, found in named.items():
            print(
                f"{name:42}" + "".join(f"{value / MIB:>10.0f}" for value in (found.loaded, found.growth, found.store))
            )
        timings = {name: Timings(name, [found.seconds]) for name, found in named.items() if name != PEER}
        timings[PEER] = whole_run(peer)
        print(f"the run with little memory for prefixes is of {epochs} epochs, and compared with as many of the peer's")
        as_long = Timings(PEER, peer.step_seconds).scaled(limited.num_steps).median
        shares = {name: named[name].growth / peer.growth for name in (OURS, LIMITED)}
        targets = [
            *(Target(f"memory: {name}, growth of the peer's", share, 1 / 3, False) for name, share in shares.items()),
            Target("memory: prefixes in little memory", limited.store / MIB, self._prefix_memory / MIB, False, " MiB"),
            Target("memory: in little memory against the peer", as_long / limited.seconds, 3),
        ]
        title = f"memory: {self._what('long', ours)}; at most {self._prefix_memory // MIB} MiB of prefixes"
        numbers = {name: {"growth": f.growth, "store": f.store, "loaded": f.loaded} for name, f in named.items()}
        return self._report("memory", title, timings, targets, bytes=numbers)

    def same(self) -> dict[str, object]:
        """Loss of every step without dropout, validation loss with it."""
        plain: dict[str, Any] = {"val_fraction": 0.2, "dtype": "float32"}
        pairs = [self._pair(**plain, dropout=0.0)]
        pairs += [self._pair(**plain, dropout=0.05, seed=seed) for seed in range(self._args.seeds)]
        ours, peer = pairs[0]
        apart = max(abs(a - b) for a, b in zip(ours.losses, peer.losses, strict=True))
        means = [statistics.mean(pair[side].val_loss or 0.0 for pair in pairs[1:]) for side in (0, 1)]
        print(f"\nvalidation loss, dropout 0.05, mean of {len(pairs) - 1} seeds: {means[0]:.4f}, {PEER} {means[1]:.4f}")
        targets = [
            Target(f"same: {len(peer.losses)} steps without dropout, largest difference", apart, 1e-4, False, " nats"),
            Target("same: validation loss with dropout, apart", 100 * abs(means[0] / means[1] - 1), 5, False, "%"),
        ]
        timings = {OURS: Timings(OURS, [ours.seconds]), PEER: Timings(PEER, [sum(peer.step_seconds)])}
        losses = {OURS: [pair[0].val_loss for pair in pairs], PEER: [pair[1].val_loss for pair in pairs]}
        return self._report(
            "same", f"same: {self._what('same', ours)}", timings, targets, True, val_loss=losses, apart=apart
        )

    def _pair(self, **changes: object) -> tuple[Outcome, Outcome]:
        return self.outcome(OURS, "same", **changes), self.outcome(PEER, "same", **changes)

    def _rows(self, part: str) -> Path:
        path, size = self._folder / f"{part}.jsonl", self.size(part)
        if path.exists():
            return path
        if size.tokens is None:
            return write_rows(path, read_rows(self._args.data, size.rows))
        return write_rows(path, long_rows(self._args.data, self._tokenizer, size.rows, size.tokens))

    def _what(self, part: str, found: Outcome) -> str:
        size = self.size(part)
        return f"{size.rows} rows of {found.num_tokens:.0f} tokens, {size.epochs} epochs, base in {found.dtype}"

    def _report(
        self,
        part: str,
        title: str,
        timings: dict[str, Timings],
        targets: list[Target],
        any_size: bool = False,
        **extra: object,
    ) -> dict[str, object]:
        """Targets of time and memory are those of the full sizes; at small ones the figures are only shown."""
        if not (self._args.full or any_size):
            for target in targets:
                print(f"{target.what}: {target.value:.3g}{target.unit} (small sizes, no target; --full has them)")
            targets = []
        return report(title, timings, OURS, targets=targets, part=part, full=self._args.full, **extra)


def whole_run(peer: Outcome) -> Timings:
    """The time of the peer's whole run, by each step that it took."""
    return Timings(PEER, peer.step_seconds).scaled(peer.num_steps)


def main() -> None:
    """Run the parts and print, as the last line, JSON of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", help="JSONL of item and label; default: generated rows")
    parser.add_argument("--part", action="append", choices=PARTS, help="may be repeated; default: all")
    parser.add_argument(
        "--full", action="store_true", help="the sizes that the targets are for; takes hours on two cores"
    )
    parser.add_argument("--peer-steps", type=int, help="default: 3 for long rows, 10 for short ones; 1 at small sizes")
    parser.add_argument("--epochs", type=int, help="passes over the rows of every part, in place of the part's own")
    parser.add_argument("--limited-epochs", type=int, help="of the run with little memory for prefixes")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--seeds", type=int, help="of the part same; default: 3, 1 at small sizes")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    args.seeds = args.seeds or (3 if args.full else 1)
    if args.threads is not None:
        torch.set_num_threads(args.threads)  # what the report says; the contestants set their own
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args, Path(folder))
        found = {}
        for part in args.part or PARTS:
            run: Callable[[], dict[str, object]] = getattr(bench, part)
            found[part] = run()
    print(json.dumps(found))


if __name__ == "__main__":
    main()

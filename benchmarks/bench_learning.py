"""Does it learn? An aLoRA trained for one epoch, scored on rows it has not seen, against the base model.

Rows are JSONL of ``item`` and ``label``; each seed shuffles them, trains on the first ``--rows`` and scores the rest by
``Engine.score`` over all labels. Run: ``python -m benchmarks.bench_learning data.jsonl [--rows 480] [--seeds 3]``.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

from alorakit import Engine
from alorakit.engine.tokenizer import Tokenizer
from alorakit.training import ExampleList, TrainConfig, load_examples, train
from benchmarks.workloads import MODEL


def accuracy(engine: Engine, examples: list, labels: list[str], adapter: str | None) -> float:
    """Share of examples whose label scores highest of ``labels``."""
    hits = 0
    for example in examples:
        prompt = [*example.prefix_ids, *example.invocation_ids]
        hits += engine.score(prompt, labels, adapter=adapter).best.text == example.label
    return hits / len(examples)


def main() -> None:
    """Run the benchmark and print, as the last line, JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--rows", type=int, default=480)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--val-fraction", type=float, default=0.0)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    if args.data is None:
        print("bench_learning: give a JSONL file of item and label; nothing to do")
        sys.exit(0)
    runs = []
    with Engine.from_pretrained(args.model, dtype=args.dtype, device=args.device) as engine:
        examples = load_examples(args.data, Tokenizer.from_pretrained(engine.model_path))
        labels = sorted({example.label for example in examples})
        for seed in range(args.seeds):
            order = random.Random(seed).sample(range(len(examples)), len(examples))
            rows = ExampleList([examples[i] for i in order[: args.rows]], examples.invocation, examples.truncated)
            held_out = [examples[i] for i in order[args.rows :]]
            config = TrainConfig(
                rank=32,
                learning_rate=args.learning_rate,
                epochs=args.epochs,
                val_fraction=args.val_fraction,
                seed=seed,
                dtype=args.dtype,
                device=args.device,
            )
            start = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                report = train(engine.model_path, rows, config, Path(folder, "adapter"))
                seconds = time.perf_counter() - start
                engine.add_adapter("trained", Path(folder, "adapter"), replace=True)
            before = accuracy(engine, held_out, labels, None)
            after = accuracy(engine, held_out, labels, "trained")
            runs.append({"seed": seed, "before": before, "after": after, "train_s": seconds})
            print(f"seed {seed}: accuracy {before:.3f} -> {after:.3f} on {len(held_out)} rows not seen; ", end="")
            print(f"training {seconds:.0f} s, of it {report.prefix_seconds:.0f} s for the prefixes", flush=True)
    means = {key: round(statistics.mean(run[key] for run in runs), 4) for key in ("before", "after", "train_s")}
    print(f"mean of {args.seeds} seeds: {means['before']:.3f} -> {means['after']:.3f}, {means['train_s']:.0f} s")
    print(json.dumps({"mean": means, "runs": runs, "rows": args.rows, "epochs": args.epochs}))


if __name__ == "__main__":
    main()

"""Many checks of one context: 8 checks by 8 different aLoRAs, submitted together, against one check.

The context has been read before; each check asks something of its own, and each round something else. Drafts are off,
so that the engine is measured and not how well answers are guessed. Then a cold run counts rows: a context that nobody
has read must enter the model once, not once for each check. Run: ``python -m benchmarks.bench_fanout [--rounds 9]``.
"""

import argparse
import tempfile
from pathlib import Path

import torch

from alorakit import Engine, SamplingParams
from benchmarks.harness import Target, drop_accidents, interleave, report
from benchmarks.machine import Machine
from benchmarks.roofline import Lora, ModelShape, check, seconds
from benchmarks.workloads import INVOCATION, MODEL, add_random_aloras, random_ids

QUESTION = 20


def check_prompts(context: list[int], num: int, *seed: object) -> list[list[int]]:
    """``num`` different questions on a context."""
    return [context + random_ids(QUESTION, *seed, index) + INVOCATION for index in range(num)]


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--checks", type=int, default=8)
    parser.add_argument("--new", type=int, default=8)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    params = SamplingParams(max_tokens=args.new, ignore_eos=True)
    context = random_ids(args.context, "warm")
    with (
        Engine.from_pretrained(args.model, dtype="bfloat16", device="cpu", max_draft_tokens=0) as engine,
        tempfile.TemporaryDirectory() as folder,
    ):
        names = add_random_aloras(engine, Path(folder), args.checks, args.rank)
        engine.generate(context, SamplingParams(max_tokens=1))
        machine, shape = Machine.measure(torch.device("cpu"), torch.bfloat16), ModelShape(engine.model_config)
        one, many = "one check", f"{args.checks} checks by {args.checks} aLoRAs"
        rounds = interleave(
            {
                one: lambda turn: engine.generate(check_prompts(context, 1, one, turn), params, adapter=names[0]),
                many: lambda turn: engine.generate(
                    check_prompts(context, args.checks, many, turn), params, adapter=names
                ),
            },
            args.rounds,
            warmup=3,
        )
        before = engine.stats().tokens_computed
        cold = check_prompts(random_ids(args.context, "cold"), args.checks, "cold")
        engine.generate(cold, params, adapter=names)
        computed = engine.stats().tokens_computed - before
        own = QUESTION + len(INVOCATION)
        once = args.context + args.checks * (own + args.new) + engine.config.block_size
    timings, dropped = drop_accidents(rounds)
    targets = [
        Target(f"{args.checks} checks against one", timings[many].median / timings[one].median, 3, at_least=False),
        Target("cold run, context read once", computed, once, at_least=False, unit=" rows"),
    ]
    title = f"{args.checks} checks: {args.context} tokens of context, {own} of its own each, {args.new} out"
    limits = {
        name: seconds(check(shape, args.context, own, args.new, Lora(args.rank), len(INVOCATION), num), machine)
        for name, num in ((one, 1), (many, args.checks))
    }
    report(title, timings, one, dropped, targets, limits, tokens_computed_cold=computed, measured=str(machine))


if __name__ == "__main__":
    main()

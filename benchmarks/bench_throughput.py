"""Throughput of many requests, with and without adapters, and speed of a single one, against transformers.

The adapters take turns over the requests, each active from the prompt's end on, where its invocation is. Every request
of every round has a prompt of its own, so no prefix is reused. ``generate`` one by one runs a part of the requests, and
its time is scaled up. Drafts are off: no answer is guessed. Run:
``python -m benchmarks.bench_throughput [--rounds 3] [--single-rounds 7]``.
"""

import argparse
import tempfile
from pathlib import Path

import torch

from alorakit import Engine, SamplingParams
from alorakit.engine.stats import share_outside_model
from benchmarks import roofline
from benchmarks.harness import Target, Timings, drop_accidents, interleave, report
from benchmarks.machine import Machine
from benchmarks.peers import peft_peer
from benchmarks.roofline import Lora, ModelShape
from benchmarks.workloads import INVOCATION, MODEL, add_random_aloras, random_ids

NUM_ADAPTERS = 4
BASE, MIXED = "alorakit, base", f"alorakit, {NUM_ADAPTERS} aLoRAs in turn"
ONE_BY_ONE, PADDED = "transformers, one by one", "transformers, padded batch"
OURS, THEIRS = "alorakit, 1 request", "transformers, 1 request"


def make_prompts(num: int, length: int, who: str, turn: int) -> list[list[int]]:
    """Random prompts of one contestant's round, an invocation at the end of each."""
    return [random_ids(length - len(INVOCATION), who, turn, index) + INVOCATION for index in range(num)]


class SingleStream:
    """Answers one request step by step; adds up where the time of the steps that decode goes."""

    def __init__(self, engine: Engine, args: argparse.Namespace) -> None:
        """``engine`` answers, ``args`` say how long the prompts and answers are."""
        self._engine, self._length = engine, args.prompt
        self._params = SamplingParams(max_tokens=args.new, ignore_eos=True)
        self.seconds: dict[str, float] = dict.fromkeys(engine.stats().step_seconds, 0.0)

    def __call__(self, turn: int) -> None:
        """One round: the first step reads the prompt, the others decode."""
        engine = self._engine
        engine.add_request(make_prompts(1, self._length, OURS, turn)[0], self._params)
        engine.step()
        before = engine.stats().step_seconds
        while engine.has_unfinished:
            engine.step()
        for stage, seconds in engine.stats().step_seconds.items():
            self.seconds[stage] += seconds - before[stage]


def measure_batch(
    engine: Engine, peer: torch.nn.Module, adapters: list[str], args: argparse.Namespace
) -> tuple[dict[str, Timings], int]:
    """Many requests at once; timings without accidents, and how many rounds had one."""
    params = SamplingParams(max_tokens=args.new, ignore_eos=True)
    mixed = [adapters[index % len(adapters)] for index in range(args.requests)]

    def prompts(who: str, turn: int, num: int = args.requests) -> list[list[int]]:
        return make_prompts(num, args.prompt, who, turn)

    rounds = interleave(
        {
            BASE: lambda turn: engine.generate(prompts(BASE, turn), params),
            MIXED: lambda turn: engine.generate(prompts(MIXED, turn), params, adapter=mixed),
            ONE_BY_ONE: lambda turn: peft_peer.generate_one_by_one(
                peer, prompts(ONE_BY_ONE, turn, args.part), args.new
            ),
            PADDED: lambda turn: peft_peer.generate_padded(peer, prompts(PADDED, turn), args.new),
        },
        args.rounds,
    )
    timings, dropped = drop_accidents(rounds)
    timings[ONE_BY_ONE] = timings[ONE_BY_ONE].scaled(args.requests / args.part)
    return timings, dropped


def limits(shape: ModelShape, args: argparse.Namespace) -> dict[str, float]:
    """What each of ours needs at least."""
    machine = Machine.measure(torch.device("cpu"), torch.bfloat16)
    print(f"\nMeasured: {machine}")
    mixed = [index % NUM_ADAPTERS for index in range(args.requests)]
    steps = {
        OURS: roofline.generate(shape, 1, args.prompt, args.new),
        BASE: roofline.generate(shape, args.requests, args.prompt, args.new),
        MIXED: roofline.generate(shape, args.requests, args.prompt, args.new, Lora(args.rank), mixed, len(INVOCATION)),
    }
    return {name: roofline.seconds(each, machine) for name, each in steps.items()}


def main() -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--part", type=int, default=4, help="requests that transformers answers one by one")
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--single-rounds", type=int, default=7)
    args = parser.parse_args()
    with (
        Engine.from_pretrained(args.model, dtype="bfloat16", device="cpu", max_draft_tokens=0) as engine,
        tempfile.TemporaryDirectory() as folder,
    ):
        peer = peft_peer.load_base(engine.model_path, torch.bfloat16)
        adapters = add_random_aloras(engine, Path(folder), NUM_ADAPTERS, args.rank)
        single = SingleStream(engine, args)

        def theirs(turn: int) -> None:
            peft_peer.generate_one_by_one(peer, make_prompts(1, args.prompt, THEIRS, turn), args.new)

        alone, dropped = drop_accidents(interleave({OURS: single, THEIRS: theirs}, args.single_rounds))
        overhead = 100 * share_outside_model(single.seconds)
        targets = [
            Target("single stream against transformers", alone[THEIRS].median / alone[OURS].median, 2),
            Target("single stream, step time outside the model", overhead, 10, at_least=False, unit="%"),
        ]
        title = f"One request: {args.prompt} tokens in, {args.new} out"
        least = limits(ModelShape(engine.model_config), args)
        first = report(title, alone, OURS, dropped, targets, {OURS: least.pop(OURS)}, step_seconds=single.seconds)
        many, dropped = measure_batch(engine, peer, adapters, args)
    targets = [
        Target("base against one by one", many[ONE_BY_ONE].median / many[BASE].median, 8),
        Target("base against a padded batch", many[PADDED].median / many[BASE].median, 1.8),
        Target(f"{NUM_ADAPTERS} aLoRAs, share of base", 100 * many[BASE].median / many[MIXED].median, 85, unit="%"),
    ]
    print(f"\nOne by one: {args.part} of the {args.requests} requests were run, and their time scaled up.")
    title = f"{args.requests} requests: {args.prompt} tokens in, {args.new} out each"
    tokens_per_s = {name: round(args.requests * args.new / t.median, 1) for name, t in many.items()}
    scaled = {ONE_BY_ONE: args.part}
    report(title, many, BASE, dropped, targets, least, tokens_per_s=tokens_per_s, scaled=scaled, single=first)


if __name__ == "__main__":
    main()

"""One check on a long context: alorakit's aLoRA against PEFT's LoRA, and against PEFT's aLoRA with a hand-made cache.

The context has been generated upon before, so that whoever can reuse its KV does. Each round asks another
requirement. Run: ``python -m benchmarks.bench_check [--context 2048] [--new 8] [--rounds 5]``.
"""

import argparse
import random
import tempfile
from pathlib import Path

import torch

from alorakit import Engine, SamplingParams
from benchmarks.harness import interleave, report
from benchmarks.peers import peft_peer

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
REQUIREMENT = 20
INVOCATION = [44, 17, 45]


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--new", type=int, default=8)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    rng = random.Random(0)
    context = [rng.randrange(100, 40000) for _ in range(args.context)]
    prompts = [
        [*context, *(rng.randrange(100, 40000) for _ in range(REQUIREMENT)), *INVOCATION]
        for _ in range(args.rounds + 1)
    ]
    with (
        Engine.from_pretrained(args.model, dtype="bfloat16", device="cpu") as engine,
        tempfile.TemporaryDirectory() as t,
    ):
        folder = engine.model_path
        alora = peft_peer.make_adapter(folder, Path(t, "alora"), args.rank, INVOCATION)
        lora = peft_peer.make_adapter(folder, Path(t, "lora"), args.rank, None)
        engine.add_adapter("alora", alora)
        engine.add_adapter("lora", lora)
        params = SamplingParams(max_tokens=args.new, ignore_eos=True)
        engine.generate(context, SamplingParams(max_tokens=1))
        peft_lora = peft_peer.load_adapter(folder, lora, torch.bfloat16)
        peft_alora = peft_peer.load_adapter(folder, alora, torch.bfloat16)
        cache = peft_peer.context_cache(peft_alora, context)
        reused: set[int] = set()

        def ours(turn: int) -> None:
            (output,) = engine.generate(prompts[turn], params, adapter="alora")
            reused.add(output.usage.cached_tokens)

        def by_hand(turn: int) -> None:
            peft_peer.generate(peft_alora, prompts[turn], args.new, cache)
            cache.crop(args.context - cache.get_seq_length())

        timings = interleave(
            {
                "alorakit aLoRA": ours,
                "alorakit LoRA, its own KV kept": lambda turn: engine.generate(prompts[turn], params, adapter="lora"),
                "PEFT aLoRA, cache kept by hand": by_hand,
                "PEFT LoRA": lambda turn: peft_peer.generate(peft_lora, prompts[turn], args.new),
            },
            args.rounds,
        )
    title = f"A check: {args.context} tokens of context, {REQUIREMENT + len(INVOCATION)} of its own, {args.new} out"
    report(title, timings, "alorakit aLoRA", cached_tokens=sorted(reused))


if __name__ == "__main__":
    main()

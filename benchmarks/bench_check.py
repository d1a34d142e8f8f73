"""One check on a long context: alorakit's aLoRA against PEFT's LoRA, and against PEFT's aLoRA with a hand-made cache.

The context has been generated upon before, so that whoever can reuse its KV does. Each round asks something else about
it. A score compares two labels in one pass and decodes nothing, which is how sessions check. ``--adapter DIR`` takes a
trained adapter, whose answers recur and are drafted; without it the adapters have small random weights, and drafts are
off: such answers recur a little too, which would make the rounds unequal and be no merit. Run:
``python -m benchmarks.bench_check [--adapter checkpoints/my_adapter] [--rounds 9]``.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import torch

from alorakit import Engine, EngineConfig, SamplingParams
from alorakit.bindings.cli.notes import generate_notes
from benchmarks.harness import Target, Timings, drop_accidents, interleave, report
from benchmarks.machine import Machine
from benchmarks.peers import peft_peer
from benchmarks.roofline import Lora, ModelShape, check, seconds
from benchmarks.workloads import INVOCATION, MODEL

QUESTION = 20
LABELS = ["yes", "no"]
WARMUP = 3
CHECK, OWN_LORA = "alorakit aLoRA", "alorakit LoRA, its own KV kept"


def make_prompts(engine: Engine, context: int, invocation: list[int], rounds: int) -> tuple[list[int], list[list[int]]]:
    """A context of technicians' notes, and for each round the context, another question and the invocation."""
    notes = [engine.tokenizer.encode(note["item"]) for note in generate_notes(context // 10 + rounds, seed=1)]
    ids = [token for note in notes[rounds:] for token in note][:context]
    questions = [(note * QUESTION)[:QUESTION] for note in notes[:rounds]]
    return ids, [ids + question + invocation for question in questions]


def as_lora(adapter: Path, out: Path) -> Path:
    """The same weights as a plain LoRA."""
    shutil.copytree(adapter, out)
    file = out / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"alora_invocation_tokens": None}), encoding="utf-8")
    return out


def targets(timings: dict[str, Timings]) -> list[Target]:
    """What a check should gain over PEFT."""
    check, score = timings[CHECK].median, timings["alorakit aLoRA, score"].median
    lora, by_hand = timings["PEFT LoRA"].median, timings["PEFT aLoRA, cache kept by hand"].median
    return [
        Target("check against PEFT LoRA", lora / check, 12),
        Target("check against PEFT aLoRA, cache kept by hand", by_hand / check, 2.5),
        Target("score of two labels against PEFT LoRA", lora / score, 45),
    ]


def limits(shape: ModelShape, machine: Machine, context: int, invocation: int, new: int, rank: int) -> dict[str, float]:
    """What the checks need at least; PEFT's LoRA reads the context anew."""
    lora, own = Lora(rank), QUESTION + invocation
    check_s = seconds(check(shape, context, own, new, lora, invocation), machine)
    return {CHECK: check_s, "PEFT LoRA": seconds(check(shape, 0, context + own, new, lora), machine)}


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--new", type=int, default=8)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--adapter", type=Path, help="trained aLoRA folder; default: random weights")
    args = parser.parse_args()
    drafts = EngineConfig.max_draft_tokens if args.adapter else 0
    with (
        Engine.from_pretrained(args.model, dtype="bfloat16", device="cpu", max_draft_tokens=drafts) as engine,
        tempfile.TemporaryDirectory() as t,
    ):
        folder = engine.model_path
        alora = args.adapter or peft_peer.make_adapter(folder, Path(t, "alora"), args.rank, INVOCATION)
        lora = as_lora(alora, Path(t, "lora"))
        info = engine.add_adapter("alora", alora)
        engine.add_adapter("lora", lora)
        invocation = list(info.invocation_tokens or ())
        context, prompts = make_prompts(engine, args.context, invocation, 2 * (args.rounds + WARMUP))
        scored = prompts[args.rounds + WARMUP :]  # questions of their own, or a check would have computed them
        params = SamplingParams(max_tokens=args.new, ignore_eos=True)
        engine.generate(context, SamplingParams(max_tokens=1))
        machine, shape = Machine.measure(torch.device("cpu"), torch.bfloat16), ModelShape(engine.model_config)
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

        rounds = interleave(
            {
                CHECK: ours,
                "alorakit aLoRA, score": lambda turn: engine.score(scored[turn], LABELS, adapter="alora"),
                OWN_LORA: lambda turn: engine.generate(prompts[turn], params, adapter="lora"),
                "PEFT aLoRA, cache kept by hand": by_hand,
                "PEFT LoRA": lambda turn: peft_peer.generate(peft_lora, prompts[turn], args.new),
            },
            args.rounds,
            WARMUP,
        )
    kind = "trained" if args.adapter else "random"
    own = QUESTION + len(invocation)
    title = f"A check: {args.context} tokens of context, {own} of its own, {args.new} out, {kind} adapter"
    timings, dropped = drop_accidents(rounds, uneven=[CHECK, OWN_LORA] if drafts else [])
    extra = {"adapter": kind, "cached_tokens": sorted(reused), "measured": str(machine)}
    least = limits(shape, machine, args.context, len(invocation), args.new, args.rank)
    report(title, timings, CHECK, dropped, targets(timings), least, **extra)


if __name__ == "__main__":
    main()

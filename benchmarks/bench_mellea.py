"""A Mellea program on this engine and on Mellea's own Hugging Face backend: instruct and three requirements.

The chat holds a document of ``--context`` tokens that was talked about before. Each round clones the session, gives an
instruction and checks the answer by three adapters: aLoRAs here, LoRAs of the same rank there (its aLoRAs do nothing,
which the last part shows). The program, the prompts and the instruction to the adapters are the same; only the backend
line differs. Needs Mellea: ``PYTHONPATH=.venv/mellea python -m benchmarks.bench_mellea [--context 2048] [--rounds 3]``.
"""

import argparse
import asyncio
import logging
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

try:
    from mellea import MelleaSession
except ImportError:
    print("bench_mellea: Mellea is not installed (make test puts it into .venv/mellea); nothing to do")
    sys.exit(0)
from mellea.backends import ModelOption
from mellea.backends.adapters import AdapterType
from mellea.core import CBlock, MelleaLogger, ModelOutputThunk
from mellea.stdlib.components import Intrinsic, Message
from mellea.stdlib.context import ChatContext
from mellea.stdlib.requirements import ALoraRequirement
from mellea.stdlib.sampling import RejectionSamplingStrategy

from alorakit import Engine
from alorakit.bindings.cli.notes import generate_notes
from alorakit.bindings.mellea import MelleaBackend
from alorakit.engine.manifest import Manifest
from alorakit.training.io_yaml import IO_YAML_NAME, io_yaml
from benchmarks.harness import Target, Timings, drop_accidents, interleave, report
from benchmarks.peers import mellea_hf, peft_peer
from benchmarks.workloads import MODEL

INVOCATION = "<|start_of_role|>check_requirement<|end_of_role|>"
NAMES = ("grounded", "polite", "short")
DEMANDS = ("It only says what the notes say.", "It is polite to the technician.", "It is a single sentence.")
OURS, INCUMBENT = "alorakit", "Mellea LocalHFBackend"
AT_LEAST = 10.0
MANY, MOST_TIMES = 32, 12.0
Run = Callable[[int], object]


def make_folder(model: Path, out: Path, invocation: list[int] | None, rank: int, seed: int, std: float = 0.01) -> Path:
    """An adapter folder with random weights and all that both backends read of it."""
    peft_peer.make_adapter(model, out, rank, invocation, seed, std)
    manifest = Manifest(requirements=True, labels=("no", "yes"), invocation=INVOCATION, capability="requirement-check")
    (out / "alorakit.json").write_text(manifest.to_json(), encoding="utf-8")
    (out / IO_YAML_NAME).write_text(io_yaml(manifest), encoding="utf-8")
    return out


def conversation(engine: Engine, tokens: int) -> ChatContext:
    """A chat about a document of so many tokens."""
    text, notes = "", iter(generate_notes(tokens // 10, seed=1))
    while len(engine.tokenizer.encode(text)) < tokens:
        text += next(notes)["item"] + "\n"
    question = Message("user", f"Here are the technician's notes.\n{text}")
    return ChatContext().add(question).add(Message("assistant", "Thank you, I have read them."))


def program(backend: Any, context: ChatContext, kind: AdapterType) -> Run:
    """The program of one round; whether a requirement fails does not matter, one attempt is made."""
    order = random.Random(0).sample(range(100, 1000), 100)

    def run(turn: int) -> None:
        session = MelleaSession(backend, ctx=context)
        wanted = [
            ALoraRequirement(text, name, adapter_types=(kind,)) for name, text in zip(NAMES, DEMANDS, strict=True)
        ]
        session.instruct(
            f"Summarize note {order[turn]} for the next shift.",
            requirements=list(wanted),
            strategy=RejectionSamplingStrategy(loop_budget=1),
        )

    return run


def same_answers(backends: dict[str, Any], context: ChatContext) -> dict[str, str]:
    """What each backend's base model says first: the same, or the comparison would be void."""
    said = {}
    for name, backend in backends.items():
        said[name] = str(MelleaSession(backend, ctx=context).instruct("Which note is the worst?", strategy=None))
    return said


def score(backend: Any, name: str, kind: AdapterType) -> str:
    """What an adapter function says of a short chat."""
    context = ChatContext().add(Message("user", "Hum at 900 RPM.")).add(Message("assistant", "Check the bearing."))
    action = Intrinsic(name, {"requirement": "It names a part."}, adapter_types=(kind,))
    return str(MelleaSession(backend, ctx=context).act(action, strategy=None))


def incumbents_alora(model: Path, dtype: torch.dtype, folder: Path, invocation: list[int], rank: int) -> dict[str, str]:
    """The score of one strong aLoRA on both backends, and of the base model (an adapter of zeros)."""
    strong = make_folder(model, folder / "strong", invocation, rank, seed=9, std=0.02)
    zeros = make_folder(model, folder / "zeros", None, rank, seed=9, std=0.0)
    (strong / "alorakit.json").unlink()  # both read io.yaml: the same prompt, the same likelihood
    theirs = mellea_hf.load(model, dtype, 8)
    theirs.add_adapter(mellea_hf.adapter("strong", strong, AdapterType.ALORA))
    theirs.add_adapter(mellea_hf.adapter("zeros", zeros, AdapterType.LORA))
    with Engine.from_pretrained(model, dtype=str(dtype).removeprefix("torch."), device="cpu") as engine:
        ours = MelleaBackend(engine=engine)
        ours.add_adapter(mellea_hf.adapter("strong", strong, AdapterType.ALORA))
        return {
            "base": score(theirs, "zeros", AdapterType.LORA),
            "LocalHFBackend aLoRA": score(theirs, "strong", AdapterType.ALORA),
            "alorakit aLoRA": score(ours, "strong", AdapterType.ALORA),
        }


def validations(backend: Any, context: ChatContext, count: int) -> Run:
    """``count`` validations at once over one chat, each of another requirement."""
    answered = context.add(CBlock("Which note is the worst?")).add(ModelOutputThunk("The third note is the worst."))

    def run(turn: int) -> None:
        async def gather() -> None:
            session = MelleaSession(backend, ctx=answered)
            kinds = (AdapterType.ALORA,)
            wanted = [
                ALoraRequirement(f"{DEMANDS[i % 3]} ({turn}.{i})", NAMES[i % 3], adapter_types=kinds)
                for i in range(count)
            ]
            await asyncio.gather(*(session.avalidate(requirement) for requirement in wanted))

        asyncio.run(gather())

    return run


def concurrency(engine: Engine, backend: Any, context: ChatContext, rounds: int) -> dict[str, Any]:
    """One validation against ``MANY`` at once: time and engine steps."""
    one, many = validations(backend, context, 1), validations(backend, context, MANY)
    timings, _ = measure({"one": one, "many": many}, rounds)
    before = engine.stats().steps
    many(999)
    steps = engine.stats().steps - before
    ratio = timings["many"].median / timings["one"].median
    print(f"\n{MANY} validations at once: {1e3 * timings['many'].median:.0f} ms in {steps} steps; one: "
          f"{1e3 * timings['one'].median:.0f} ms")  # fmt: skip
    print(Target(f"{MANY} validations at once against one", ratio, MOST_TIMES, at_least=False))
    return {"ratio": ratio, "steps": steps, "one_s": timings["one"].median, "many_s": timings["many"].median}


def measure(runs: dict[str, Run], rounds: int) -> tuple[dict[str, Timings], int]:
    """Interleaved rounds."""
    return drop_accidents(interleave(runs, rounds, warmup=1))


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--new", type=int, default=32, help="tokens of the answer")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--many-rounds", type=int, default=5, help=f"of {MANY} validations at once")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    args = parser.parse_args()
    MelleaLogger.get_logger().setLevel(logging.ERROR)
    dtype = getattr(torch, args.dtype)
    with (
        Engine.from_pretrained(args.model, dtype=args.dtype, device="cpu") as engine,
        tempfile.TemporaryDirectory() as t,
    ):
        folder, invocation = Path(t), engine.tokenizer.encode(INVOCATION, add_special_tokens=False)
        options = {ModelOption.MAX_NEW_TOKENS: args.new}
        ours = MelleaBackend(engine=engine, model_options=options)
        theirs = mellea_hf.load(engine.model_path, dtype, args.new)
        for seed, name in enumerate(NAMES):
            alora = make_folder(engine.model_path, folder / "alora" / name, invocation, args.rank, seed)
            lora = make_folder(engine.model_path, folder / "lora" / name, None, args.rank, seed)
            ours.add_adapter(mellea_hf.adapter(name, alora, AdapterType.ALORA))
            theirs.add_adapter(mellea_hf.adapter(name, lora, AdapterType.LORA))
        context = conversation(engine, args.context)
        said = same_answers({OURS: ours, INCUMBENT: theirs}, context)
        runs = {
            OURS: program(ours, context, AdapterType.ALORA),
            INCUMBENT: program(theirs, context, AdapterType.LORA),
        }
        before = engine.stats()
        timings, dropped = measure(runs, args.rounds)
        computed = (engine.stats().tokens_computed - before.tokens_computed) / (args.rounds + 1)
        at_once = concurrency(engine, ours, context, args.many_rounds)
        scores = incumbents_alora(engine.model_path, dtype, folder, invocation, args.rank)
    ratio = timings[INCUMBENT].median / timings[OURS].median
    print(f"base answers are {'equal' if len(set(said.values())) == 1 else f'not equal: {said}'}")
    for name, value in scores.items():
        print(f"score of one aLoRA, {name}: {value}")
    report(
        f"instruct ({args.new} tokens) and 3 requirements on a chat of {args.context} tokens, {args.dtype}",
        timings,
        OURS,
        dropped,
        [Target("against LocalHFBackend with LoRAs", ratio, AT_LEAST)],
        rows_per_round=round(computed, 1),
        same_base_answer=len(set(said.values())) == 1,
        scores=scores,
        concurrency=at_once,
    )


if __name__ == "__main__":
    main()

"""The CPU path: prefill, decode and a check, against transformers, PEFT and llama.cpp in BF16.

llama.cpp takes part where llama-cpp-python is installed: it runs the base model and keeps the context's cache, as its
server does for one slot. Drafts are off. ``--compile`` measures the compiled engine beside the eager one. Run:
``python -m benchmarks.bench_cpu [--threads 2] [--rounds 7] [--compile]``.
"""

import argparse
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path

import torch

from alorakit import Engine, SamplingParams
from benchmarks import roofline
from benchmarks.harness import Target, Timings, drop_accidents, interleave, report
from benchmarks.machine import Machine
from benchmarks.peers import llama_cpp_peer, peft_peer
from benchmarks.roofline import Lora, ModelShape
from benchmarks.workloads import INVOCATION, MODEL, random_ids

QUESTION, NEW, DECODED, RANK = 20, 8, 32, 32
OURS, COMPILED, HF, PEFT, LLAMA = "alorakit", "alorakit, compiled", "transformers", "PEFT LoRA", "llama.cpp BF16"
DECODE_MS = 20  # compiled, where the eager prototype took EAGER_MS
EAGER_MS = 28

Contestants = dict[str, Callable[[int], object]]


class Peers:
    """The engines and their peers, and one contest after the other; whoever can keep the context's KV has it."""

    def __init__(self, args: argparse.Namespace, engines: dict[str, Engine], folder: Path) -> None:
        """Load the peers; ``folder`` takes adapters and, if need be, a GGUF file."""
        self._context, self._engines = random_ids(args.context, "context"), engines
        path = engines[OURS].model_path
        alora = peft_peer.make_adapter(path, folder / "alora", RANK, INVOCATION)
        lora = peft_peer.make_adapter(path, folder / "lora", RANK, None)
        for engine in engines.values():
            engine.add_adapter("alora", alora)
            engine.generate(self._context, SamplingParams(max_tokens=1))
        self._base = peft_peer.load_base(path, torch.bfloat16)
        self._lora = peft_peer.load_adapter(path, lora, torch.bfloat16)
        self._llama = None
        if llama_cpp_peer.available():
            gguf = args.gguf or llama_cpp_peer.write_gguf(path, folder / "bf16.gguf")
            self._llama = llama_cpp_peer.LlamaCpp(gguf, args.context + 256, args.threads)
        else:
            print(f"llama.cpp is left out: llama_cpp cannot be imported; {llama_cpp_peer.HOW}")

    def prefill(self) -> Contestants:
        """A context that nobody has seen, one token out."""

        def ours(engine: Engine, who: str, turn: int) -> None:
            engine.generate(random_ids(len(self._context), who, turn), SamplingParams(max_tokens=1))

        contestants: Contestants = {OURS: lambda turn: ours(self._engines[OURS], OURS, turn)}
        contestants[HF] = lambda turn: peft_peer.generate(self._base, random_ids(len(self._context), HF, turn), 1)
        if (llama := self._llama) is not None:
            contestants[LLAMA] = lambda turn: llama.prefill(random_ids(len(self._context), LLAMA, turn))
        return contestants

    def decode(self) -> Contestants:
        """DECODED tokens of one sequence whose context is cached, but for its last token."""
        contestants = self._answers(lambda turn: [random_ids(1, "decode", turn)[0]], DECODED, None)
        cache = peft_peer.context_cache(self._base, self._context)
        length = len(self._context)

        def theirs(turn: int) -> None:
            peft_peer.generate(self._base, [*self._context, random_ids(1, "decode", turn)[0]], DECODED, cache)
            cache.crop(length - cache.get_seq_length())

        return contestants | {HF: theirs}

    def check(self) -> Contestants:
        """A question and the invocation after the cached context, NEW tokens out."""

        def own(turn: int) -> list[int]:
            return random_ids(QUESTION, "check", turn) + INVOCATION

        contestants = self._answers(own, NEW, "alora")
        return contestants | {PEFT: lambda turn: peft_peer.generate(self._lora, self._context + own(turn), NEW)}

    def _answers(self, own: Callable[[int], list[int]], new: int, adapter: str | None) -> Contestants:
        params = SamplingParams(max_tokens=new, ignore_eos=True)
        contestants: Contestants = {
            name: lambda turn, engine=engine: engine.generate(self._context + own(turn), params, adapter=adapter)
            for name, engine in self._engines.items()
        }
        if (llama := self._llama) is not None:
            llama.prefill(self._context)
            contestants[LLAMA] = lambda turn: llama.generate(own(turn), new, keep=len(self._context))
        return contestants


def targets(kind: str, timings: dict[str, Timings]) -> list[Target]:
    """What the CPU path should gain, as far as the contestants took part."""
    ours, found = timings[OURS].median, []
    wanted = {"prefill": {HF: 1.3, LLAMA: 2}, "decode": {HF: 2.5}, "check": {PEFT: 13, LLAMA: 1 / 1.1}}
    for name, limit in wanted[kind].items():
        if name in timings:
            found.append(Target(f"{kind} against {name}", timings[name].median / ours, round(limit, 3)))
    if COMPILED in timings and kind == "decode":
        compiled = timings[COMPILED].median * 1000 / DECODED
        found.append(Target("decode, compiled", compiled, DECODE_MS, at_least=False, unit=" ms"))
    if COMPILED in timings and kind == "check" and LLAMA in timings:
        found.append(Target(f"check, compiled, against {LLAMA}", timings[LLAMA].median / timings[COMPILED].median, 1))
    return found


def limits(kind: str, shape: ModelShape, machine: Machine, context: int, names: Collection[str]) -> dict[str, float]:
    """Seconds that our engines' bytes and operations need at least."""
    own = QUESTION + len(INVOCATION)
    steps = {
        "prefill": [roofline.prefill(shape, context)],
        "decode": [roofline.decode(shape, [context + 1 + index]) for index in range(DECODED)],
        "check": roofline.check(shape, context, own, NEW, Lora(RANK), len(INVOCATION)),
    }
    return {name: roofline.seconds(steps[kind], machine) for name in (OURS, COMPILED) if name in names}


def main() -> None:
    """Run the three contests and print a table for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=["prefill", "decode", "check"], help="one contest instead of all")
    parser.add_argument("--gguf", type=Path, help="BF16 GGUF file of the model; default: written to a temporary folder")
    parser.add_argument("--compile", action="store_true", help="let an engine with compile=True take part")
    args = parser.parse_args()
    settings = dict(dtype="bfloat16", device="cpu", num_threads=args.threads, max_draft_tokens=0)
    settings |= dict(max_model_len=args.context + 256)
    engines = {OURS: Engine.from_pretrained(args.model, **settings)}
    if args.compile:
        engines[COMPILED] = Engine.from_pretrained(args.model, compile=True, **settings)
    machine = Machine.measure(torch.device("cpu"), torch.bfloat16)
    shape = ModelShape(engines[OURS].model_config)
    with tempfile.TemporaryDirectory() as folder:
        peers = Peers(args, engines, Path(folder))
        for kind, title in {
            "prefill": f"Prefill of {args.context} tokens",
            "decode": f"Decode: {DECODED} tokens of one sequence after {args.context}",
            "check": f"A check: {args.context} tokens of context, {QUESTION + len(INVOCATION)} of its own, {NEW} out",
        }.items():
            if args.only in (None, kind):
                timings, dropped = drop_accidents(interleave(getattr(peers, kind)(), args.rounds, warmup=2))
                least = limits(kind, shape, machine, args.context, timings)
                report(title, timings, OURS, dropped, targets(kind, timings), least)


if __name__ == "__main__":
    main()

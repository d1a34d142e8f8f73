"""Checks while an answer is written: what they cost when all pass, and what they save when one fails early.

One instruction is answered in ``--new`` tokens. "at the end" checks the whole answer by one aLoRA; "while writing" also
checks each sentence's end (``check_every="sentence"``). The adapters have random weights, and which of their labels
pass is set so that all checks pass, or all fail. Run: ``python -m benchmarks.bench_watch [--new 256] [--rounds 5]``.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from alorakit import ChatContext, Engine, EngineBackend, MelleaSession, req
from alorakit.bindings.session import RejectionSamplingStrategy, SamplingResult
from alorakit.engine.manifest import Manifest
from benchmarks.harness import Target, drop_accidents, interleave, report
from benchmarks.peers import peft_peer
from benchmarks.workloads import MODEL

INVOCATION = "<|start_of_role|>check_requirement<|end_of_role|>"
TOPICS = (
    "a lighthouse",
    "a water pump",
    "a railway station",
    "a bakery",
    "an old clock",
    "a garden",
    "a ferry",
    "a mill",
)
MOST_OVERHEAD, MOST_TOKENS = 1.10, 0.5


def add_checkers(engine: Engine, folder: Path, rank: int) -> None:
    """Register two adapters: ``passes`` and ``fails``, whatever they answer."""
    ids = engine.tokenizer.encode(INVOCATION, add_special_tokens=False)
    labels = ("no", "yes")
    manifest = Manifest(requirements=True, labels=labels, invocation=INVOCATION)
    for name, passing in (("passes", labels), ("fails", ())):
        path = peft_peer.make_adapter(engine.model_path, folder / name, rank, ids)
        rest = tuple(label for label in labels if label not in passing)
        chosen = replace(manifest, pass_labels=tuple(passing), fail_labels=rest)
        (path / "alorakit.json").write_text(chosen.to_json(), encoding="utf-8")
        engine.add_adapter(name, path)


def program(
    session: MelleaSession, adapter: str, every: str | None, made: list[SamplingResult]
) -> Callable[[int], object]:
    """One attempt at an instruction that differs from round to round."""

    def run(turn: int) -> None:
        made.append(
            session.clone().instruct(
                f"Tell a long story about {TOPICS[turn % len(TOPICS)]}, number {turn}.",
                requirements=[req("The story is fit for children and stays on its topic.", adapter=adapter)],
                strategy=RejectionSamplingStrategy(loop_budget=1),
                return_sampling_results=True,
                check_every=every,
            )
        )

    return run


def median_tokens(results: list[SamplingResult]) -> float:
    """Tokens generated, median."""
    return statistics.median(len(result.result.token_ids or ()) for result in results)


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--new", type=int, default=256)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="auto")
    args = parser.parse_args()
    with (
        Engine.from_pretrained(args.model, dtype=args.dtype, device="cpu", memory_fraction=0.2) as engine,
        tempfile.TemporaryDirectory() as t,
    ):
        add_checkers(engine, Path(t), args.rank)
        backend = EngineBackend(engine=engine, model_options={"max_new_tokens": args.new})
        session = MelleaSession(backend, ctx=ChatContext())
        made: dict[str, list[SamplingResult]] = {}
        contestants = {}
        for adapter, how, every in (
            ("passes", "at the end", None),
            ("passes", "while writing", "sentence"),
            ("fails", "at the end", None),
            ("fails", "while writing", "sentence"),
        ):
            name = f"{adapter}, checked {how}"
            contestants[name] = program(session, adapter, every, made.setdefault(name, []))
        timings, dropped = drop_accidents(interleave(contestants, args.rounds))
        backend.close()
    names = list(contestants)
    overhead = timings[names[1]].median / timings[names[0]].median
    tokens = {name: median_tokens(results) for name, results in made.items()}
    watched = made[names[1]]
    checks = statistics.median(len(result.checks) for result in watched)
    rows = statistics.median(
        check.usage.prompt_tokens - check.usage.cached_tokens for result in watched for check in result.checks
    )
    late = max(
        len(result.result.token_ids or ()) - result.checks[0].num_tokens for result in made[names[3]] if result.checks
    )
    print(f"{checks:g} checks an answer, each of {rows:g} rows besides its labels; an attempt ended at most {late} "
          "tokens after the sentence that failed")  # fmt: skip
    report(
        f"one attempt of {args.new} tokens, checked by an aLoRA of rank {args.rank}",
        timings,
        names[0],
        dropped,
        [
            Target("checks while writing, all pass", overhead, MOST_OVERHEAD, at_least=False),
            Target(
                "tokens generated where the first check fails, against the whole",
                tokens[names[3]] / tokens[names[2]],
                MOST_TOKENS,
                at_least=False,
            ),
        ],
        tokens=tokens,
        checks=checks,
        rows_per_check=rows,
        tokens_after_failure=late,
    )


if __name__ == "__main__":
    main()

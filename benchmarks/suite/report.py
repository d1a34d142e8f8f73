"""Writes ``docs/benchmarks.md`` and its pictures from a results file; nothing in them is written by hand.

``python -m benchmarks.suite.report [results.json]``; without a file the newest whole run's on a CPU and that of a GPU,
and the README's table.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.suite import plots
from benchmarks.suite.peers import LLAMA, LLAMA_ALORA, LLAMA_Q4, PEFT_ALORA, PEFT_LORA, VLLM, VLLM_LORA
from benchmarks.suite.readme import write_figures
from benchmarks.suite.records import Results, load, paired
from benchmarks.suite.setup import ALORA, BASE, LORA, RANK

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
CONTESTANTS = (BASE, ALORA, LORA, PEFT_ALORA, PEFT_LORA, LLAMA, LLAMA_ALORA, LLAMA_Q4, VLLM, VLLM_LORA)
HEAD = """# {title}

Written by `m alora bench` from [{name}](../benchmarks/results/{name}); not by hand.

Every contestant of a table ran in the same process, in turn, round by round, on the same weights. Times are medians of
the rounds, ratios are taken round by round. Prompts are random tokens, adapters have rank {rank} on q, k and v and
random weights, and every contestant decodes exactly the tokens asked for, so that all do the same work. Drafts are off.
Before anything is timed, a peer must answer as ours does, token for token up to a near tie (a token at most 0.25 nats
less likely), in the first question or in two of three; one that does not is named and not timed. The limit is the time
that the bytes and operations need at the measured speed of memory and matrix products.
"""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def ms(seconds: float) -> str:
    """Milliseconds with three digits that count."""
    value = 1e3 * seconds
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def machine(results: Results) -> str:
    """What it was measured on, and whether it was quiet."""
    a = results.about
    noise = f"varied by {a['noise']:.0%}"
    quiet = (
        f"The machine was busy: a fixed product's time {noise} over the run."
        if a["noisy"]
        else (f"The machine was quiet: a fixed product's time {noise} over the run.")
    )
    return (
        f"**Machine.** {a['processor']}, {a['cores']} cores, {a['threads']} threads; {a['bandwidth'] / 1e9:.0f} GB/s, "
        f"{a['matrix_rate'] / 1e9:,.0f} GFLOP/s in {a['dtype']} products, measured. torch {a['torch']}, Python "
        f"{a['python']}. Model {a['model']}, {a['dtype']}. Commit {a['commit']}, {a['date']}, seed {a['seed']}. {quiet}"
    )


def marks(results: Results) -> str:
    """The targets, met and missed."""
    rows = []
    for target in results.targets:
        bound = f"{'≥' if target.at_least else '≤'} {target.limit:.3g}{target.unit}"
        rows.append((target.what, f"{target.value:.3g}{target.unit}", bound, "met" if target.met else "**missed**"))
    return table(("mark", "measured", "asked for", ""), rows)


def by_point(results: Results, workload: str, name: str) -> str:
    """Milliseconds of every contestant at every point, overhead over the base model, distance to the limit."""
    points = sorted({r.point[name] for r in results.records if r.workload == workload})
    present = [who for who in CONTESTANTS if any(results.find(workload, who, **{name: p}) for p in points)]
    rows = []
    for point in points:
        found = {who: results.find(workload, who, **{name: point}) for who in present}
        base, ours = found.get(BASE), found.get(ALORA)
        cells = [ms(record.median) if record else "" for record in found.values()]
        over = f"{100 * (paired(ours, base) - 1):+.1f}%" if base and ours else ""
        least = f"{ours.median / ours.limit:.2f}" if ours and ours.limit else ""
        computed = f"{ours.computed:,.0f}" if ours and ours.computed is not None else ""
        rows.append((f"{point:,}", *cells, over, computed, least))
    head = (name, *(f"{who}, ms" for who in present), "aLoRA over base", "tokens computed", "times limit")
    return table(head, rows)


def first_tokens(results: Results) -> str:
    """Milliseconds to the first token of a check."""
    points = sorted({r.point["context"] for r in results.records if r.workload == "check"})
    present = [
        who for who in CONTESTANTS if any((r := results.find("check", who, context=p)) and r.first for p in points)
    ]
    rows = []
    for point in points:
        found = [results.find("check", who, context=point) for who in present]
        rows.append((f"{point:,}", *(ms(sorted(r.first)[len(r.first) // 2]) if r and r.first else "" for r in found)))
    return table(("context", *(f"{who}, ms" for who in present)), rows)


def listed(results: Results, workload: str) -> str:
    """Every record of a workload in a row of its own, beside the base model's."""
    rows = []
    for record in (r for r in results.records if r.workload == workload and r.seconds):
        base = results.find(workload, BASE, **record.point)
        over = f"{paired(record, base):.2f}" if base else ""
        point = ", ".join(f"{name} {value}" for name, value in record.point.items())
        computed = f"{record.computed:,.0f}" if record.computed is not None else ""
        rows.append((point, record.contestant, ms(record.median), f"±{record.spread:.0%}", over, computed))
    return table(("", "", "ms", "spread", "of base", "tokens computed"), rows)


def scripts(results: Results) -> str:
    """The tables of the scripts that have reports of their own."""
    parts = []
    for name, found in results.scripts.items():
        for report in found.get("reports", ()):
            rows = [
                (who, f"{seconds:.3f}", f"{report['ratio'][who]:.2f}", f"{report.get('times_limit', {}).get(who, '')}")
                for who, seconds in report["seconds"].items()
            ]
            parts.append(f"**{report['title']}** (`{name}`)\n\n" + table(("", "s", "ratio", "times limit"), rows))
    return "\n\n".join(parts)


def micro(results: Results) -> str:
    """The micro-benchmarks' medians."""
    rows = [
        (group, name.removeprefix("test_").replace("_", " "), f"{1e6 * median:,.4g}", f"±{spread / median / 2:.0%}")
        for group, name, median, spread in results.scripts["micro"]["benchmarks"]
    ]
    return table(("", "", "us", "spread"), rows)


def growth(results: Results) -> str:
    """By how much a check takes longer for every 1,000 tokens of context."""
    found = results.scripts.get("growth", {}).get("seconds_per_1000_tokens", {})
    return ", ".join(f"{name} {1e3 * value:.2f} ms" for name, value in found.items())


def untimed(results: Results) -> str:
    """Who was not timed, what failed, and whose answers part from ours."""
    told = [r for r in results.records if not r.seconds or (r.note and r.workload in ("check", "output"))]
    lines = [f"- {r.contestant}, {r.workload} {dict(r.point)}: {r.note}." for r in told]
    lines += [f"- {part}: {why}" for part, why in results.errors.items()]
    return "\n".join(lines) or "Nothing: every contestant answered alike, and every part ran."


def training(results: Results) -> str:
    """Time, memory and loss of the training contest."""
    rows = [
        (
            who,
            f"{e['epoch_s']:.1f}",
            f"{e['growth_bytes'] / 2**20:,.0f}",
            f"{e['prefix_bytes'] / 2**20:,.0f}",
            f"{e['loss'][0]:.4f}",
        )
        for who, e in results.scripts.get("training", {}).items()
        if e["loss"]
    ]
    head = ("", "s an epoch", "MiB beyond the loaded model", "MiB of kept prefixes", "last step's loss")
    return table(head, rows)


def sections(results: Results, suffix: str) -> list[tuple[str, str]]:
    """Titles and texts of what was run."""
    check = by_point(results, "check", "context")
    several = by_point(results, "several", "checks")
    traffic = listed(results, "traffic")
    found = {
        "check": (
            "A check after a context",
            f"![Milliseconds of a check against the length of its context](bench-check{suffix}.svg)\n\n{check}\n\n"
            f"Time to the first token:\n\n{first_tokens(results)}\n\n"
            f"For every 1,000 tokens more of context: {growth(results)}.",
        ),
        "output": ("Longer answers", by_point(results, "output", "new")),
        "several": (
            "Several checks of one document",
            f"![Milliseconds against the number of checks](bench-several{suffix}.svg)\n\n{several}",
        ),
        "score": ("Two labels scored", listed(results, "score")),
        "chain": ("A chain: answer, three checks, repair, three checks", listed(results, "chain")),
        "agent": ("An agent: turns with a check after each", listed(results, "agent")),
        "traffic": (
            "Mixed traffic",
            "Requests arrive by chance; half are answers of the base model, half checks by one of many adapters. "
            f"Milliseconds are the mean latency of a request.\n\n{traffic}",
        ),
        "training": (
            "Training",
            f"![Time and memory of a training run](bench-training{suffix}.svg)\n\n{training(results)}",
        ),
        "cold start": ("Cold start", listed(results, "cold start")),
    }
    ran = {record.workload for record in results.records}
    shown = [section for workload, section in found.items() if workload in ran]
    if any("reports" in each for each in results.scripts.values()):
        shown.append(("Prefill, decode, throughput, a program of Mellea's", scripts(results)))
    if "micro" in results.scripts:
        shown.append(("Micro-benchmarks", micro(results)))
    return [("The table of marks", marks(results)), *shown, ("Answers that part, not timed, failed", untimed(results))]


def write_report(path: Path, docs: Path = DOCS) -> Path:
    """Write the page and the pictures below ``docs`` from the results at ``path``; the page's path.

    A GPU's run has a page of its own, and its pictures names of their own.
    """
    results = load(path)
    suffix = "" if results.on_cpu else "-gpu"
    plots.draw_all(results, docs, suffix)
    parts = [HEAD.format(name=path.name, rank=RANK, title=f"Benchmarks{' on a GPU' if suffix else ''}")]
    parts += [machine(results) + "\n"]
    parts += [f"## {title}\n\n{text}\n" for title, text in sections(results, suffix)]
    page = docs / f"benchmarks{suffix}.md"
    page.write_text("\n".join(parts), encoding="utf-8")
    return page


def newest() -> Path:
    """The results file of the last whole run on a CPU.

    Raises:
        SystemExit: There is none.
    """
    found = [p for p in (ROOT / "benchmarks" / "results").glob("suite-cpu-*.json") if not p.stem.endswith("quick")]
    if not found:
        sys.exit("benchmarks/results has no suite-cpu-*.json of a whole run; run python -m benchmarks.suite.run")
    return max(found, key=lambda path: load(path).about["date"])


def write_all() -> list[Path]:
    """Write every page and the README's table from what is in the folder of results; the pages' paths."""
    cpu = newest()
    gpus = sorted(path for path in cpu.parent.glob("suite-*.json") if not path.name.startswith("suite-cpu-"))
    write_figures(ROOT / "README.md", load(cpu), load(gpus[-1]) if gpus else None)
    return [write_report(path) for path in (cpu, *gpus[-1:])]


if __name__ == "__main__":
    print(*([write_report(Path(sys.argv[1]))] if len(sys.argv) > 1 else write_all()), sep="\n")

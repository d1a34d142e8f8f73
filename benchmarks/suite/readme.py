"""The README's table of figures, written from the results files between two marks; the rest of it is by hand."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.suite.peers import LLAMA, LLAMA_ALORA, PEFT_ALORA, PEFT_LORA, VLLM, VLLM_LORA
from benchmarks.suite.records import Record, Results, paired
from benchmarks.suite.setup import ALORA, BASE, LORA, SCORE
from benchmarks.training_run import OURS, PEER

BEGIN, END = "<!-- written by benchmarks/suite/readme.py: -->", "<!-- up to here -->"
Row = tuple[str, str, str, str]


def write_figures(readme: Path, cpu: Results, gpu: Results | None) -> None:
    """Put the table of ``cpu``'s figures, and below it that of ``gpu``'s, between the marks in ``readme``.

    Raises:
        ValueError: The marks are not there.
    """
    text = readme.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"{readme}: must have {BEGIN} and {END} once each")
    before, rest = text.split(BEGIN)
    readme.write_text(f"{before}{BEGIN}\n{figures(cpu, gpu)}\n{END}{rest.split(END)[1]}", encoding="utf-8")


def figures(cpu: Results, gpu: Results | None) -> str:
    """The tables; what a run has no record of has no row."""
    parts = [_machine(cpu), _table(_rows(cpu))]
    if gpu is not None:
        parts += [_machine(gpu), _table(_rows(gpu))]
    return "\n\n".join(parts)


def _machine(results: Results) -> str:
    about = results.about
    name = about["model"].rsplit("/", 1)[-1]
    threads = f", {about['threads']} threads" if results.on_cpu else ""
    return f"**{name}, {about['dtype']}, {about['processor']}{threads}**"


def _table(rows: Iterator[Row]) -> str:
    lines = ["| | alorakit | against | times as fast |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _rows(results: Results) -> Iterator[Row]:
    check = {r.point["context"]: r for r in results.records if r.workload == "check" and r.contestant == ALORA}
    for length in (2048, 32768) if 32768 in check else (2048,):
        if length in check:
            yield from _check(results, check[length], length)
    score = results.find("score", SCORE)
    if score:
        against = results.find("score", PEFT_LORA)
        yield from _row("a check by label (a score), as sessions make it", score, against, PEFT_LORA)
    one, eight = (results.find("several", ALORA, checks=num) for num in (1, 8))
    if one and eight:
        each = f"one after the other: 8 x {_s(one)}"
        yield ("8 checks by 8 aLoRAs, asked together", _s(eight), each, _x(8 * paired(one, eight)))
    for what, name in (
        ("32 tokens decoded after 2,048", "decode"),
        ("2,048 tokens read", "prefill"),
        ("Mellea: `instruct`, 3 requirements, a chat of 2,048 tokens, float32", "mellea"),
    ):
        yield from _script(results, what, name)
    yield from _training(results)


def _check(results: Results, ours: Record, length: int) -> Iterator[Row]:
    what = f"a check over {length:,} tokens of context, {ours.point['new']} tokens decoded"
    against = (
        (PEFT_LORA, "PEFT's LoRA, which reads the context again"),
        (LORA, "the same adapter as a LoRA, here"),
        (PEFT_ALORA, "PEFT's aLoRA, the context's cache kept by hand"),
        (LLAMA_ALORA, "llama.cpp's aLoRA, likewise"),
        (LLAMA, "llama.cpp without an adapter"),
        (VLLM_LORA, "vLLM's LoRA, which reads the context again"),
        (VLLM, "vLLM without an adapter"),
        (BASE, "the same tokens without an adapter, here"),
    )
    for who, named in against:
        for row in _row(what, ours, results.find("check", who, context=length), named):
            yield row
            what = ""


def _row(what: str, ours: Record, theirs: Record | None, named: str) -> Iterator[Row]:
    if theirs is not None:
        yield (what, _s(ours) if what else "", f"{named}: {_s(theirs)}", _x(paired(theirs, ours)))


def _script(results: Results, what: str, name: str) -> Iterator[Row]:
    for report in results.scripts.get(name, {}).get("reports", ()):
        for who, ratio in report["ratio"].items():
            if who != OURS:
                seconds = report["seconds"]
                yield (what, f"{seconds[OURS]:.3g} s" if what else "", f"{who}: {seconds[who]:.3g} s", _x(ratio))
                what = ""


def _training(results: Results) -> Iterator[Row]:
    found = results.scripts.get("training")
    if not found:
        return
    ours, peer = found[OURS], found[PEER]
    point = next(r.point for r in results.records if r.workload == "training")
    what = f"training an aLoRA: an epoch of {point['rows']} rows of {point['tokens']:,} tokens"
    times = peer["epoch_s"] / ours["epoch_s"]
    yield (what, f"{ours['epoch_s']:.3g} s", f"{PEER}: {peer['epoch_s']:.3g} s", _x(times))
    mib = {who: each["growth_bytes"] / 2**20 for who, each in found.items()}
    kept = f"{ours['prefix_bytes'] / 2**20:,.0f} MiB of kept prefixes aside"
    yield (f"its memory beyond the loaded model ({kept})", f"{mib[OURS]:,.0f} MiB", f"{mib[PEER]:,.0f} MiB",
           f"{mib[OURS] / mib[PEER]:.2f} of it")  # fmt: skip


def _s(record: Record) -> str:
    value = record.median
    return f"{value:.3g} s" if value >= 1 else f"{1e3 * value:.3g} ms"


def _x(ratio: float) -> str:
    return f"{ratio:.3g}"

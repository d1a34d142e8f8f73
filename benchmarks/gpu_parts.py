"""The parts of a run on a GPU; each measures, adds to the results, and knows nothing of the others."""

import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial

from alorakit import SamplingParams
from alorakit.engine.batch import Batch
from benchmarks import roofline
from benchmarks.gpu_model import INVOCATION, random_ids
from benchmarks.gpu_plan import LORA_SET, QKV_SET, SEVEN_SET, Plan
from benchmarks.gpu_probe import Probe
from benchmarks.gpu_results import Results
from benchmarks.harness import Target
from benchmarks.machine import Machine
from benchmarks.roofline import Lora

Part = Callable[[Probe, Plan, Machine, Results], None]
BASE = "base"
# Contestants of a decode step: name -> its adapters, and how many of them are in a batch.
ONE_EACH = {"aLoRA on q/k/v": (QKV_SET, 1), "aLoRA on all seven": (SEVEN_SET, 1)}
EIGHT_EACH = {"8 aLoRAs on q/k/v": (QKV_SET, 8), "8 aLoRAs on all seven": (SEVEN_SET, 8)}
LIMITS = {
    "aLoRA on q/k/v": 1.03,
    "aLoRA on all seven": 1.06,
    "8 aLoRAs on q/k/v": 1.06,
    "8 aLoRAs on all seven": 1.20,
}


def parts(plan: Plan) -> dict[str, Part]:
    """Name -> part, in the order of what matters most."""
    found: dict[str, Part] = {f"decode {batch}": partial(_decode, batch=batch) for batch in plan.batches}
    found["check"] = _check
    found |= {f"prefill {length}": partial(_prefill, length=length) for length in plan.prefills}
    if plan.profile:
        found["kernels"] = _kernels
    return found


def _contexts(plan: Plan, batch: int) -> list[list[int]]:
    """Prompts of a decode batch: the same contexts every time, so they are read once; all end in the invocation."""
    vocab = plan.shape.config.vocab_size
    size = plan.context - len(INVOCATION)
    return [random_ids(size, vocab, "context", index) + INVOCATION for index in range(batch)]


def _adapters(contestant: str, batch: int) -> list[str | None]:
    """Each row's adapter."""
    if contestant == BASE:
        return [None] * batch
    chosen, num = (ONE_EACH | EIGHT_EACH)[contestant]
    return [chosen.names[row % num] for row in range(batch)]


def _decode(probe: Probe, plan: Plan, machine: Machine, results: Results, batch: int) -> None:
    prompts = _contexts(plan, batch)
    names = [BASE, *ONE_EACH, *(EIGHT_EACH if batch == max(plan.batches) else ())]
    graphs = probe.graph_bytes()
    batches = {name: probe.decode_batch(prompts, _adapters(name, batch)) for name in names}
    passes = probe.pass_seconds(batches, plan.rounds, plan.repeats)
    contestants = {name: (prompts, _adapters(name, batch)) for name in names}
    steps = probe.step_seconds(contestants, max(1, plan.rounds // 2), plan.repeats)
    where = f"decode, {batch} rows"
    for name in names:
        least = _decode_step(plan, name, batches[name]).seconds(machine)
        results.add(f"{where}, {name}: model pass, ms", 1e3 * passes[name])
        results.add(f"{where}, {name}: engine step, ms", 1e3 * steps[name])
        results.add(f"{where}, {name}: model pass, times roofline", passes[name] / least)
        results.add(f"{where}, {name}: engine step, times roofline", steps[name] / least)
    moved = _decode_step(plan, BASE, batches[BASE]).bytes
    for what, seconds in (("model pass", passes), ("engine step", steps)):
        share = moved / seconds[BASE] / machine.bandwidth
        if batch == 1:
            results.add_target(Target(f"{where}, base, {what}: share of copy bandwidth", share, 0.75, unit=""))
        else:
            results.add(f"{where}, base, {what}: share of copy bandwidth", share)
        for name in names[1:]:
            ratio = seconds[name] / seconds[BASE]
            results.add_target(Target(f"{where}, {name}, {what}, of base", ratio, LIMITS[name], at_least=False))
    results.add_target(
        Target(f"{where}: host waits in a model pass", _syncs(probe, batches.values()), 0, at_least=False, unit="")
    )
    results.add(f"{where}: CUDA graphs of these, MB", (probe.graph_bytes() - graphs) / 1e6)


def _decode_step(plan: Plan, name: str, batch: Batch) -> roofline.Step:
    contexts = [entry.start + entry.num_tokens for entry in batch.entries]
    if name == BASE:
        return roofline.decode(plan.shape, contexts)
    chosen, _ = (ONE_EACH | EIGHT_EACH)[name]
    return roofline.decode(plan.shape, contexts, Lora(chosen.rank, chosen.targets), _adapters(name, len(contexts)))


def _syncs(probe: Probe, batches: Iterable[Batch]) -> int:
    return max(probe.host_syncs(batch) for batch in batches)


def _check(probe: Probe, plan: Plan, machine: Machine, results: Results) -> None:
    engine, vocab = probe.engine, plan.shape.config.vocab_size
    context = random_ids(plan.long, vocab, "long")
    params = SamplingParams(max_tokens=plan.new, ignore_eos=True)
    engine.generate(context, SamplingParams(max_tokens=1))

    def ask(turn: object, adapter: str, first: int | None = None) -> tuple[float, float, float]:
        """Seconds to the first token, to the last, and of the call; a first token of its own: nothing is cached."""
        question = random_ids(plan.own - len(INVOCATION), vocab, "question", turn)
        prompt = [context[0] if first is None else first, *context[1:], *question, *INVOCATION]
        start = time.perf_counter()
        (output,) = engine.generate(prompt, params, adapter)
        assert (output.usage.cached_tokens >= plan.long) == (first is None)
        return output.timing.ttft_s, output.timing.total_s, time.perf_counter() - start

    for turn in range(2):
        ask(("warm", turn), QKV_SET.names[0])
    checks = [ask(turn, QKV_SET.names[0]) for turn in range(plan.rounds)]
    ttft, total, call = (statistics.median(column) for column in zip(*checks, strict=True))
    lora = [
        ask(("lora", turn), LORA_SET.names[0], _another(context[0], turn, vocab)) for turn in range(plan.lora_rounds)
    ]
    lora_ttft, lora_total = (min(each[i] for each in lora) for i in range(2))
    least = roofline.check(plan.shape, plan.long, plan.own, plan.new, Lora(QKV_SET.rank, QKV_SET.targets), 3)
    where = f"check, {plan.long} tokens of context"
    for name, value in (("first token", ttft), ("all", total), ("the whole call", call)):
        results.add(f"{where}: {name}, ms", 1e3 * value)
    results.add(f"{where}: roofline of the first token, ms", 1e3 * least[0].seconds(machine))
    results.add(f"{where}: roofline of all, ms", 1e3 * roofline.seconds(least, machine))
    results.add(f"{where}, LoRA that reads it anew: first token, ms", 1e3 * lora_ttft)
    results.add(f"{where}, LoRA that reads it anew: all, ms", 1e3 * lora_total)
    results.add_target(Target(f"{where}: first token against LoRA", lora_ttft / ttft, 100))
    for name, value, steps in (("first token", ttft, least[:1]), ("all", total, least)):
        ratio = value / roofline.seconds(steps, machine)
        results.add_target(Target(f"{where}: {name}, times roofline", ratio, 1.5, at_least=False))


def _another(token: int, turn: int, vocab: int) -> int:
    """An ordinary id that is neither ``token`` nor another turn's."""
    return token + 1 + turn if token < vocab // 2 else token - 1 - turn


def _prefill(probe: Probe, plan: Plan, machine: Machine, results: Results, length: int) -> None:
    vocab = plan.shape.config.vocab_size
    size = length - len(INVOCATION)
    names = {BASE: None, "LoRA on q/k/v": LORA_SET.names[0]}
    batches = {
        name: probe.prefill_batch(random_ids(size, vocab, "prefill", name, length) + INVOCATION, adapter)
        for name, adapter in names.items()
    }
    passes = probe.pass_seconds(batches, plan.rounds, 1)
    step = roofline.prefill(plan.shape, length)
    share = step.flops / passes[BASE] / machine.matrix_rate
    for name, seconds in passes.items():
        results.add(f"prefill, {length} tokens, {name}: model pass, ms", 1e3 * seconds)
    results.add(f"prefill, {length} tokens, LoRA on q/k/v of base", passes["LoRA on q/k/v"] / passes[BASE])
    results.add_target(Target(f"prefill, {length} tokens: share of matrix rate", share, 0.6, unit=""))
    # All requests of a run have prompts of their own, so this one is computed whole.
    prompt = random_ids(length, vocab, "prefill call", length)
    start = time.perf_counter()
    probe.engine.generate(prompt, SamplingParams(max_tokens=1))
    results.add(f"prefill, {length} tokens, base: the whole call, ms", 1e3 * (time.perf_counter() - start))


def _kernels(probe: Probe, plan: Plan, machine: Machine, results: Results) -> None:
    for name, batch in ((BASE, 1), ("aLoRA on all seven", 1), (list(EIGHT_EACH)[-1], max(plan.batches))):
        rows = probe.kernel_times(probe.decode_batch(_contexts(plan, batch), _adapters(name, batch)))
        total = sum(micros for _, _, micros in rows)
        print(f"\nKernels of a decode step, {batch} rows, {name}: {total:,.0f} us\n{'':70}{'launches':>9}{'us':>10}")
        for kernel, count, micros in rows[:14]:
            print(f"{kernel[:69]:70}{count:>9.0f}{micros:>10.1f}")
        results.figures[f"kernels, {batch} rows, {name}: name, launches, us"] = [
            [kernel[:120], round(count, 1), round(micros, 2)] for kernel, count, micros in rows[:20]
        ]

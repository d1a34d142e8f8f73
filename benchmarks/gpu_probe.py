"""Looks into an engine's steps: keeps the batches that its runner is given, and runs them again on their own."""

import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial

import torch
from torch import Tensor

from alorakit import Engine, SamplingParams
from alorakit.engine.batch import Batch
from alorakit.engine.errors import RequestNotFoundError

# Steps after the last sequence's first token that do not count: graphs are captured and kernels compiled in them.
SETTLE = 3
_ENDLESS = SamplingParams(max_tokens=100_000, ignore_eos=True)


class Probe:
    """Times an engine's model passes and steps.

    Attributes:
        engine: Whose.
        device: Where its model is.
    """

    def __init__(self, engine: Engine) -> None:
        """Put a function that keeps the batch in front of the engine's runner."""
        self.engine, runner = engine, engine._runner
        self.device = runner.model.device
        self._run: Callable[[Batch], Tensor] = runner.run
        self._last: Batch | None = None
        runner.run = self._record  # type: ignore[method-assign]

    def _record(self, batch: Batch) -> Tensor:
        if batch.entries:
            self._last = batch
        return self._run(batch)

    @contextmanager
    def decoding(self, prompts: Sequence[list[int]], adapters: Sequence[str | None]) -> Iterator[None]:
        """Within it each step decodes one token for each of the prompts, and nothing else."""
        engine, self._last = self.engine, None
        ids = [engine.add_request(prompt, _ENDLESS, name) for prompt, name in zip(prompts, adapters, strict=True)]
        try:
            while not self._settled(len(prompts)):
                self.step()
            for _ in range(SETTLE):
                self.step()
            assert self._settled(len(prompts))
            yield
        finally:
            for request_id in ids:
                with suppress(RequestNotFoundError):  # it ended, and its error is under way
                    engine.abort(request_id)
            engine.step()

    def step(self) -> None:
        """One engine step, in which no request may end."""
        for output in self.engine.step():
            raise output.error or RuntimeError(f"a request ended early: {output.finish_reason}")

    def _settled(self, num: int) -> bool:
        batch = self._last
        return (
            batch is not None
            and len(batch.entries) == num
            and all(
                entry.num_rows == 1 and len(entry.sequence.tokens) > entry.sequence.num_prompt
                for entry in batch.entries
            )
        )

    def decode_batch(self, prompts: Sequence[list[int]], adapters: Sequence[str | None]) -> Batch:
        """A batch of one decoded row for each prompt.

        It may be run again after its sequences are gone: it then reads and writes slots that others may own by now,
        which changes numbers and not how long they take.
        """
        with self.decoding(prompts, adapters):
            assert self._last is not None
            return self._last

    def prefill_batch(self, prompt: list[int], adapter: str | None) -> Batch:
        """The batch that a prompt is read in; all of it must fit in one."""
        self._last = None
        self.engine.generate(prompt, SamplingParams(max_tokens=1, ignore_eos=True), adapter)
        batch = self._last
        assert batch is not None and [entry.num_rows for entry in batch.entries] == [len(prompt)]
        return batch

    def run(self, batch: Batch) -> Tensor:
        """One model pass."""
        return self._run(batch)

    def pass_seconds(self, batches: dict[str, Batch], rounds: int, repeats: int) -> dict[str, float]:
        """Median seconds of a model pass; the batches take turns, each run ``repeats`` times in every round."""
        for batch in batches.values():
            self.run(batch)
        times: dict[str, list[float]] = {name: [] for name in batches}
        for _ in range(rounds):
            for name, batch in batches.items():
                times[name].append(self._time(partial(self._run, batch), repeats))
        return {name: statistics.median(each) for name, each in times.items()}

    def _time(self, function: Callable[[], object], repeats: int) -> float:
        """Seconds of one of ``repeats`` calls, by the device's clock where it has one."""
        if self.device.type != "cuda":
            start = time.perf_counter()
            for _ in range(repeats):
                function()
            return (time.perf_counter() - start) / repeats
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(repeats):
            function()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1000 / repeats

    def step_seconds(
        self, contestants: dict[str, tuple[list[list[int]], list[str | None]]], rounds: int, steps: int
    ) -> dict[str, float]:
        """Median seconds of a whole engine step by the wall clock; the contestants take turns.

        Args:
            contestants: Name -> prompts, and each one's adapter.
            rounds: How often each has its turn.
            steps: How many steps a turn has.
        """
        times: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(rounds):
            for name, (prompts, adapters) in contestants.items():
                with self.decoding(prompts, adapters):
                    start = time.perf_counter()
                    for _ in range(steps):
                        self.step()
                    times[name].append((time.perf_counter() - start) / steps)
        return {name: statistics.median(each) for name, each in times.items()}

    def host_syncs(self, batch: Batch) -> int:
        """How often the host waits for the device in a model pass; 0 on a CPU. Where it does is printed."""
        if self.device.type != "cuda":
            return 0
        torch.cuda.synchronize(self.device)
        with warnings.catch_warnings(record=True) as met:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                self.run(batch)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        waits = [f"{w.filename}:{w.lineno}" for w in met if "synchronizing CUDA operation" in str(w.message)]
        for place, num in Counter(waits).items():
            print(f"the host waits {num} times at {place}")
        return len(waits)

    def kernel_times(self, batch: Batch, repeats: int = 5) -> list[tuple[str, float, float]]:
        """(kernel, launches, microseconds) of one model pass, the longest first; on a CPU torch's operators."""
        from torch.profiler import ProfilerActivity, profile

        on_gpu = self.device.type == "cuda"
        with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
            for _ in range(repeats):
                self.run(batch)
            if on_gpu:
                torch.cuda.synchronize(self.device)
        rows = []
        for event in profiler.key_averages():
            micros = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            if micros:
                rows.append((event.key, event.count / repeats, micros / repeats))
        return sorted(rows, key=lambda row: -row[2])

    def graph_bytes(self) -> int:
        """Device memory that CUDA graphs hold in pools of their own."""
        if self.device.type != "cuda":
            return 0
        segments = torch.cuda.memory_snapshot()
        return sum(s["total_size"] for s in segments if tuple(s.get("segment_pool_id", (0, 0))) != (0, 0))

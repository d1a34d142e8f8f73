"""The HTTP server under load: right answers, no 5xx, flat memory, even waiting times, and what HTTP costs.

First the same requests go to an AsyncEngine in this process and, over loopback, to a server in its own: tokens
per second, and the answers that are right. Then clients stream those requests over HTTP for ``--seconds``; every tenth
one vanishes amid its stream, and adapters are loaded and unloaded meanwhile. All is greedy in float32, where an answer
does not depend on what else is in the batch. Both sides share this machine's cores with the clients. Run:
``python -m benchmarks.bench_server [--full]``; ``--full`` is 64 clients for 60 seconds.
"""

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from alorakit import AsyncEngine, Engine, SamplingParams
from benchmarks.harness import Target, Timings, drop_accidents, report
from benchmarks.server_process import Server, Streamed, ask, repeat, served, stream
from benchmarks.workloads import INVOCATION, MODEL, add_random_aloras, random_ids

DIRECT, HTTP = "AsyncEngine", "over HTTP"
LOADED = 4  # adapters that come and go
SHARE_GONE = 0.1
SHARE_ARRIVING = 0.1  # of the time, in which clients come one after another
SHARE_FILLING = 0.3  # of the time, after which what the server remembers of texts and adapters has its size
LIMIT_WAIT, LIMIT_SHARE, LIMIT_GROWTH = 3.0, 90.0, 5.0


@dataclass(frozen=True)
class Work:
    """One request: a prompt of its own that ends with the adapters' invocation, and who answers it."""

    prompt: list[int]
    adapter: str | None
    new: int

    def params(self) -> SamplingParams:
        """Greedy, and exactly so many tokens."""
        return SamplingParams(max_tokens=self.new, ignore_eos=True)

    def body(self) -> dict[str, object]:
        """The same for the server."""
        fixed: dict[str, object] = {"temperature": 0, "ignore_eos": True, "max_tokens": self.new}
        return {"model": self.adapter or "base", "prompt": self.prompt, **fixed}


@dataclass
class Load:
    """What the clients saw.

    Attributes:
        counts: Streams by what became of them.
        firsts: Seconds to the first token.
        adapters: Loads and unloads by HTTP status.
    resident: The server's resident bytes before the load, after the share of it in which caches fill, and at its end.
        resident: The server's resident bytes: before the load, once it has gone on for a while, and after it.
    """

    counts: Counter[str] = field(default_factory=Counter)
    firsts: list[float] = field(default_factory=list)
    adapters: Counter[int] = field(default_factory=Counter)
    resident: list[int] = field(default_factory=list)

    def add(self, found: Streamed, expected: str, left: bool) -> None:
        """Count a stream; one that its client left must have been right so far."""
        right = expected.startswith(found.text) if left else found.text == expected
        if found.status >= 500:
            kind = "5xx"
        elif found.status != 200 or not (found.done or left):
            kind = "missing"
        else:
            kind = ("left" if left else "right") if right else "wrong"
        self.counts[kind] += 1
        if found.first_s is not None:
            self.firsts.append(found.first_s)


def requests(args: argparse.Namespace, adapters: list[str], turn: int) -> list[Work]:
    """A round's requests, one for each client; base and adapters in turn."""
    names = [None, *adapters]
    return [
        Work(
            [*random_ids(args.prompt - len(INVOCATION), turn, index), *INVOCATION], names[index % len(names)], args.new
        )
        for index in range(args.streams)
    ]


async def answer_directly(engine: AsyncEngine, work: list[Work]) -> list[str]:
    """The texts, streamed by as many coroutines."""

    async def one(each: Work) -> str:
        return "".join([chunk.text async for chunk in engine.stream(each.prompt, each.params(), each.adapter)])

    return await asyncio.gather(*map(one, work))


async def rounds(
    engine: AsyncEngine, server: Server, args: argparse.Namespace, adapters: list[str], load: Load
) -> tuple[dict[str, Timings], list[tuple[Work, str]]]:
    """Both in turns; their times, and every request with its right answer. The first round warms up."""
    seconds: dict[str, list[float]] = {DIRECT: [], HTTP: []}
    known: list[tuple[Work, str]] = []
    for turn in range(args.rounds + 1):
        work = requests(args, adapters, turn)
        began = time.perf_counter()
        texts = await answer_directly(engine, work)
        middle = time.perf_counter()
        streams = await asyncio.gather(*(stream(server.port, each.body()) for each in work))
        for found, text in zip(streams, texts, strict=True):
            load.add(found, text, left=False)
        if turn:
            seconds[DIRECT].append(middle - began)
            seconds[HTTP].append(time.perf_counter() - middle)
        known += zip(work, texts, strict=True)
    return {name: Timings(name, values) for name, values in seconds.items()}, known


async def stress(server: Server, args: argparse.Namespace, folder: Path, known: list[tuple[Work, str]]) -> Load:
    """Clients that stream known requests, some of which leave, while adapters come and go."""
    load, rng, until = Load(), random.Random(0), time.perf_counter() + args.seconds

    async def client(index: int) -> None:
        await asyncio.sleep(args.seconds * SHARE_ARRIVING * index / args.streams)
        await repeat(until, ask_once)

    async def ask_once(turn: int) -> None:
        work, text = rng.choice(known)
        left = rng.random() < SHARE_GONE
        found = await stream(server.port, work.body(), rng.randint(1, work.new - 1) if left else None)
        load.add(found, text, left)

    async def manage(turn: int) -> None:
        name = f"passing-{turn % LOADED}"
        wanted = {"name": name, "path": str(folder / f"alora-{turn % LOADED}"), "replace": True}
        load.adapters[await ask(server.port, "POST", "/v1/adapters", wanted)] += 1
        await asyncio.sleep(args.pause)
        load.adapters[await ask(server.port, "DELETE", f"/v1/adapters/{name}")] += 1

    async def weigh() -> None:
        load.resident.append(server.resident())
        await asyncio.sleep(args.seconds * SHARE_FILLING)
        load.resident.append(server.resident())

    await asyncio.gather(*map(client, range(args.streams)), repeat(until, manage), weigh())
    load.resident.append(server.resident())
    return load


def targets(timings: dict[str, Timings], load: Load) -> list[Target]:
    """What the server has to reach."""
    firsts = sorted(load.firsts)
    late = firsts[int(0.95 * (len(firsts) - 1))] / statistics.median(firsts)
    bad = {name: load.counts[name] for name in ("wrong", "missing", "5xx")}
    growth = 100 * (load.resident[2] / load.resident[1] - 1)
    managed = sum(count for status, count in load.adapters.items() if status not in (201, 204))
    return [
        *(Target(f"{name} answers", count, 0, at_least=False, unit="") for name, count in bad.items()),
        Target("adapters that did not load or unload", managed, 0, at_least=False, unit=""),
        Target("right answers", load.counts["right"], 1, unit=""),
        Target("growth of the server's memory", growth, LIMIT_GROWTH, at_least=False, unit="%"),
        Target("95th percentile of the time to the first token / median", late, LIMIT_WAIT, at_least=False),
        Target("tokens/s over HTTP", 100 * timings[DIRECT].median / timings[HTTP].median, LIMIT_SHARE, unit="%"),
    ]


async def measure(args: argparse.Namespace, engine: Engine, adapters: list[str], folder: Path) -> None:
    """Run both parts and print the report."""
    length = args.prompt + args.new
    options = ["--served-model-name", "base", "--adapter-folder", str(folder), "--dtype", "float32"]
    options += ["--device", args.device, "--max-model-len", str(length)]
    for name in adapters:
        options += ["--adapter", f"{name}={folder / name}"]
    async with AsyncEngine(engine) as direct:
        with served(args.model, options, folder / "server.log") as server:
            first = Load()
            timings, known = await rounds(direct, server, args, adapters, first)
            load = await stress(server, args, folder, known)
    load.counts.update(first.counts)
    clean, dropped = drop_accidents(timings)
    tokens = sum(each.new for each in requests(args, adapters, 0))
    title = f"{args.streams} streams: {args.prompt} tokens in, {args.new} out at most; then {args.seconds:g} s of them"
    report(
        title,
        clean,
        DIRECT,
        dropped,
        targets(clean, load),
        tokens_per_s={name: round(tokens / timing.median, 1) for name, timing in clean.items()},
        streams=dict(load.counts),
        adapters={str(status): count for status, count in load.adapters.items()},
        first_token_s={"median": statistics.median(load.firsts), "most": max(load.firsts)},
        resident_bytes=load.resident,
    )


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--full", action="store_true", help="64 clients, 60 seconds")
    parser.add_argument("--streams", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--new", type=int, default=16)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between loading and unloading an adapter")
    args = parser.parse_args()
    args.streams = args.streams or (64 if args.full else 8)
    args.seconds = args.seconds or (60.0 if args.full else 5.0)
    length = args.prompt + args.new
    with (
        Engine.from_pretrained(args.model, dtype="float32", device=args.device, max_model_len=length) as engine,
        tempfile.TemporaryDirectory() as folder,
    ):
        adapters = add_random_aloras(engine, Path(folder), LOADED, args.rank)[:2]
        asyncio.run(measure(args, engine, adapters, Path(folder)))


if __name__ == "__main__":
    main()

"""The server's benchmark: its client reads what a server sends, and counts what is wrong with it."""

import asyncio

from alorakit import Engine, SamplingParams
from benchmarks.bench_server import DIRECT, HTTP, Load, Timings, targets
from benchmarks.server_process import ADMIN_KEY, Streamed, ask, stream
from tests.bindings import served
from tests.bindings.server.running import running, settled

engine, served_folder = served.engine, served.served_folder
BODY = {"model": "tiny", "prompt": [5, 6, 7], "max_tokens": 12, "ignore_eos": True, "temperature": 0}


def test_the_client_streams_leaves_and_asks(engine: Engine) -> None:
    expected = engine.generate([[5, 6, 7]], SamplingParams(max_tokens=12, ignore_eos=True))[0].text

    async def main() -> None:
        whole = await stream(server.port, BODY)
        assert (whole.status, whole.text, whole.done) == (200, expected, True)
        assert whole.first_s is not None and whole.first_s > 0
        left = await stream(server.port, BODY | {"max_tokens": 1900}, leave_after=3)
        assert (left.status, left.done, left.tokens) == (200, False, 3)
        await settled(server.served)  # it was given up
        assert (await stream(server.port, BODY | {"model": "nobody"})).status == 404
        assert await ask(server.port, "DELETE", "/v1/adapters/parts") == 204
        assert await ask(server.port, "GET", "/nothing") == 404

    with running(engine, served_model_name="tiny", admin_key=ADMIN_KEY) as server:
        asyncio.run(main())
    assert asyncio.run(stream(server.port, BODY)).status == 0


def test_answers_are_counted_by_what_became_of_them() -> None:
    load = Load()
    load.add(Streamed(200, "abc", True, 0.1), "abc", left=False)
    load.add(Streamed(200, "abd", True, 0.1), "abc", left=False)
    load.add(Streamed(200, "ab", False, 0.1), "abc", left=False)
    load.add(Streamed(200, "ab", False, 0.9), "abc", left=True)
    load.add(Streamed(200, "x", False, 0.1), "abc", left=True)
    load.add(Streamed(503), "abc", left=False)
    load.add(Streamed(0), "abc", left=False)
    assert load.counts == {"right": 1, "wrong": 2, "missing": 2, "left": 1, "5xx": 1}
    load.resident += [50, 100, 104]
    load.adapters.update({201: 3, 204: 2, 400: 1})
    seconds = {DIRECT: Timings(DIRECT, [9.0]), HTTP: Timings(HTTP, [10.0])}
    found = {target.what: target for target in targets(seconds, load)}
    assert {what for what, target in found.items() if target.met} == {
        "right answers", "growth of the server's memory", "tokens/s over HTTP",
        "95th percentile of the time to the first token / median",
    }  # fmt: skip
    assert found["tokens/s over HTTP"].value == 90

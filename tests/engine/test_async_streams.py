"""Streams of the engine for concurrent callers: what they yield, and that leaving one gives its request up."""

import asyncio
import gc

import pytest

from alorakit.engine.request import SamplingParams

from . import test_async_engine

PROMPT, greedy, serve = test_async_engine.PROMPT, test_async_engine.greedy, test_async_engine.serve


def test_a_stream_yields_the_answer_piece_by_piece(serve, tiny_engine):
    [want] = tiny_engine().generate(PROMPT, greedy(20))

    async def test(engine):
        chunks = [chunk async for chunk in engine.stream(PROMPT, greedy(20))]
        assert len(chunks) > 5
        assert "".join(c.text for c in chunks) == want.text
        assert [t for c in chunks for t in c.token_ids] == want.token_ids
        assert chunks[-1].output.token_ids == want.token_ids
        assert [c.finish_reason for c in chunks[-2:]] == [None, "length"]

    serve(test)


def test_streams_give_the_samples_of_generate(serve):
    params = SamplingParams(max_tokens=6, temperature=1.0, seed=3, n=3, ignore_eos=True, logprobs=1, prompt_logprobs=0)

    async def test(engine):
        async def gather(stream):
            seen = 0
            async for chunk in stream:
                seen += len(chunk.token_ids)
                assert len(stream.logprobs) >= seen and len(stream.prompt_logprobs) == len(PROMPT) - 1
            return chunk.output, list(stream.logprobs)

        wanted = await engine.generate(PROMPT, params)
        found = await asyncio.gather(*(gather(stream) for stream in engine.streams(PROMPT, params)))
        assert len({tuple(output.token_ids) for output in wanted}) > 1
        for (output, logprobs), want in zip(found, wanted, strict=True):
            assert (output.token_ids, output.sample_index) == (want.token_ids, want.sample_index)
            assert [p[t] for p, t in zip(logprobs, output.token_ids, strict=True)] == pytest.approx(
                [p[t] for p, t in zip(want.logprobs, want.token_ids, strict=True)], abs=1e-4
            )

    serve(test)


@pytest.mark.parametrize("leave", ["break", "aclose", "drop", "never begun"])
def test_leaving_a_stream_gives_the_request_up(leave, serve):
    async def test(engine):
        stream = engine.stream(PROMPT, greedy(400))
        if leave == "never begun":
            del stream
            return
        async for _ in stream:
            break
        if leave == "aclose":
            await stream.aclose()
            assert [c async for c in stream] == []
        del stream
        gc.collect()
        await engine.drain()
        assert engine.stats().tokens_decoded < 400

    serve(test)

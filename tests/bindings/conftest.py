"""``fake_engine``: a deterministic engine without a model; one token per character, scripted answers and scores."""

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from alorakit.bindings.session import ChatContext, EngineBackend, MelleaSession
from alorakit.engine.adapters import AdapterInfo
from alorakit.engine.errors import AdapterError, ClosedError, NumericsError
from alorakit.engine.manifest import Manifest
from alorakit.engine.mixed import Answer, Request, ScoreRequest
from alorakit.engine.request import (
    CandidateScore,
    RequestOutput,
    SamplingParams,
    ScoreResult,
    StreamChunk,
    Timing,
    Usage,
)
from tests.bindings import served
from tests.training.mellea_reader import mellea_folder

engine, served_folder, session = served.engine, served.served_folder, served.session  # fixtures for all tests here
TIMING = Timing(0.0, 0.001, 0.002)
STOP = 0


@pytest.fixture(autouse=True)
def logging_restored() -> Iterator[None]:
    """A command that logs as it likes, in this process, leaves nothing of that to the tests after it."""
    root, ours = logging.getLogger(), logging.getLogger("alorakit")
    handlers, levels = list(root.handlers), (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])
    logging.captureWarnings(False)


class FakeTokenizer:
    """One token per character; a message with ids is spliced in by them."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [ord(char) for char in text]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return "".join(chr(token) for token in ids if token != STOP)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = False,
        untrusted: bool = False,
        **variables: Any,
    ) -> list[int]:
        self.variables = variables
        ids: list[int] = []
        for message in messages:
            content = message.get("token_ids", self.encode(message["content"]))
            ids += [*self.encode(f"<{message['role']}>"), *content, STOP]
        return [*ids, *self.encode("<assistant>")] if add_generation_prompt else ids


class FakeEngine:
    """Answers from a list, scores by a function; remembers every call."""

    def __init__(self, answers: Sequence[str] = (), score: Callable[[str], float] = lambda text: 1.0) -> None:
        self.tokenizer = FakeTokenizer()
        self.model_name = "HuggingFaceTB/SmolLM2-135M-Instruct"
        self.adapters: dict[str, AdapterInfo] = {}
        self.answers = list(answers)
        self.weight = score
        self.prompts: list[str] = []
        self.params: list[SamplingParams] = []
        self.asked: list[str | None] = []
        self.scored_ids: list[list[int]] = []
        self.scored: list[tuple[str, list[str], str | None, bool]] = []
        self.closed = False
        self.batches: list[int] = []
        self.pause = ""  # after this character a stream says no more

    def register(self, name: str, manifest: Manifest | None, invocation: str | None = "@") -> None:
        tokens = None if invocation is None else tuple(self.tokenizer.encode(invocation))
        kind = "lora" if tokens is None else "alora"
        folder = Path("folder") / name
        self.adapters[name] = AdapterInfo(name, kind, 8, ("q_proj",), tokens, "digest", folder, "base", manifest)

    def add_adapter(self, name: str, path: Path, replace: bool = False) -> AdapterInfo:
        if not (path / "adapter_config.json").is_file():
            raise AdapterError(f"{path}: no adapter_config.json")
        self.register(name, Manifest.load(path))
        return self.adapters[name]

    def generate(
        self, prompts: list[list[int]], sampling: SamplingParams, adapter: str | None = None
    ) -> list[RequestOutput]:
        [prompt] = prompts
        self.asked.append(adapter)
        self.prompts.append(self.tokenizer.decode(prompt))
        self.params.append(sampling)
        text = self.answers.pop(0)
        if text == "FAIL":
            raise NumericsError("the model computed values that are not finite")
        ids = [*self.tokenizer.encode(text), STOP]
        return [RequestOutput(text, ids, "stop", None, None, None, None, Usage(len(prompt), 0, len(ids)), TIMING)]

    def score(
        self, prompt: list[int], candidates: list[str], adapter: str | None = None, end: bool = True
    ) -> ScoreResult:
        self.scored_ids.append(prompt)
        self.scored.append((self.tokenizer.decode(prompt), candidates, adapter, end))
        weights = [self.weight(text) for text in candidates]
        scores = [
            CandidateScore(text, self.tokenizer.encode(text), -1.0, weight / sum(weights))
            for text, weight in zip(candidates, weights, strict=True)
        ]
        return ScoreResult(scores, Usage(len(prompt), len(prompt) - 3, 0), TIMING, None)

    def batch(self, requests: Sequence[Request]) -> list[Answer]:
        answers: list[Answer] = []
        for request in requests:
            prompt = cast(list[int], request.prompt)
            if isinstance(request, ScoreRequest):
                answers.append(self.score(prompt, list(request.candidates), request.adapter, request.end))
            else:
                answers += self.generate([prompt], request.sampling or SamplingParams(), request.adapter)
        return answers

    def check_open(self) -> None:
        if self.closed:
            raise ClosedError("the engine is closed")

    def session(self, chat: bool = True, **options: Any) -> MelleaSession:
        """A session on this engine, with default model options."""
        served: Any = FakeAsyncEngine(self)
        backend = EngineBackend(engine=served, model_options=options or None)
        return MelleaSession(backend, ctx=ChatContext() if chat else None)

    def close(self) -> None:
        self.closed = True


class FakeAsyncEngine:
    """The same for coroutines, as AsyncEngine has it: each call is one batch; a stream gives a character at a time."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.given_up = 0

    async def batch(self, requests: Sequence[Request]) -> list[Answer]:
        self.engine.batches.append(len(requests))
        await asyncio.sleep(0)
        return self.engine.batch(requests)

    async def stream(self, prompt: list[int], sampling: SamplingParams) -> AsyncIterator[StreamChunk]:
        [output] = self.engine.generate([prompt], sampling)
        try:
            for char, token in zip(output.text, output.token_ids, strict=False):
                await asyncio.sleep(0)
                yield StreamChunk(char, [token])
                if self.engine.pause == char:
                    await asyncio.get_running_loop().create_future()
            yield StreamChunk("", [STOP], "stop", output)
        except asyncio.CancelledError:
            self.given_up += 1
            raise


@pytest.fixture
def fake_engine() -> type[FakeEngine]:
    """The class: call it with the answers to give and a function that weighs a candidate's text."""
    return FakeEngine


@pytest.fixture(scope="session")
def mellea_says() -> dict[str, Any]:
    """What Mellea makes of the programs in ``session_programs``."""
    script = Path(__file__).with_name("mellea_side.py")
    done = subprocess.run([sys.executable, script, mellea_folder()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return cast(dict[str, Any], json.loads(done.stdout.splitlines()[-1]))

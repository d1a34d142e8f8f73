"""The real Mellea on tiny models: random base, random adapters with the files that tell how to ask them."""

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from alorakit.engine.engine import Engine
from alorakit.engine.tokenizer import Tokenizer
from tests.engine.folders import make_adapter, make_model
from tests.training.mellea_reader import FOLDER

if (FOLDER / "mellea").is_dir():
    sys.path.append(str(FOLDER))
elif not (Path(sys.prefix) / ".test").exists() and importlib.util.find_spec("mellea") is None:
    collect_ignore_glob = ["test_*.py"]  # an environment that make has not made, without Mellea

BASE = "Tiny-Instruct"
QKV = ["q_proj", "k_proj", "v_proj"]
LABELS = ("no_failure", "overheating", "seal leak")
INVOCATION = "<|start_of_role|>check_requirement<|end_of_role|>"
# IBM's newer adapters are invoked by the generation prompt itself.
OPENING = "<|im_start|>assistant\n"
YES_NO = {
    "model": None,
    "response_format": json.dumps({"type": "string", "enum": ["yes", "no"]}),
    "transformations": [
        {"type": "likelihood", "input_path": [], "categories_to_values": {"yes": 1.0, "no": 0.0}},
        {"type": "nest", "input_path": [], "field_name": "score"},
        {"type": "nest", "input_path": [], "field_name": "requirement_check"},
    ],
    "instruction": "<requirements>: {requirement}\nSatisfied?",
    "parameters": {"max_completion_tokens": 12, "temperature": 0.0},
}


@pytest.fixture(scope="session")
def base(tmp_path_factory, tiny_tokenizer_dir) -> Path:
    """A random Llama with the tiny tokenizer, as a folder named like a model."""
    folder = tmp_path_factory.mktemp("models") / BASE
    return make_model(folder, tiny_tokenizer_dir, max_position_embeddings=2048)


@pytest.fixture(scope="session")
def tokenizer(base) -> Tokenizer:
    return Tokenizer.from_pretrained(base)


@pytest.fixture(scope="session")
def new_adapter(tmp_path_factory, base, tokenizer) -> Callable[..., Path]:
    """Make an adapter folder of random weights; ``invocation`` None makes a LoRA, ``io`` goes into io.yaml."""

    def make(
        name: str = "adapter", invocation: str | None = OPENING, io: Any = None, seed: int = 0, rank: int = 8
    ) -> Path:
        folder = tmp_path_factory.mktemp("adapters") / name
        ids = None if invocation is None else tokenizer.encode(invocation, add_special_tokens=False)
        make_adapter(folder, base, QKV, rank, ids, seed)
        if io is not None:
            text = io if isinstance(io, str) else yaml.safe_dump(io)
            (folder / "io.yaml").write_text(text, encoding="utf-8")
        return folder

    return make


@pytest.fixture(scope="session")
def new_labels(new_adapter) -> Callable[..., Path]:
    """Make an adapter folder as ``m alora train`` leaves one; keywords are fields of alorakit.json."""

    def make(
        name: str = "my_adapter", labels: tuple[str, ...] = LABELS, seed: int = 1, lora: bool = False, **manifest: Any
    ) -> Path:
        from alorakit.engine.manifest import Manifest
        from alorakit.training.io_yaml import io_yaml

        record = Manifest(labels=labels, base_model=BASE, invocation=INVOCATION, **manifest)
        folder = new_adapter(name, None if lora else INVOCATION, io_yaml(record), seed)
        (folder / "alorakit.json").write_text(record.to_json(), encoding="utf-8")
        return folder

    return make


@pytest.fixture(scope="session")
def labels(new_labels) -> Path:
    """A label adapter that passes or fails by what the requirement quotes."""
    return new_labels()


@pytest.fixture(scope="session")
def checker(new_adapter) -> Path:
    """An aLoRA that answers yes or no through io.yaml, as IBM's requirement-check does."""
    return new_adapter("checker", OPENING, YES_NO, seed=2)


@pytest.fixture
def new_backend(base) -> Iterator[Callable[..., Any]]:
    """A backend on the tiny model, float32; keywords are MelleaBackend's. Its engine must be idle in the end."""
    from alorakit.bindings.mellea import MelleaBackend

    backends = []

    def make(**options: Any) -> Any:
        if "engine" not in options:
            options = {"dtype": "float32", "device": "cpu", "block_size": 16, **options}
            options.setdefault("model_id", str(base))
        backends.append(MelleaBackend(**options))
        return backends[-1]

    yield make
    for backend in backends:
        backend.close()
        backend.engine.check_integrity()


@pytest.fixture
def backend(new_backend) -> Any:
    return new_backend(model_options={"max_new_tokens": 12})


@pytest.fixture
def engine(backend) -> Engine:
    return backend.engine


@pytest.fixture
def answered(monkeypatch) -> list[Any]:
    """What the engine answered to batches, in order: scores, and outputs with their ids."""
    from alorakit.engine.async_engine import AsyncEngine

    seen: list[Any] = []
    batch = AsyncEngine.batch

    async def spy(self: AsyncEngine, requests: Any, priority: int = 0) -> Any:
        answers = await batch(self, requests, priority)
        seen.extend(answers)
        return answers

    monkeypatch.setattr(AsyncEngine, "batch", spy)
    return seen


@pytest.fixture
def scripted(monkeypatch) -> Callable[..., None]:
    """Let the engine answer batches with a text, whatever is asked; ``top`` are further tokens' log-probabilities."""
    from alorakit.engine.async_engine import AsyncEngine
    from alorakit.engine.request import RequestOutput, Timing, Usage

    def script(text: str, top: dict[int, float] | None = None, reason: str = "stop") -> None:
        async def batch(self: AsyncEngine, requests: Any, priority: int = 0) -> list[RequestOutput]:
            ids = self.tokenizer.encode(text, add_special_tokens=False)
            logprobs = [{token: -1.0, **(top or {})} for token in ids]
            usage = Usage(10, 0, len(ids))
            return [
                RequestOutput(text, ids, reason, logprobs, None, r.adapter, None, usage, Timing(0.0, 0.0, 0.0))
                for r in requests
            ]

        monkeypatch.setattr(AsyncEngine, "batch", batch)

    return script


@pytest.fixture(autouse=True)
def same_catalog() -> Iterator[None]:
    """Mellea's catalog as it was, whatever adapters a test made."""
    from mellea.backends.adapters import catalog

    entries, table = list(catalog._INTRINSICS_CATALOG_ENTRIES), dict(catalog._INTRINSICS_CATALOG)
    yield
    catalog._INTRINSICS_CATALOG_ENTRIES[:] = entries
    catalog._INTRINSICS_CATALOG = table


def works(backend: Any, name: str) -> bool:
    """Whether an adapter function of that name answers."""
    from mellea import MelleaSession
    from mellea.backends.adapters import AdapterType
    from mellea.stdlib.components import Intrinsic
    from mellea.stdlib.context import ChatContext

    both = (AdapterType.ALORA, AdapterType.LORA)
    session = MelleaSession(backend, ctx=ChatContext())
    session.chat("The pump leaks.")
    action = Intrinsic(name, intrinsic_kwargs={"requirement": "It is short."}, adapter_types=both)
    thunk = session.act(action, strategy=None)
    return 0 <= json.loads(thunk.value)["requirement_check"]["score"] <= 1

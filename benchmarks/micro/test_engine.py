"""What the host does for a request, and small requests whole, on the demo model."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from alorakit import Engine, SamplingParams
from alorakit.engine.block_tree import BlockTree, Node
from benchmarks.workloads import INVOCATION, MODEL, add_random_aloras, random_ids

CONTEXT = random_ids(2048, "micro")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """With one aLoRA, the context read by the base model."""
    folder: Path = tmp_path_factory.mktemp("micro")
    with Engine.from_pretrained(MODEL, max_draft_tokens=0) as made:
        add_random_aloras(made, folder, 1, 32)
        made.generate(CONTEXT, SamplingParams(max_tokens=1))
        yield made


def fresh(turns: Iterator[int]) -> list[int]:
    """The context and a question that nobody has asked."""
    return [*CONTEXT, *random_ids(20, "question", next(turns)), *INVOCATION]


def test_find_a_cached_prefix(benchmark: Any) -> None:
    """2,048 tokens looked up in the tree of blocks."""
    benchmark.group = "host"
    tree = BlockTree(num_blocks=256, block_size=16)
    blocks = tree.allocate(128, None)
    assert blocks is not None
    node: Node | None = tree.root
    for index, block in enumerate(blocks):
        assert node is not None
        node = tree.insert(node, tuple(CONTEXT[16 * index : 16 * index + 16]), None, block)
    match = benchmark(tree.match, CONTEXT, None, len(CONTEXT))
    assert match.num_tokens == len(CONTEXT)


def test_tokenize(benchmark: Any, engine: Engine) -> None:
    """A text of 2,048 tokens."""
    benchmark.group = "host"
    text = engine.tokenizer.decode(CONTEXT)
    assert len(benchmark(engine.tokenizer.encode, text)) > 1000


@pytest.mark.parametrize("adapter", [None, "alora-0"], ids=["base model", "aLoRA"])
def test_one_token(benchmark: Any, engine: Engine, adapter: str | None) -> None:
    """A check's own 23 tokens over the cached context, one token out."""
    benchmark.group = "a request over 2,048 cached tokens"
    turns, params = count(), SamplingParams(max_tokens=1)
    benchmark(lambda: engine.generate(fresh(turns), params, adapter))


@pytest.mark.parametrize("adapter", [None, "alora-0"], ids=["base model", "aLoRA"])
def test_score(benchmark: Any, engine: Engine, adapter: str | None) -> None:
    """Two labels over the same."""
    benchmark.group = "a request over 2,048 cached tokens"
    turns = count(1_000_000)
    benchmark(lambda: engine.score(fresh(turns), ["yes", "no"], adapter=adapter))

"""What the benchmarks run on: the model, random prompts and random adapters."""

import random
from pathlib import Path

from alorakit import Engine
from benchmarks.peers import peft_peer

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
INVOCATION = [44, 17, 45]


def random_ids(num: int, *seed: object) -> list[int]:
    """``num`` token ids that no other seed begins with; ordinary tokens, none of the invocation's."""
    rng = random.Random(repr(seed))
    return [rng.randrange(1000, 49000) for _ in range(num)]


def add_random_aloras(engine: Engine, folder: Path, num: int, rank: int) -> list[str]:
    """Make ``num`` aLoRAs on q, k, v with different random weights below ``folder``, register them; their names."""
    names = [f"alora-{index}" for index in range(num)]
    for index, name in enumerate(names):
        path = peft_peer.make_adapter(engine.model_path, folder / name, rank, INVOCATION, seed=index)
        engine.add_adapter(name, path)
    return names

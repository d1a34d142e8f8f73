from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from alorakit.engine.model import Decoder
from alorakit.engine.pretrained import resolve_model
from alorakit.training import prefix_cache as module
from alorakit.training.config import TrainConfig
from alorakit.training.data import Example
from alorakit.training.prefix_cache import PrefixCache
from alorakit.training.prepare import build_model

Settings = Callable[..., TrainConfig]
BYTES_PER_TOKEN = 2 * 2 * 2 * 16 * 4  # layers, K and V, KV heads, head_dim, float32


@pytest.fixture(scope="module")
def decoder(tiny_base: Path, examples: list[Example]) -> Decoder:
    config = TrainConfig(device="cpu", dtype="float32")
    return build_model(resolve_model(tiny_base), examples, config).decoder


@pytest.mark.parametrize("tokens_per_pass", [1, 40, 1024])
@pytest.mark.parametrize("shared", [True, False], ids=["shared-opening", "no-shared-opening"])
def test_kept_prefixes_equal_those_computed_alone(
    decoder: Decoder, examples: list[Example], shared: bool, tokens_per_pass: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TOKENS_PER_PASS", tokens_per_pass)
    prefixes = [e.prefix_ids for e in examples[: 3 if shared else 5]]
    # One that begins all others, too: the shared opening may be a whole prefix.
    prefixes += [examples[0].prefix_ids[:5]] if shared else []
    cache = PrefixCache(decoder, 10**9)
    cache.fill(prefixes)
    for prefix, kv in zip(prefixes, cache.get(prefixes), strict=True):
        alone = PrefixCache(decoder, 0).get([prefix])[0]
        assert kv.shape == (2, 2, 2, len(prefix), 16)
        assert torch.allclose(kv, alone, atol=1e-5)
        assert not kv.requires_grad and not kv.is_inference()
    assert (cache.num_kept, cache.num_recomputed) == (4, 0)
    assert cache.tokens_kept == sum(len(p) for p in dict.fromkeys(prefixes))


def test_a_prefix_that_is_not_kept_is_computed_when_asked_for(decoder: Decoder, examples: list[Example]) -> None:
    prefixes = [e.prefix_ids for e in examples]
    # The last two rows' prefix is theirs both, so it comes first; then there is room for the first row's alone.
    budget = BYTES_PER_TOKEN * (len(prefixes[3]) + len(prefixes[0]))
    cache = PrefixCache(decoder, budget)
    seen: list[tuple[int, int]] = []
    cache.fill(prefixes, lambda done, total: seen.append((done, total)))
    assert (cache.num_kept, cache.num_recomputed) == (2, 2)
    assert seen == [(2, 2)]
    for kv, wanted in zip(cache.get(prefixes), PrefixCache(decoder, 0).get(prefixes), strict=True):
        assert torch.allclose(kv, wanted, atol=1e-5)


def test_an_empty_prefix_costs_nothing(decoder: Decoder) -> None:
    cache = PrefixCache(decoder, 0)
    cache.fill([(), ()])
    assert (cache.num_kept, cache.num_recomputed) == (0, 0)
    assert [kv.shape[3] for kv in cache.get([(), ()])] == [0, 0]

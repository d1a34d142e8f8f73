"""The KV cache of a CPU takes memory as it fills, or at the start where that is asked for."""

import psutil


def test_a_cache_takes_its_memory_as_it_fills_or_at_the_start(tiny_engine):
    resident = [psutil.Process().memory_info().rss]
    for reserve in (False, True):
        cache = tiny_engine("llama", cache_blocks=16384, reserve_cache=reserve)._runner.cache
        resident.append(psutil.Process().memory_info().rss)
        assert not cache.data[..., -1, :].any()
    size = cache.data.nbytes
    assert size > 100 << 20
    assert resident[1] - resident[0] < size / 2 < resident[2] - resident[1]

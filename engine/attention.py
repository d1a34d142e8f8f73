"""The paged KV cache and the decoder's attention over it."""

import torch
from torch import Tensor

from alorakit.engine.config import EngineConfig
from alorakit.engine.devices import free_memory
from alorakit.engine.errors import ConfigError
from alorakit.engine.model import Decoder
from alorakit.engine.model_config import ModelConfig
from alorakit.kernels import ops
from alorakit.kernels.ops import AttentionSpan


class KVCache:
    """Keys and values of every block: one tensor, ``[layers, 2, kv_heads, slots, head_dim]``.

    Slots of neighbouring blocks are neighbours, so the slots of a run of blocks are one view.
    """

    def __init__(
        self, config: ModelConfig, num_blocks: int, block_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Reserve memory for ``num_blocks`` blocks; a page is touched when it is first written."""
        shape = (config.num_layers, 2, config.num_kv_heads, num_blocks * block_size, config.head_dim)
        try:
            self.data = torch.empty(shape, dtype=dtype, device=device)
        except (RuntimeError, MemoryError) as exc:
            size = self.bytes_per_token(config, dtype) * num_blocks * block_size
            raise ConfigError(f"a KV cache of {size} bytes cannot be allocated; lower cache_blocks") from exc
        self.block_size = block_size

    @staticmethod
    def bytes_per_token(config: ModelConfig, dtype: torch.dtype) -> int:
        """Bytes of KV that one token takes over all layers."""
        return config.num_layers * 2 * config.kv_size * dtype.itemsize

    def copy_rows(self, source: int, dest: int, rows: int) -> None:
        """Copy the first ``rows`` slots of block ``source`` to block ``dest``, all layers at once."""
        from_, to = source * self.block_size, dest * self.block_size
        self.data[..., to : to + rows, :] = self.data[..., from_ : from_ + rows, :]


class PagedAttention:
    """One batch's attention: write the new rows' keys and values, then attend (the decoder's ``Attention``)."""

    def __init__(
        self,
        cache: KVCache,
        config: ModelConfig,
        writes: list[tuple[int, int, int]],
        spans: dict[int | None, list[AttentionSpan]],
    ) -> None:
        """``writes`` as in ``ops.kv_write``; ``spans`` for each distinct sliding window (None: full attention)."""
        self._cache, self._config, self._writes, self._spans = cache, config, writes, spans

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See ``model.Attention``."""
        keys, values = self._cache.data[layer, 0], self._cache.data[layer, 1]
        ops.kv_write(keys, k, self._writes)
        ops.kv_write(values, v, self._writes)
        spans = self._spans[self._config.sliding_windows[layer]]
        return ops.paged_attention(q, keys, values, spans, self._config.attention_scale)


def derive_blocks(config: EngineConfig, model: Decoder, max_model_len: int) -> int:
    """KV blocks that ``memory_fraction`` of the free memory holds, no more than ``max_num_seqs`` sequences can use.

    Raises:
        ConfigError: Not even one.
    """
    per_block = KVCache.bytes_per_token(model.config, model.dtype) * config.block_size
    affordable = int(free_memory(model.device) * config.memory_fraction) // per_block
    if affordable < 1:
        raise ConfigError(
            f"memory_fraction={config.memory_fraction} of free memory holds no KV block of {per_block} bytes; "
            "free memory, or set cache_blocks"
        )
    return min(affordable, -(-max_model_len // config.block_size) * config.max_num_seqs)

"""The paged KV cache and the decoder's attention over it."""

import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from alorakit.engine.config import EngineConfig
from alorakit.engine.devices import free_memory
from alorakit.engine.errors import ConfigError
from alorakit.engine.model import Decoder
from alorakit.engine.model_config import ModelConfig
from alorakit.kernels import ops
from alorakit.kernels.ops import AttentionPlan, Runs


class KVCache:
    """Keys and values of every block: one tensor, ``[layers, 2, kv_heads, slots, head_dim]``.

    Slots of neighbouring blocks are neighbours, so the slots of a run of blocks are one view.
    """

    def __init__(
        self,
        config: ModelConfig,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
        reserve: bool = False,
    ) -> None:
        """Memory for ``num_blocks`` blocks, all zeros; a CPU takes it when first written, or now if ``reserve``."""
        shape = (config.num_layers, 2, config.num_kv_heads, num_blocks * block_size, config.head_dim)
        try:
            if device.type == "cpu":  # torch.zeros would write it all: 1.5 s for 6 GB, and the memory is taken at once
                memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize)
                self.data = torch.frombuffer(memory, dtype=dtype).view(shape)
                if reserve:
                    self.data.zero_()
            else:
                self.data = torch.zeros(shape, dtype=dtype, device=device)
        except (RuntimeError, MemoryError, OSError, OverflowError, ValueError) as exc:
            size = self.bytes_per_token(config, dtype) * num_blocks * block_size
            raise ConfigError(f"a KV cache of {size} bytes cannot be allocated; lower cache_blocks") from exc
        self.block_size = block_size

    @staticmethod
    def bytes_per_token(config: ModelConfig, dtype: torch.dtype) -> int:
        """Bytes of KV that one token takes over all layers."""
        return config.num_layers * 2 * config.kv_size * dtype.itemsize

    def forget(self, slots: Tensor) -> None:
        """Overwrite slots [n] with zeros: values that are not finite would spoil even rows that do not see them."""
        self.data[:, :, :, slots] = 0

    def copy_rows(self, source: int, dest: int, rows: int) -> None:
        """Copy the first ``rows`` slots of block ``source`` to block ``dest``, all layers at once."""
        from_, to = source * self.block_size, dest * self.block_size
        self.data[..., to : to + rows, :] = self.data[..., from_ : from_ + rows, :]


@dataclass(frozen=True)
class AttentionInput:
    """Where a batch's keys and values go, and who sees what.

    Attributes:
        slots: int64 [rows], slot of each row.
        runs: The same as runs of consecutive slots, in row order.
        plans: For each distinct sliding window of the model (None: full attention).
    """

    slots: Tensor
    runs: Runs
    plans: Mapping[int | None, AttentionPlan]


class CachedAttention:
    """One batch's attention: write the new rows' keys and values, then attend (the decoder's ``Attention``)."""

    def __init__(self, cache: KVCache, config: ModelConfig, given: AttentionInput) -> None:
        """Attention of the batch described by ``given``."""
        self._data, self._given, self._windows = cache.data, given, config.sliding_windows
        scale = config.attention_scale
        self._attend = {window: ops.paged_attention(cache.data, plan, scale) for window, plan in given.plans.items()}

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See ``model.Attention``."""
        ops.kv_write(self._data[layer], k, v, self._given.slots, self._given.runs)
        return self._attend[self._windows[layer]](layer, q)


def derive_blocks(config: EngineConfig, model: Decoder, max_model_len: int) -> int:
    """KV blocks that ``memory_fraction`` of the free memory holds, no more than ``max_num_seqs`` sequences can use.

    Raises:
        ConfigError: Not even one.
    """
    per_block = KVCache.bytes_per_token(model.config, model.dtype) * config.block_size
    fraction = config.on(model.device.type).memory_fraction or 0.0
    affordable = int(free_memory(model.device) * fraction) // per_block
    if affordable < 1:
        raise ConfigError(
            f"memory_fraction={fraction} of free memory holds no KV block of {per_block} bytes; "
            "free memory, or set cache_blocks"
        )
    return min(affordable, -(-max_model_len // config.block_size) * config.max_num_seqs)

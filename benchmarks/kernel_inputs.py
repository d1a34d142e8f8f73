"""Inputs for single kernels, as the decoder gives them: weights of an 8B model, adapters' tables, paged caches."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from alorakit.engine.adapters import FUSED, linear_shapes
from alorakit.engine.model_config import ModelConfig
from alorakit.engine.rows import PlacedEntry
from alorakit.engine.schedule import Entry
from alorakit.engine.tile_plan import TilePlanner
from alorakit.kernels import ops
from alorakit.kernels.ops import Lora, LoraRows, LoraTable, Projected, TilePlan

# Room for ranks that a captured step has at least; see engine.triton_batch.
MAX_RANK = 64


@dataclass
class Inputs:
    """Makes tensors; matrices and caches are cut from one pool, so that hundreds of them take no time.

    Attributes:
        config: The model's sizes.
        device: Where everything is.
        dtype: Of weights and cache.
        block_size: Slots of a KV block.
        num_sms: Multiprocessors that attention is planned for.
        pool: Random numbers.
        keep: What tables hold the addresses of.
    """

    config: ModelConfig
    device: torch.device
    dtype: torch.dtype
    block_size: int
    num_sms: int
    pool: Tensor
    keep: list[Tensor] = field(default_factory=list)

    @classmethod
    def of(
        cls, config: ModelConfig, device: torch.device, dtype: torch.dtype, block_size: int, pool_bytes: int
    ) -> "Inputs":
        """Fill the pool."""
        num_sms = 8
        if device.type == "cuda":
            num_sms = torch.cuda.get_device_properties(device).multi_processor_count
        pool = torch.empty(pool_bytes // dtype.itemsize, dtype=dtype, device=device).normal_(0.0, 0.02)
        return cls(config, device, dtype, block_size, num_sms, pool)

    def cut(self, copy: int, *shape: int) -> Tensor:
        """The ``copy``-th tensor of this shape; when the pool is used up, they begin again from its start."""
        size = torch.Size(shape).numel()
        if size > len(self.pool):
            raise ValueError(f"{size} numbers do not fit in a pool of {len(self.pool)}")
        start = copy % (len(self.pool) // size) * size
        return self.pool[start : start + size].view(shape)

    def random(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Normal numbers."""
        return torch.randn(*shape, dtype=dtype or self.dtype, device=self.device)

    def ints(self, values: Sequence[int]) -> Tensor:
        """int32 on the device."""
        return torch.tensor(values, dtype=torch.int32).to(self.device)

    def widths(self, name: str) -> tuple[int, tuple[int, ...]]:
        """in_features of a fused projection, and out_features of its parts."""
        shapes = linear_shapes(self.config)
        return shapes[FUSED[name][0]][0], tuple(shapes[part][1] for part in FUSED[name])

    def table(self, name: str, num: int, rank: int) -> LoraTable:
        """``num`` adapters of one fused projection."""
        inputs, widths = self.widths(name)
        addresses = []
        for _ in range(num):
            for width in widths:
                a, b = self.random(rank, inputs) * 0.02, self.random(width, rank) * 0.02
                self.keep += [a, b]
                addresses += [a.data_ptr(), b.data_ptr()]
        pointers = torch.tensor(addresses, dtype=torch.int64).view(num, len(widths), 2).to(self.device)
        return LoraTable(pointers, self.ints([rank] * (num * len(widths))).view(num, -1), widths)

    def lora(self, name: str, rows: int, num: int, rank: int) -> Lora | None:
        """``num`` adapters in turn over the rows; None for none."""
        if not num:
            return None
        slots, size = [row % num for row in range(rows)], ops.ROW_BLOCK
        blocks = [sorted({*slots[first : first + size]}) for first in range(0, rows, size)]
        listed = [slot for block in blocks for slot in block + [-1] * (size - len(block))]
        found = LoraRows(
            row_slot=self.ints(slots),
            groups=self.ints(sorted({*slots})),
            block_slots=self.ints(listed).view(-1, size),
            block_counts=self.ints([len(block) for block in blocks]),
            max_rank=max(MAX_RANK, rank),
        )
        return Lora(self.table(name, num, rank), found)

    def sums(self, rows: int) -> Tensor:
        """Partial sums of squares, as ``add_norm`` leaves them."""
        x, weight = self.random(rows, self.config.hidden_size), self.random(self.config.hidden_size)
        _, _, sums = ops.fused.add_norm(x, Projected(self.random(1, rows, x.shape[1], dtype=torch.float32)), weight)
        return sums

    def projected(self, name: str, rows: int, num: int, rank: int) -> Projected:
        """What a product of few rows leaves to the next kernel."""
        inputs, widths = self.widths(name)
        lora = self.lora(name, rows, num, rank)
        return ops.fused.linear(self.random(rows, inputs), self.cut(0, sum(widths), inputs), lora=lora)

    def cache(self, copy: int, num_blocks: int) -> Tensor:
        """One layer's keys and values."""
        cfg = self.config
        return self.cut(copy, 2, cfg.num_kv_heads, num_blocks * self.block_size, cfg.head_dim)

    def planner(self) -> TilePlanner:
        """Of attention without a window."""
        cfg = self.config
        sizes = (cfg.num_heads, cfg.num_kv_heads, cfg.head_dim, self.dtype.itemsize, self.num_sms)
        return TilePlanner(None, self.block_size, *sizes)

    def plan(self, rows: int, before: int, num: int, shared: bool) -> tuple[TilePlan, int]:
        """Attention of ``num`` sequences, and how many blocks they are in.

        Args:
            rows: New rows of each.
            before: Keys before them.
            num: Sequences.
            shared: Whether these keys, whole blocks, are the same for all.
        """
        size = self.block_size
        each, common = -(-(before + rows) // size), before // size if shared else 0
        total = common + num * (each - common)
        order = torch.randperm(total, generator=torch.Generator().manual_seed(0)).tolist()
        placed = []
        for index in range(num):
            own = order[common + index * (each - common) : common + (index + 1) * (each - common)]
            blocks = order[:common] + own
            # Only what planning asks a sequence for.
            sequence: Any = SimpleNamespace(
                nodes=blocks[:common],
                blocks=blocks,
                branches=None,
                num_branch_rows=0,
                sampling=SimpleNamespace(prompt_logprobs=None),
            )
            placed.append(PlacedEntry(Entry(sequence, before, rows, True), index * rows))
        return self.planner().plan(placed), total

"""Runs batches through the Triton kernels: steps of few rows from captured CUDA graphs, others launch by launch."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from alorakit.engine.adapter_slots import AdapterSlots
from alorakit.engine.attention import KVCache
from alorakit.engine.captured_step import CapturedStep, GraphPool
from alorakit.engine.decode_steps import DecodeSteps
from alorakit.engine.errors import ConfigError
from alorakit.engine.model import Decoder
from alorakit.engine.numerics import mark_hidden, mark_logits
from alorakit.engine.rows import Rows
from alorakit.engine.schedule import Schedule
from alorakit.engine.step_buffer import StepBuffer
from alorakit.engine.tile_plan import TilePlanner, max_items, max_parts
from alorakit.engine.triton_batch import TILE_ARRAYS, LoraShape, TritonBatch, build
from alorakit.engine.triton_decoder import (
    AttentionStep,
    FewRows,
    LoraStep,
    LoraTiles,
    ManyRows,
    Products,
    StepTensors,
    forward,
)
from alorakit.kernels import ops
from alorakit.kernels.ops import ROW_BLOCK, LoraRows, Tile, TileClass, TileTensors

# A step of few rows is filled up to the next of these.
ROW_BUCKETS = (1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64)


@dataclass(frozen=True)
class StepShape:
    """What a captured step was captured for.

    Attributes:
        rows: Rows, filled up.
        tiles: For each distinct window, the tile class of its attention and whether rows have several results.
        lora: The batch's adapters, or None.
    """

    rows: int
    tiles: tuple[tuple[TileClass, bool], ...]
    lora: LoraShape | None


@dataclass(frozen=True)
class _Ran:
    """The last pass, to be looked at once the device is done.

    Attributes:
        batch: Its rows.
        finite: bool on the host: rows of hidden states, then of logits; see ``triton_decoder.forward``.
        num_rows: How many of the first kind, filled up.
        logits_rows: Which of the second kind are wanted.
        done: When they are there.
    """

    batch: TritonBatch
    finite: Tensor
    num_rows: int
    logits_rows: list[int]
    done: "torch.cuda.Event | None"


class TritonRunner:
    """Owns the model, the KV cache's memory and the captured graphs."""

    def __init__(
        self, model: Decoder, cache: KVCache, slots: AdapterSlots, max_model_len: int, cuda_graphs: bool = True
    ) -> None:
        """A runner of ``model`` over ``cache``; adapters are found in ``slots``.

        Args:
            model: Weights, not packed.
            cache: Where keys and values are.
            slots: Where the adapters are.
            max_model_len: Longest sequence, in tokens.
            cuda_graphs: Whether to capture steps of few rows.
        """
        self.model, self.cache, self._slots = model, cache, slots
        self.graphs = GraphPool.on(model.device, cuda_graphs)
        cfg, device = model.config, model.device
        self._windows = sorted(set(cfg.sliding_windows), key=lambda window: window or 0)
        self._num_sms = 8
        self._current: Callable[[], AbstractContextManager[object]] = nullcontext
        if device.type == "cuda":
            self._num_sms = torch.cuda.get_device_properties(device).multi_processor_count
            self._current = lambda: torch.cuda.device(device)  # Triton launches on the thread's current device
        shape = (cache.block_size, cfg.num_heads, cfg.num_kv_heads, cfg.head_dim, model.dtype.itemsize, self._num_sms)
        self._planners = [TilePlanner(window, *shape) for window in self._windows]
        try:
            self._planners[0].tile("decode")
        except ValueError as exc:
            raise ConfigError(f"{exc}; call ops.use_backend('torch') before the engine is made") from exc
        self._table_blocks = -(-max_model_len // cache.block_size) + 1
        self._steps: dict[StepShape, CapturedStep] = {}
        self._ran: _Ran | None = None
        self._flags = torch.empty(0, dtype=torch.bool)
        self._done = torch.cuda.Event() if device.type == "cuda" else None
        self._decode_steps = DecodeSteps(cache.block_size)

    def free(self) -> None:
        """Let go of the memory of weights, cache and graphs; the runner cannot run any more."""
        self._steps.clear()
        self._ran = None
        self._decode_steps.forget()
        self.__dict__.pop("_logits", None)
        self.model.release()
        self.cache.data = self.cache.data.new_empty(0)

    def build(self, plan: Schedule) -> TritonBatch:
        """The arrays of a scheduled step; nothing is sent to the device yet."""
        if (batch := self._decode_steps.follow(plan)) is not None:
            return batch
        rows = Rows.of(plan, self.cache.block_size)
        plans = [planner.plan(rows.placed) for planner in self._planners] if rows.placed else []
        batch = build(rows, plans, self._slots, len(rows.token_ids) <= ops.fused.MAX_ROWS)
        if self._windows == [None]:
            self._decode_steps.remember(batch)
        return batch

    @torch.inference_mode()
    def run(self, batch: TritonBatch) -> Tensor:
        """Start copying blocks and running the model; float32 logits [len(logits_rows), vocab_size].

        Does not wait for the device. :meth:`check` does, once the logits have been used.
        """
        self._ran = None
        if not batch.entries:
            return self.model.embedding.new_empty(0, self.model.config.vocab_size, dtype=torch.float32)
        with self._current():
            for copy in batch.copies:
                self.cache.copy_rows(copy.source, copy.dest, copy.rows)
            return self._run_few(batch) if batch.num_rows <= ops.fused.MAX_ROWS else self._run_many(batch)

    def check(self) -> None:
        """Give every sequence of the last pass whose values are not finite its NumericsError."""
        ran, self._ran = self._ran, None
        if ran is None:
            if self._done is not None:  # a pass that failed on its way may have left a copy from the host's buffer
                torch.cuda.synchronize(self.model.device)
            return
        if ran.done is not None:
            ran.done.synchronize()
        flags, rows = ran.finite.numpy(), ran.batch.num_rows
        if flags[:rows].all() and flags[ran.num_rows :][ran.logits_rows].all():
            return
        wrong = mark_hidden(ran.finite[:rows], ran.batch.entries)
        mark_logits(ran.finite[ran.num_rows :][ran.logits_rows], ran.batch.wanted)
        for where in wrong:
            slots = torch.from_numpy(ran.batch.arrays["slots"][where]).long()
            self.cache.forget(slots.to(self.model.device))

    def _run_few(self, batch: TritonBatch) -> Tensor:
        tiles = tuple((plan.tile_class, plan.num_parts > 0) for plan in batch.plans)
        rows = next(size for size in ROW_BUCKETS if size >= batch.num_rows)
        shape = StepShape(rows, tiles, batch.lora)
        step = self._steps.get(shape)
        if step is None:
            step = self._steps[shape] = self._make_step(shape)
        logits, finite = step.run(batch.arrays)
        self._watch(_Ran(batch, finite, rows, batch.logits_rows, None))
        if batch.logits_rows == list(range(batch.num_rows)):
            return logits[: batch.num_rows]
        return logits.index_select(0, step.views["logits_rows"][: len(batch.logits_rows)])

    def _run_many(self, batch: TritonBatch) -> Tensor:
        views = StepBuffer.of(batch.arrays, self.model.device).views
        tiles = [(plan.tile_class, plan.num_parts) for plan in batch.plans]
        step = self._tensors(views, tiles, batch.lora, views["logits_rows"])
        logits, finite = self._forward(step, ManyRows(self.model, step.lora))
        self._watch(_Ran(batch, finite, batch.num_rows, list(range(len(logits))), None))
        return logits

    def _make_step(self, shape: StepShape) -> CapturedStep:
        rows = shape.rows
        sizes: dict[str, tuple[int, ...]] = {}
        for name in ("token_ids", "positions", "slots", "logits_rows"):
            sizes[name] = (rows,)
        if shape.lora is not None:
            blocks = -(-rows // ROW_BLOCK)
            sizes |= {"row_slot": (rows,), "groups": (shape.lora.groups,)}
            sizes |= {"block_counts": (blocks,), "block_slots": (blocks, ROW_BLOCK)}
        fills = dict.fromkeys({"slots", "row_slot", "groups", "block_slots"} & sizes.keys(), -1)
        tiles = []
        for index, ((tile_class, merge), planner) in enumerate(zip(shape.tiles, self._planners, strict=True)):
            kv_heads, units = planner.num_kv_heads, rows if tile_class == "decode" else None
            parts = max_parts(rows, self._num_sms, kv_heads)
            items = (max_items(rows, self._num_sms, kv_heads, units), 6)
            refs = (parts + rows,)
            shapes = (items, refs, refs, (rows, 4), (rows, 2), (rows * self._table_blocks,))
            sizes |= {f"{index}.{name}": shape for name, shape in zip(TILE_ARRAYS, shapes, strict=True)}
            tiles.append((tile_class, parts if merge else 0))
        buffer = StepBuffer(sizes, fills, self.model.device)
        step = self._tensors(buffer.views, tiles, shape.lora, None)
        products = FewRows(self.model, step.lora, self._logits)
        return CapturedStep(buffer, lambda: self._forward(step, products), self.graphs)

    def _forward(self, step: StepTensors, products: Products) -> tuple[Tensor, Tensor]:
        return forward(self.model, self.cache.data, self.cache.block_size, step, products)

    def _tensors(
        self,
        views: Mapping[str, Tensor],
        tiles: list[tuple[TileClass, int]],
        lora: LoraShape | None,
        logits_rows: Tensor | None,
    ) -> StepTensors:
        """The views of a buffer as what the decoder reads."""
        cfg = self.model.config
        group, item = cfg.num_heads // cfg.num_kv_heads, self.model.dtype.itemsize
        attention = {}
        for index, (window, (tile_class, parts)) in enumerate(zip(self._windows, tiles, strict=True)):
            work = TileTensors(**{name: views[f"{index}.{name}"] for name in TILE_ARRAYS})
            attention[window] = AttentionStep(work, Tile.of(tile_class, cfg.head_dim, group, item), parts)
        return StepTensors(
            token_ids=views["token_ids"],
            positions=views["positions"],
            slots=views["slots"],
            attention=attention,
            lora=self._lora(views, lora),
            logits_rows=logits_rows,
        )

    def _lora(self, views: Mapping[str, Tensor], lora: LoraShape | None) -> LoraStep | None:
        if lora is None:
            return None
        rows: LoraRows | LoraTiles
        if lora.block_m:
            rows = LoraTiles(views["lora_tiles"], lora.block_m, lora.max_rank)
        else:
            rows = LoraRows(
                row_slot=views["row_slot"],
                groups=views["groups"],
                block_slots=views["block_slots"],
                block_counts=views["block_counts"],
                max_rank=lora.max_rank,
            )
        tables = self._slots.table.tables
        return LoraStep({name: tables[name] for name in lora.projections}, rows)

    def _watch(self, ran: _Ran) -> None:
        """Start copying the flags to the host."""
        if self._done is not None:
            if len(self._flags) < len(ran.finite):  # one pass is watched at a time, so they all share a buffer
                self._flags = torch.empty(len(ran.finite), dtype=torch.bool, pin_memory=True)
            host = self._flags[: len(ran.finite)]
            host.copy_(ran.finite, non_blocking=True)
            self._done.record()
            ran = replace(ran, finite=host, done=self._done)
        self._ran = ran

    @cached_property
    def _logits(self) -> Tensor:
        """Where the logits of few rows go, whatever the step's shape."""
        size = (ops.fused.MAX_ROWS, self.model.config.vocab_size)
        return torch.empty(size, dtype=torch.float32, device=self.model.device)

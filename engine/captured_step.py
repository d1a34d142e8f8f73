"""One shape of a step of few rows: its buffers, and on a GPU its CUDA graph."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alorakit.engine.step_buffer import Array, StepBuffer

log = logging.getLogger("alorakit")


@dataclass
class GraphPool:
    """The memory that all captured graphs share, for one is replayed at a time.

    Attributes:
        handle: What ``torch.cuda.graph`` calls it; None where graphs are off.
        num_graphs: Graphs captured so far.
        num_bytes: Device memory that they took.
    """

    handle: Any
    num_graphs: int = 0
    num_bytes: int = 0

    @classmethod
    def on(cls, device: torch.device, enabled: bool) -> "GraphPool":
        """A pool for ``device``; graphs are there on CUDA only."""
        return cls(torch.cuda.graph_pool_handle() if enabled and device.type == "cuda" else None)


class CapturedStep:
    """Runs steps of one shape. The first one runs launch by launch, and is then captured for those that follow.

    Attributes:
        views: The buffer's arrays on the device.
    """

    def __init__(self, buffer: StepBuffer, forward: Callable[[], tuple[Tensor, Tensor]], pool: GraphPool) -> None:
        """Wrap ``forward``, which reads ``buffer`` and returns logits and flags; see ``triton_decoder.forward``."""
        self.views, self._buffer, self._forward, self._pool = buffer.views, buffer, forward, pool
        self._graph: torch.cuda.CUDAGraph | None = None
        self._capturable = True
        self._outputs: tuple[Tensor, Tensor] | None = None

    def run(self, arrays: Mapping[str, Array]) -> tuple[Tensor, Tensor]:
        """Logits and flags of one step; overwritten by the next one of any shape."""
        self._buffer.load(arrays)
        if self._graph is not None and self._outputs is not None:
            self._graph.replay()
            return self._outputs
        outputs = self._forward()
        if self._pool.handle is not None and self._capturable:
            try:
                self._capture()
            except RuntimeError as exc:  # memory, mostly; what was computed is not touched by it
                self._capturable = False
                log.warning("a step could not be captured in a CUDA graph and runs launch by launch: %s", exc)
        return outputs

    def _capture(self) -> None:
        device = self._buffer.device
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_reserved(device)
        graph = torch.cuda.CUDAGraph()
        # Other threads may allocate meanwhile, or call whatever else a capture of their own would not allow.
        with torch.cuda.graph(graph, pool=self._pool.handle, capture_error_mode="thread_local"):
            self._outputs = self._forward()
        self._graph = graph
        self._pool.num_graphs += 1
        self._pool.num_bytes += torch.cuda.memory_reserved(device) - before

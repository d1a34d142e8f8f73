"""The decoder's layers compiled for a CPU, for steps of few rows (``EngineConfig.compile``).

A graph has a fixed number of rows, its bucket: a step is filled up to the next one, and a step with more rows than
the largest runs as it would without. All graphs are there before the first request, which thus waits for none.
"""

import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from alorakit.engine.compiled_key import cache_key
from alorakit.engine.compiled_ops import close_step, open_step
from alorakit.engine.layer_module import LayerModule
from alorakit.engine.model import Attention, Decoder, LoraApplier
from alorakit.engine.pretrained import cache_dir

# A decode step, a few of them at once, and a check's suffix.
BUCKETS = (1, 8, 32)
# Weights become constants, laid out for the matrix product that was fastest when both were tried.
OPTIONS = {"freezing": True, "max_autotune": True}

Graph = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

log = logging.getLogger("alorakit")


class CompiledDecoder:
    """Runs a decoder's layers as compiled graphs; embedding and logits are not part of them.

    A graph holds its own copy of the layers' weights, mapped from its file in the cache: memory that the machine can
    take back as long as the graph is not used.

    Attributes:
        seconds: How long it took to make, or to load from the cache.
    """

    def __init__(self, model: Decoder) -> None:
        """Compile ``model``, whose weights must not be packed yet, or load what was compiled before.

        Raises:
            Exception: Whatever the compiler raises.
        """
        started = time.perf_counter()
        self._model = model
        self._step, self._number = open_step()
        try:
            folder = cache_dir() / "compiled" / cache_key(model, OPTIONS)
            self._graphs = dict(self._make(folder))
        except BaseException:
            self.close()
            raise
        self.seconds = time.perf_counter() - started

    @classmethod
    def make(cls, model: Decoder) -> "CompiledDecoder | None":
        """A compiled decoder, or None with a warning where it cannot be had."""
        if model.device.type != "cpu":
            log.warning("compile=True does nothing on %s: its kernels need no compiler", model.device)
            return None
        try:
            made = cls(model)
        except Exception as exc:  # no compiler, no disk space, an operator that the compiler cannot do
            reason = (str(exc).strip() or type(exc).__name__).splitlines()[0]
            log.warning("compile=True: the decoder cannot be compiled and runs without: %.300s", reason)
            return None
        log.info("compiled for steps of %s rows in %.1f s", ", ".join(map(str, BUCKETS)), made.seconds)
        return made

    def takes(self, num_rows: int) -> bool:
        """Whether there is a graph for a step of ``num_rows``."""
        return num_rows <= max(self._graphs)[0]

    def close(self) -> None:
        """Let go of the graphs."""
        self._graphs: dict[tuple[int, bool], Graph] = {}
        close_step(self._number)

    def forward(self, token_ids: Tensor, positions: Tensor, attention: Attention, lora: LoraApplier | None) -> Tensor:
        """See ``Decoder.forward``."""
        num, step = token_ids.shape[0], self._step
        rows = min(bucket for bucket, _ in self._graphs if bucket >= num)
        parts = [self._model.embed(token_ids), *self._model.rotary.at(positions)]
        if rows > num:
            parts = [F.pad(part, (0, 0) * (part.dim() - 1) + (0, rows - num)) for part in parts]
        step.num_rows, step.attention, step.lora = num, attention, lora
        try:
            return self._graphs[rows, lora is not None](*parts, self._number)[:num]
        finally:
            step.attention = step.lora = None

    def _make(self, folder: Path) -> Iterator[tuple[tuple[int, bool], Graph]]:
        cfg = self._model.config
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory() as scratch, _compiler_cache(scratch), torch.no_grad():
            for rows in BUCKETS:
                x = self._model.embedding.new_zeros(rows, cfg.hidden_size)
                cos, sin = self._model.rotary.at(torch.zeros(rows, dtype=torch.int64))
                for adapted in (False, True):
                    inputs = (x, cos, sin, self._number)
                    path = folder / f"{rows}-{'adapted' if adapted else 'base'}.pt2"
                    if not path.exists():
                        _compile(LayerModule(self._model, adapted), inputs, path)
                    graph: Any = torch._inductor.aoti_load_package(str(path))
                    graph(*inputs)
                    yield (rows, adapted), graph


def _compile(module: LayerModule, inputs: tuple[Tensor, ...], path: Path) -> None:
    """Compile to the file ``path``, which is there whole or not at all."""
    exported = torch.export.export(module.eval(), inputs, strict=False)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        part = Path(folder) / path.name
        torch._inductor.aoti_compile_and_package(exported, package_path=str(part), inductor_configs=OPTIONS)
        part.replace(path)


@contextmanager
def _compiler_cache(folder: str) -> Iterator[None]:
    """Let the compiler keep its own files in ``folder``: what is wanted of them is copied out."""
    name = "TORCHINDUCTOR_CACHE_DIR"
    before = os.environ.get(name)
    os.environ[name] = folder
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before

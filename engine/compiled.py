"""The decoder's forward pass compiled for a CPU (``EngineConfig.compile``).

torch's compiler makes one program of what lies between linear layers and attention, norms, rotary embedding, activation
and residuals, for any number of rows; there is nothing for a request to wait for. Linear layers and attention are the
engine's own. With the compiler's (freezing and max-autotune) a decode step of SmolLM2 without attention took 11.4 ms,
eager 7.1 (2 cores of an EPYC with AVX512-BF16): oneDNN's packed weights are read at 33 to 43 GB/s already, and each
number of rows needed its own copy of the weights. So the program holds none but the norms'.
"""

import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alorakit.engine.compiled_key import cache_key
from alorakit.engine.compiled_ops import close_step, open_step
from alorakit.engine.layer_module import LayerModule
from alorakit.engine.model import PROJECTIONS, Attention, Decoder, LoraApplier
from alorakit.engine.pretrained import cache_dir

# Rows of the example that the compiler is shown; the program takes any number.
EXAMPLE_ROWS = 8
# Headers compiled beforehand pay for who compiles often.
OPTIONS: dict[str, object] = {"aot_inductor.precompile_headers": False}

log = logging.getLogger("alorakit")


class CompiledDecoder:
    """A decoder whose layers are compiled; embedding and logits are not part of that.

    Attributes:
        seconds: How long it took to compile, or to load from the cache.
    """

    def __init__(self, model: Decoder) -> None:
        """Compile ``model``, or load what was compiled before.

        Raises:
            Exception: Whatever the compiler raises.
        """
        started = time.perf_counter()
        self._model = model
        linears = {(i, name): getattr(layer, name) for i, layer in enumerate(model.layers) for name in PROJECTIONS}
        self._step, self._number = open_step(linears)
        self._run: Any = None
        try:
            self._run = self._load(cache_dir() / "compiled" / f"{cache_key(model, OPTIONS)}.pt2")
        except BaseException:
            self.close()
            raise
        self.seconds = time.perf_counter() - started

    @classmethod
    def make(cls, model: Decoder) -> "CompiledDecoder | None":
        """A compiled decoder, or None and a warning where it cannot be had."""
        if model.device.type != "cpu":
            log.info("compile=True does nothing on %s", model.device)
            return None
        try:
            made = cls(model)
        except Exception as exc:  # no compiler, no disk space, an operator that the compiler cannot do
            reason = (str(exc).strip() or type(exc).__name__).splitlines()[0]
            log.warning("compile=True: the decoder cannot be compiled, and runs without: %.300s", reason)
            return None
        log.info("decoder compiled in %.1f s", made.seconds)
        return made

    def close(self) -> None:
        """Let go of the program and the weights."""
        self._run = None
        close_step(self._number)

    def forward(self, token_ids: Tensor, positions: Tensor, attention: Attention, lora: LoraApplier | None) -> Tensor:
        """See ``Decoder.forward``."""
        step = self._step
        step.attention, step.lora = attention, lora
        try:
            x, (cos, sin) = self._model.embed(token_ids), self._model.rotary.at(positions)
            hidden: Tensor = self._run(x, cos, sin, self._number)
            return hidden
        finally:
            step.attention = step.lora = None

    def _load(self, path: Path) -> Any:
        x = self._model.embedding.new_zeros(EXAMPLE_ROWS, self._model.config.hidden_size)
        cos, sin = self._model.rotary.at(torch.zeros(EXAMPLE_ROWS, dtype=torch.int64))
        inputs = (x, cos, sin, self._number)
        if path.exists():
            try:
                return _try(path, inputs)
            except Exception as exc:
                log.warning("%s cannot be used, and is made anew: %.200s", path, exc)
        path.parent.mkdir(parents=True, exist_ok=True)
        _compile(LayerModule(self._model), inputs, path)
        return _try(path, inputs)


def _try(path: Path, inputs: tuple[Tensor, ...]) -> Any:
    """The program in a file, run once."""
    run = torch._inductor.aoti_load_package(str(path))
    with torch.inference_mode():
        run(*inputs)
    return run


def _compile(module: LayerModule, inputs: tuple[Tensor, ...], path: Path) -> None:
    """Compile to the file ``path``, which is there whole or not at all."""
    rows = torch.export.Dim("rows", min=1, max=1 << 20)
    shapes = ({0: rows}, {0: rows}, {0: rows}, None)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, _compiler_cache(folder), torch.no_grad():
        exported = torch.export.export(module.eval(), inputs, dynamic_shapes=shapes, strict=False)
        made = Path(folder) / path.name
        torch._inductor.aoti_compile_and_package(exported, package_path=str(made), inductor_configs=OPTIONS)
        made.replace(path)


@contextmanager
def _compiler_cache(folder: str) -> Iterator[None]:
    """Let the compiler keep its own files in ``folder``; what is wanted of them is in the package."""
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

"""What a compiled decoder depends on, as the name of its file in the cache."""

import hashlib
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from alorakit.engine.model import Decoder

# Whose code is compiled in.
_SOURCES = ("model.py", "layers.py", "layer_module.py", "compiled_ops.py", "../kernels/torch_ops.py")


def cache_key(model: Decoder, options: Mapping[str, object]) -> str:
    """Hexadecimal digest: the model's shape, norms' weights, machine, torch, threads, code, ``options``."""
    digest = hashlib.blake2b(digest_size=16)
    machine = (platform.machine(), _cpu_name(), torch.backends.cpu.get_cpu_capability(), torch.get_num_threads())
    digest.update(repr((torch.__version__, machine, model.config, model.dtype, sorted(options.items()))).encode())
    for name in _SOURCES:
        digest.update((Path(__file__).parent / name).read_bytes())
    for norm in _norms(model):
        digest.update(norm.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _norms(model: Decoder) -> Iterator[Tensor]:
    yield model.final_norm
    for layer in model.layers:
        yield from (layer.input_norm, layer.post_norm, *(layer.qk_norm or ()))


def _cpu_name() -> str:
    """The processor's model: instructions and cache sizes decide what is compiled."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("model name")), platform.processor())

"""Engine settings: one frozen dataclass, the source of truth for keywords and command-line defaults."""

import os
from dataclasses import dataclass, replace
from typing import Literal

from alorakit.engine.errors import ConfigError, shown

DTYPES = ("auto", "bfloat16", "float32")
DEVICES = ("auto", "cpu", "cuda", "mps")
MAX_CACHE_BLOCKS = 1 << 24
MAX_BLOCK_SIZE = 1 << 16
MISSING_INVOCATION = ("error", "append", "base")


@dataclass(frozen=True)
class EngineConfig:
    """Settings of an :class:`~alorakit.Engine`.

    Attributes:
        dtype: Compute type of weights and KV cache. ``"auto"``: bfloat16 on a GPU and on CPUs with bfloat16
            instructions, else float32.
        device: ``"auto"``: CUDA, then MPS, then CPU, whichever is there.
        block_size: Tokens per KV block; sharing is exact to the token whatever the size.
        cache_blocks: Number of KV blocks; None derives it from free memory.
        memory_fraction: Share of the free memory that the KV cache may take when ``cache_blocks`` is None; None: 0.8
            on a GPU, else 0.25.
        reserve_cache: Take all of the KV cache's memory at the start, and not as it fills (CPU; a GPU's always is).
            A start then takes some seconds longer. ``m alora serve`` does.
        max_num_seqs: Most sequences in one forward pass.
        max_num_batched_tokens: Most tokens in one forward pass; longer prompts are prefilled in chunks. None: 8,192 on
            a GPU, else 1,024.
        max_waiting: Most sequences that an AsyncEngine lets wait; beyond it requests get an EngineBusyError.
        max_model_len: Longest sequence (prompt and completion) in tokens; None: the model's own limit.
        on_missing_invocation: What to do when an aLoRA's invocation is not in the prompt: ``"error"``,
            ``"append"`` (add it at the end) or ``"base"`` (answer with the base model, as PEFT does silently).
        max_adapters: Most adapters in the device's memory at once; the least recently used one is swapped out for the
            next, and a request whose adapter finds no room waits. Any number may be registered.
        max_draft_tokens: Longest guess at an adapter's answer, taken from its past answers and verified in the same
            pass; the answers do not change. 0 turns it off.
        num_threads: CPU threads; None leaves torch's setting.
        cuda_graphs: On a GPU, capture steps of up to 64 rows in CUDA graphs, each when its shape first occurs.
        pack_weights: Pack bfloat16 weights once (CPU only): faster, same results. With AVX512-BF16 and a C compiler the
            model then runs in C; the kernels are compiled by the first start, in some seconds, and kept below
            ``$ALORAKIT_CACHE`` (``$XDG_CACHE_HOME/alorakit``).
        compile: Where the model does not run in C: let torch's compiler make one program of what lies between linear
            layers and attention (CPU only; elsewhere ignored with a log line, and where there is no C++ compiler with a
            warning). The result is kept in the same place, so only the first start waits for it.
        revision: Hub revision of the model.

    Raises:
        ConfigError: A value is out of range.
    """

    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    device: str = "auto"
    block_size: int = 64
    cache_blocks: int | None = None
    memory_fraction: float | None = None
    reserve_cache: bool = False
    max_num_seqs: int = 64
    max_num_batched_tokens: int | None = None
    max_waiting: int = 4096
    max_model_len: int | None = None
    on_missing_invocation: Literal["error", "append", "base"] = "error"
    max_adapters: int = 16
    max_draft_tokens: int = 8
    num_threads: int | None = None
    cuda_graphs: bool = True
    pack_weights: bool = True
    compile: bool = False
    revision: str | None = None

    def __post_init__(self) -> None:
        """Check every field."""
        _one_of("dtype", self.dtype, DTYPES)
        _one_of("device", str(self.device).split(":")[0], DEVICES)
        _one_of("on_missing_invocation", self.on_missing_invocation, MISSING_INVOCATION)
        for name in ("block_size", "max_num_seqs", "max_waiting", "max_adapters"):
            _positive(name, getattr(self, name))
        if self.block_size > MAX_BLOCK_SIZE:
            raise ConfigError(f"block_size={shown(self.block_size)} must be at most {MAX_BLOCK_SIZE}")
        for name in ("reserve_cache", "cuda_graphs", "pack_weights", "compile"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name}={shown(getattr(self, name))} must be true or false")
        if self.revision is not None and not isinstance(self.revision, str):
            raise ConfigError(f"revision={shown(self.revision)} must be a branch, tag or commit, or None")
        limit = 4 * (os.cpu_count() or 1)
        if self.num_threads is not None and (type(self.num_threads) is not int or self.num_threads > limit):
            raise ConfigError(f"num_threads={shown(self.num_threads)} must be an integer from 1 to {limit}")
        for name in ("cache_blocks", "max_model_len", "max_num_batched_tokens", "num_threads"):
            if getattr(self, name) is not None:
                _positive(name, getattr(self, name))
        if type(self.max_draft_tokens) is not int or not 0 <= self.max_draft_tokens <= 64:
            raise ConfigError(f"max_draft_tokens={shown(self.max_draft_tokens)} must be an integer from 0 to 64")
        if self.cache_blocks is not None and self.cache_blocks > MAX_CACHE_BLOCKS:
            raise ConfigError(f"cache_blocks={shown(self.cache_blocks)} must be at most {MAX_CACHE_BLOCKS}")
        fraction = self.memory_fraction
        number = isinstance(fraction, int | float) and not isinstance(fraction, bool)
        if fraction is not None and not (number and 0.0 < fraction <= 0.95):
            raise ConfigError(f"memory_fraction={shown(self.memory_fraction)} must be above 0 and at most 0.95")

    def on(self, device: str) -> "EngineConfig":
        """These settings with what is None and depends on the kind of device (``"cuda"``, ``"cpu"``) filled in."""
        return replace(
            self,
            max_num_batched_tokens=self.max_num_batched_tokens or (8192 if device == "cuda" else 1024),
            memory_fraction=self.memory_fraction or (0.8 if device == "cuda" else 0.25),
        )


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name}={shown(value)} is not one of {', '.join(allowed)}")


def _positive(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name}={shown(value)} must be an integer of at least 1")

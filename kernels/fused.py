"""The Triton path's kernels, for ``ops.fused``: importing this imports Triton.

Up to ``MAX_ROWS`` rows (decode steps, the suffixes that checks are) go through :func:`linear`, :func:`add_norm` and the
rest with the adapters' shrink and expand riding along; more rows through the matrix library and :func:`lora_delta`.
"""

from alorakit.kernels.triton_add_norm import add_norm, embed_norm
from alorakit.kernels.triton_add_rms_norm import add_rms_norm
from alorakit.kernels.triton_attention import Partials, paged_attention
from alorakit.kernels.triton_linear import MAX_ROWS, linear
from alorakit.kernels.triton_lora_delta import lora_delta
from alorakit.kernels.triton_rope_kv_write import Rotary, rope_kv_write
from alorakit.kernels.triton_silu_mul import silu_mul

__all__ = [
    "MAX_ROWS",
    "Partials",
    "Rotary",
    "add_norm",
    "add_rms_norm",
    "embed_norm",
    "linear",
    "lora_delta",
    "paged_attention",
    "rope_kv_write",
    "silu_mul",
]

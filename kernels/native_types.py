"""The structures of the C kernels (``c/*.h``), field by field: addresses, counts and strides."""

import ctypes

I64, F32, POINTER = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p
PROJECTIONS = ("qkv", "o", "gate_up", "down")


def _fields(kind: type, names: str) -> list[tuple[str, type]]:
    return [(name, kind) for name in names.split()]


class Linear(ctypes.Structure):
    """One packed linear layer."""

    _fields_ = [*_fields(I64, "inputs outputs panel_size"), *_fields(POINTER, "weight bias")]


class Layer(ctypes.Structure):
    """One decoder layer."""

    _fields_ = [
        *_fields(POINTER, "input_norm post_norm q_norm k_norm"),
        ("projections", Linear * len(PROJECTIONS)),
        ("plan", I64),
    ]


class Heads(ctypes.Structure):
    """The shape of attention."""

    _fields_ = [*_fields(I64, "heads kv_heads dim slots"), ("scale", F32)]


class Model(ctypes.Structure):
    """The decoder."""

    _fields_ = [
        *_fields(I64, "num_layers hidden intermediate"),
        ("heads", Heads),
        *_fields(F32, "eps residual"),
        *_fields(POINTER, "layers final_norm"),
    ]


class Range(ctypes.Structure):
    """From ``start`` to one before ``end``."""

    _fields_ = _fields(I64, "start end")


class Wave(ctypes.Structure):
    """Pieces that are computed together, their rows, and the rows whose results they make."""

    _fields_ = _fields(Range, "pieces rows targets")


class Piece(ctypes.Structure):
    """Rows and the keys that they see."""

    _fields_ = [*_fields(I64, "num_rows first_row num_runs first_run num_keys tail"), ("mask", POINTER)]


class Attention(ctypes.Structure):
    """A step's attention."""

    _fields_ = [("num_waves", I64), *_fields(POINTER, "waves pieces rows runs targets found parts")]


class Lora(ctypes.Structure):
    """One slab's weights for one projection; all zeros where it adapts nothing."""

    _fields_ = [*_fields(I64, "inputs rank num_parts num_tiles tile"), *_fields(POINTER, "a b tile_part column")]


class Step(ctypes.Structure):
    """A batch."""

    _fields_ = [
        ("rows", I64),
        *_fields(POINTER, "x cos sin cache slots plans adapted loras scratch"),
    ]

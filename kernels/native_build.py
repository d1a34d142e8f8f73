"""Compiles the C kernels once for a machine, and loads them.

What is compiled lies in a cache folder under a name that says what it depends on: source, compiler, processor. OpenMP
is that which torch brings along: the library is linked without one and finds torch's symbols, so that both share one
set of threads.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path

import torch

from alorakit.kernels.backend import forced_backend

SOURCES = Path(__file__).parent / "c"
OPTIONS = ("-std=c11", "-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-fPIC")
# What the kernels' instructions are called in /proc/cpuinfo.
INSTRUCTIONS = frozenset(("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_bf16"))
TIMEOUT_S = 120

log = logging.getLogger("alorakit")


class NativeError(RuntimeError):
    """The C kernels cannot be had here; the message says why."""


def load_library(folder: Path) -> ctypes.CDLL:
    """The kernels' library, compiled into ``folder`` if it is not there.

    Raises:
        NativeError: Another processor or system, no compiler, or none that can compile them.
    """
    if forced_backend() is not None:
        raise NativeError(f"backend={forced_backend()!r} is forced")
    flags = processor_flags()
    if missing := INSTRUCTIONS - flags:
        raise NativeError(f"the processor has no {', '.join(sorted(missing))}")
    if not hasattr(ctypes.CDLL(None), "GOMP_parallel"):
        raise NativeError("torch was built without GNU's OpenMP")
    compiler = _compiler()
    name = f"layers-{_digest(compiler, flags)}.so"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / name).exists():
            _compile(compiler, folder / name)
        library = ctypes.CDLL(str(folder / name))
    except OSError as exc:
        raise NativeError(f"{folder / name}: {exc}") from exc
    library.scratch_size.restype = ctypes.c_int64
    return library


def _compiler() -> str:
    names = [os.environ["CC"]] if os.environ.get("CC") else ["gcc", "cc"]
    for name in names:
        if found := shutil.which(name):
            return found
    raise NativeError(f"no C compiler ({' or '.join(names)}) is installed")


def _digest(compiler: str, flags: frozenset[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    status = Path(compiler).stat()
    digest.update(repr((compiler, status.st_size, status.st_mtime_ns, OPTIONS, sorted(flags))).encode())
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _compile(compiler: str, path: Path) -> None:
    """Compile to the file ``path``, which is there whole or not at all."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made, linked = Path(folder) / "layers.o", Path(folder) / path.name
        _call([compiler, *OPTIONS, "-c", str(SOURCES / "layers.c"), "-o", str(made)])
        _call([compiler, "-shared", str(made), "-o", str(linked), "-lm"])  # no -fopenmp: that would add a second one
        linked.replace(path)
    log.info("C kernels compiled in %.1f s", time.perf_counter() - started)


def _call(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise NativeError(f"{command[0]}: {exc}") from exc
    if done.returncode:
        lines = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()
        raise NativeError(f"{command[0]}: {next((line for line in lines if 'error' in line), lines[0])}")


@cache
def processor_flags() -> frozenset[str]:
    """What the processor can do, as Linux says; empty elsewhere."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return frozenset()
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    return frozenset(next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), []))


def packs_as_expected() -> bool:
    """Whether oneDNN packs weights in the layout that the kernels read: panels of 64 columns, pairs of inputs.

    It may choose another one on another processor or in another version.
    """
    weight = torch.arange(128 * 64, dtype=torch.int32).to(torch.int16).view(torch.bfloat16).view(128, 64)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    if int(torch.ops.mkldnn._nbytes(packed)) != weight.nbytes:
        return False
    found = ctypes.string_at(int(torch.ops.mkldnn.data_ptr(packed)), weight.nbytes)
    expected = weight.view(torch.int16).view(2, 64, 32, 2).permute(0, 2, 1, 3).contiguous()
    return found == expected.numpy().tobytes()

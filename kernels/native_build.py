"""Compiles the C kernels once for a machine, and loads them.

What is compiled lies in a cache folder under a name that says what it depends on (source, compiler, processor), and
what is in it: half a library would not fail to load, but end the process. OpenMP is that which torch brings along: the
library is linked without one and finds torch's symbols, so that both share one set of threads.
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
    """The C kernels are not for this machine or model; the message says why."""


class NativeBuildError(NativeError):
    """They could run here, but cannot be compiled or loaded; the message says why."""


def load_library(folder: Path) -> ctypes.CDLL:
    """The kernels' library, compiled into ``folder`` if it is not there.

    Raises:
        NativeError: Another processor or system, or torch's own kernels are asked for.
        NativeBuildError: No compiler, none that can compile them, or no room for what it makes.
    """
    if forced_backend() is not None:
        raise NativeError(f"backend={forced_backend()!r} is forced")
    flags = processor_flags()
    if missing := INSTRUCTIONS - flags:
        raise NativeError(f"the processor has no {', '.join(sorted(missing))}")
    if not hasattr(ctypes.CDLL(None), "GOMP_parallel"):
        raise NativeError("torch was built without GNU's OpenMP")
    compiler = _compiler()
    key = _digest(repr((compiler, Path(compiler).stat().st_size, OPTIONS, sorted(flags))).encode(), *_sources())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = _find(folder, key) or _compile(compiler, folder, key)
        library = ctypes.CDLL(str(path))
    except OSError as exc:
        raise NativeBuildError(f"{folder}: {exc}") from exc
    library.scratch_size.restype = ctypes.c_int64
    return library


def _find(folder: Path, key: str) -> Path | None:
    """What was compiled before, or None if it is not there or damaged."""
    for path in folder.glob(f"layers-{key}-*.so"):
        if path.stem.rpartition("-")[2] == _digest(path.read_bytes()):
            return path
        log.warning("%s is damaged, and made anew", path)
        path.unlink(missing_ok=True)
    return None


def _compiler() -> str:
    names = [os.environ["CC"]] if os.environ.get("CC") else ["gcc", "cc"]
    for name in names:
        if found := shutil.which(name):
            return found
    raise NativeBuildError(f"no C compiler ({' or '.join(names)}) is installed")


def _sources() -> list[bytes]:
    return [source.read_bytes() for source in sorted(SOURCES.glob("*.[ch]"))]


def _digest(*parts: bytes) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _compile(compiler: str, folder: Path, key: str) -> Path:
    """Compile to a file in ``folder``, which is there whole or not at all."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=folder) as own:
        made, linked = Path(own) / "layers.o", Path(own) / "layers.so"
        _call([compiler, *OPTIONS, "-c", str(SOURCES / "layers.c"), "-o", str(made)])
        _call([compiler, "-shared", str(made), "-o", str(linked), "-lm"])  # no -fopenmp: that would add a second one
        path = folder / f"layers-{key}-{_digest(linked.read_bytes())}.so"
        linked.replace(path)
    log.info("C kernels compiled in %.1f s", time.perf_counter() - started)
    return path


def _call(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise NativeBuildError(f"{command[0]}: {exc}") from exc
    if done.returncode:
        lines = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()
        raise NativeBuildError(f"{command[0]}: {next((line for line in lines if 'error' in line), lines[0])}")


@cache
def processor_flags() -> frozenset[str]:
    """What the processor can do, as Linux says; empty elsewhere."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return frozenset()
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    return frozenset(next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), []))


def packs_as_expected() -> bool:
    """Whether oneDNN packs weights in the layout that the kernels read: panels of 64 columns, pairs of inputs.

    It may choose another one on another processor or in another version; older versions of torch do not show it.
    """
    if not all(hasattr(torch.ops.mkldnn, name) for name in ("data_ptr", "_nbytes")):
        return False
    weight = torch.arange(128 * 64, dtype=torch.int32).to(torch.int16).view(torch.bfloat16).view(128, 64)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    if int(torch.ops.mkldnn._nbytes(packed)) != weight.nbytes:
        return False
    found = ctypes.string_at(int(torch.ops.mkldnn.data_ptr(packed)), weight.nbytes)
    expected = weight.view(torch.int16).view(2, 64, 32, 2).permute(0, 2, 1, 3).contiguous()
    return found == expected.numpy().tobytes()

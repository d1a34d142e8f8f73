"""Compiles Triton kernels for GPUs that are not there, and reads what they use from the machine code.

A kernel file says by a function ``aot()`` at which settings its kernels are launched; it yields tuples::

    (name, kernel, signature, constexprs, num_warps, num_stages, is_decode)

``signature`` maps argument names to types: ``"*bf16"``, ``"i32"``, or ``"i32:16"`` for an integer that is a multiple
of 16, as the launcher tells the compiler then. Pointers are taken to be multiples of 16, which torch's allocations are,
but for those that the kernel does not specialize.
What in ``constexprs`` is no argument is a launch option, such as ``maxnreg``. Arguments in it may be left out of the
signature, and None is among their values for tensors that are not given. Where
settings depend on the architecture the function takes it: ``aot(arch)``, 80 or 90.

Run as a script it compiles a share of the variants and prints a line of JSON for each. It is a process of its own since
``@triton.jit`` makes no compilable function where the interpreter is on.
"""

import importlib.util
import inspect
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ARCHS = (80, 90)
# More take longer to import torch than they save.
MAX_PROCESSES = 8
# What kernel files share.
WITHOUT_KERNELS = {"triton_launch"}
# Shared memory that a program may have, in bytes (CUDA C++ Programming Guide, compute capabilities).
MAX_SHARED = {80: 163 * 1024, 90: 227 * 1024}


@dataclass(frozen=True)
class Variant:
    """One kernel at one setting for one architecture; see the module's docstring."""

    file: Path
    arch: int
    name: str
    kernel: Any
    signature: dict[str, str]
    constexprs: dict[str, Any]
    num_warps: int
    num_stages: int
    is_decode: bool

    @property
    def id(self) -> str:
        """What tests call it."""
        return f"{self.file.stem}-{self.name}-sm_{self.arch}"


@dataclass(frozen=True)
class Usage:
    """What a compiled variant uses.

    Attributes:
        registers: Of a thread.
        shared: Bytes of a program's shared memory.
        stack: Bytes of a thread's local memory: registers that were spilled.
        seconds: Time to compile; next to nothing if it was in Triton's cache.
        error: Why it did not compile; empty if it did.
    """

    id: str
    registers: int = 0
    shared: int = 0
    stack: int = 0
    seconds: float = 0.0
    error: str = ""


def kernel_files() -> list[Path]:
    """The files of kernels, which say how they are launched."""
    files = sorted((ROOT / "kernels").glob("triton_*.py"))
    return [path for path in files if path.stem not in WITHOUT_KERNELS]


def variants(files: list[Path]) -> Iterator[Variant]:
    """Every variant of some files, architecture by architecture."""
    for file in files:
        aot = _load(file).aot  # a kernel that nobody compiles would go unnoticed, so there must be one
        for arch in ARCHS:
            for values in aot(arch) if inspect.signature(aot).parameters else aot():
                variant = Variant(file, arch, *values)
                yield variant


def compile_all(files: list[Path], ids: Collection[str] = (), num_processes: int | None = None) -> dict[str, Usage]:
    """Compile the variants of some files that have one of these ids (default: all of them); by id."""
    count = num_processes or min(os.cpu_count() or 1, MAX_PROCESSES)
    # One thread each: the cores are shared out by processes.
    env = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"} | {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
    }
    arguments = [sys.executable, str(Path(__file__).resolve()), str(count)]
    workers = [
        subprocess.Popen(
            [*arguments, str(index), *map(str, files)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )
        for index in range(count)
    ]
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write(json.dumps(list(ids)))
        worker.stdin.close()
        worker.stdin = None
    found = {}
    for worker in workers:
        out, _ = worker.communicate()
        if worker.returncode:
            raise RuntimeError(f"a compiling process ended with {worker.returncode}; its errors are above")
        for line in out.splitlines():
            usage = Usage(**json.loads(line))
            found[usage.id] = usage
    return found


def compile_variant(variant: Variant) -> Usage:
    """Compile one variant; a failure is in the result's ``error``."""
    from triton import compile as triton_compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = variant.kernel.arg_names
    constexprs = {name: value for name, value in variant.constexprs.items() if name in names}
    options = {name: value for name, value in variant.constexprs.items() if name not in names}
    types = {name: variant.signature.get(name, "constexpr") for name in names}
    types |= dict.fromkeys(constexprs, "constexpr")
    attrs = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(names)
        if _is_aligned(types[name]) and not variant.kernel.params[index].do_not_specialize_on_alignment
    }
    signature = {name: kind.partition(":")[0] for name, kind in types.items()}
    start = time.perf_counter()
    try:
        if missing := [name for name in names if types[name] == "constexpr" and name not in constexprs]:
            raise ValueError(f"neither in signature nor in constexprs: {', '.join(missing)}")
        compiled = triton_compile(
            ASTSource(variant.kernel, signature, constexprs, attrs),
            target=GPUTarget("cuda", variant.arch, 32),
            options={"num_warps": variant.num_warps, "num_stages": variant.num_stages, **options},
        )
    except Exception as exc:  # whatever it is, the other variants go on
        return Usage(variant.id, error=f"{type(exc).__name__}: {exc}")
    registers, stack = _resources(compiled.asm["cubin"])
    return Usage(variant.id, registers, compiled.metadata.shared, stack, round(time.perf_counter() - start, 2))


def _is_aligned(kind: str) -> bool:
    return kind.startswith("*") or kind.endswith(":16")


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of local memory of a thread."""
    from triton.backends import nvidia

    tool = Path(nvidia.__path__[0], "bin", "cuobjdump")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        out = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    # " REG:40 STACK:0 SHARED:1024 LOCAL:0 CONSTANT[0]:656 …", the function's after the file's own
    values = dict(word.split(":", 1) for word in out.split() if word.count(":") == 1)
    return int(values["REG"]), int(values["STACK"]) + int(values["LOCAL"])


def _load(file: Path) -> ModuleType:
    """A kernel file as the module it is, or a file from elsewhere by its path."""
    if file.parent == ROOT / "kernels":
        return importlib.import_module(f"alorakit.kernels.{file.stem}")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module


def main(count: str, index: str, *files: str) -> None:
    """Compile every ``count``-th variant, from the ``index``-th on, of those whose ids are read from the input."""
    ids = set(json.load(sys.stdin))
    chosen = [variant for variant in variants([Path(file) for file in files]) if not ids or variant.id in ids]
    for variant in chosen[int(index) :: int(count)]:
        print(json.dumps(asdict(compile_variant(variant))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

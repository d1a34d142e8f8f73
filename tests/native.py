"""Where the C kernels can run: marks for tests that need them."""

import shutil

import pytest

from alorakit.kernels import native_build

HAS_INSTRUCTIONS = native_build.processor_flags() >= native_build.INSTRUCTIONS
COMPILER = shutil.which("gcc") or shutil.which("cc")
needs_instructions = pytest.mark.skipif(not HAS_INSTRUCTIONS, reason="no processor with AVX512-BF16")
needs_native = pytest.mark.skipif(
    not (HAS_INSTRUCTIONS and COMPILER), reason="no processor with AVX512-BF16, or no C compiler"
)

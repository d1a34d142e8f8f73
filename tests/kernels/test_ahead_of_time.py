"""Every kernel at every setting in use compiles for sm_80 and sm_90, without a GPU, and fits."""

from pathlib import Path

import pytest

from .ahead_of_time import MAX_SHARED, Usage, Variant, compile_all, kernel_files, variants

TOYS = Path(__file__).with_name("toy_kernels.py")
VARIANTS = list(variants(kernel_files()))
# float16 compiles as bfloat16 does, at the same settings: make test-all looks.
PARAMS = [
    pytest.param(variant, id=variant.id, marks=[pytest.mark.slow] if "*fp16" in variant.signature.values() else [])
    for variant in VARIANTS
]


def faults(variant: Variant, usage: Usage) -> list[str]:
    """What is wrong with a compiled variant."""
    if usage.error:
        return [usage.error]
    wrong = []
    if variant.is_decode and usage.stack:
        wrong.append(f"spills {usage.stack} bytes")
    if usage.shared > MAX_SHARED[variant.arch]:
        wrong.append(f"{usage.shared} bytes of shared memory, the limit is {MAX_SHARED[variant.arch]}")
    return wrong


def table(usages: dict[str, Usage]) -> str:
    lines = [f"{'':60}{'registers':>10}{'shared':>9}{'spilled':>9}{'seconds':>9}"]
    for name in sorted(usages):
        usage = usages[name]
        lines.append(f"{name:60}{usage.registers:>10}{usage.shared:>9}{usage.stack:>9}{usage.seconds:>9.2f}")
    return "\n".join(lines)


@pytest.fixture(scope="module")
def usages(request) -> dict[str, Usage]:
    """The chosen variants' usage; printed past pytest's capture, for it is what this file is for."""
    chosen = [item.callspec.params.get("variant") for item in request.session.items if hasattr(item, "callspec")]
    found = compile_all(kernel_files(), [variant.id for variant in chosen if isinstance(variant, Variant)])
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n{table(found)}")
    return found


@pytest.mark.parametrize("variant", PARAMS)
def test_kernel_compiles_and_fits(variant, usages):
    assert faults(variant, usages[variant.id]) == []


def test_variants_have_names_of_their_own():
    names = [variant.id for variant in VARIANTS]
    assert len(set(names)) == len(names)


@pytest.fixture(scope="module")
def toys() -> dict[str, list[str]]:
    """The toy kernels' faults, by id."""
    found = compile_all([TOYS], num_processes=2)
    return {variant.id: faults(variant, found[variant.id]) for variant in variants([TOYS])}


@pytest.mark.parametrize("arch", MAX_SHARED)
def test_the_check_sees_what_does_not_fit(toys, arch):
    assert toys[f"toy_kernels-add-sm_{arch}"] == toys[f"toy_kernels-product-64-sm_{arch}"] == []
    assert "spills" in toys[f"toy_kernels-spills-256-sm_{arch}"][0]
    assert "bytes of shared memory" in toys[f"toy_kernels-shared-128-sm_{arch}"][0]
    assert "neither in signature nor in constexprs: n" in toys[f"toy_kernels-broken-sm_{arch}"][0]

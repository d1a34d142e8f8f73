"""Which adapter answers a check, and what decides it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from alorakit.bindings.checks.asked import writes
from alorakit.bindings.checks.verdict import Demand, demanded, passing_labels, quoted_labels
from alorakit.engine.errors import AdapterNotFoundError, CheckError
from alorakit.engine.manifest import Manifest

if TYPE_CHECKING:
    from alorakit.engine.adapters import AdapterInfo

CAPABILITY = "requirement-check"


def choose_adapter(
    adapters: "Mapping[str, AdapterInfo]", wanted: str | None = None, *, requirement: str | None = None
) -> "AdapterInfo":
    """Choose the adapter that answers a requirement.

    The one asked for; else, among those that have the most of the labels quoted in the requirement, the one whose
    capability is ``requirement-check``; else the only one with labels, or that answers with a text.

    Args:
        adapters: The engine's adapters, by name; not empty.
        wanted: Name that the requirement asks for, or None.
        requirement: The requirement in words, or None.

    Raises:
        AdapterNotFoundError: ``wanted`` is not loaded.
        CheckError: No adapter can check, or several can.
    """
    if wanted is not None:
        if wanted not in adapters:
            raise AdapterNotFoundError(f"no adapter named {wanted!r}; loaded are {sorted(adapters)}")
        return adapters[wanted]
    manifests = {name: info.manifest for name, info in adapters.items() if info.manifest is not None}
    quoted = {name: len(quoted_labels(manifest.labels, requirement or "")) for name, manifest in manifests.items()}
    manifests = {name: manifest for name, manifest in manifests.items() if quoted[name] == max(quoted.values())}
    able = [name for name, manifest in manifests.items() if manifest.capability == CAPABILITY]
    able = able or [name for name, manifest in manifests.items() if manifest.labels or writes(adapters[name])]
    if len(able) > 1:
        raise CheckError(f"adapters {sorted(able)} can all check; choose one with req(..., adapter=name)")
    if not able:
        raise CheckError(
            f"none of the adapters {sorted(adapters)} can check: no alorakit.json names their labels; train one with "
            "m alora train, or set backend.default_to_constraint_checking_alora = False to ask the base model"
        )
    return adapters[able[0]]


def labelled(info: "AdapterInfo") -> Manifest:
    """The adapter's manifest, which names its labels.

    Raises:
        CheckError: It has none: the adapter was made elsewhere, or answers with a text.
    """
    if writes(info):
        raise CheckError(f"adapter {info.name!r} answers with a text, not with one of some labels; nothing to score")
    if info.manifest is None or not info.manifest.labels:
        raise CheckError(
            f"adapter {info.name!r} cannot check: no alorakit.json in {info.path} names its layout and labels; "
            "train it with m alora train, or write the file"
        )
    return info.manifest


def deciding(info: "AdapterInfo", requirement: str | None) -> "frozenset[str] | Demand":
    """What decides a check: the labels that pass, or what the requirement says of a text.

    Raises:
        CheckError: Nothing does, or the adapter cannot check.
    """
    if writes(info):
        return demanded(requirement)
    manifest = labelled(info)
    return passing_labels(manifest.labels, requirement, manifest.pass_labels, manifest.fail_labels)

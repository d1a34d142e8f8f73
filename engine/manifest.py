"""``alorakit.json``: what an adapter folder records beside PEFT's two files."""

import json
from dataclasses import asdict, dataclass, fields
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any

from alorakit.engine.errors import AdapterError
from alorakit.engine.files import is_file, read_json_object
from alorakit.engine.layouts import LAYOUTS

MANIFEST_NAME = "alorakit.json"
# Labels that say by themselves which side they are on, whatever their case.
PASS_WORDS = frozenset({"yes", "true", "pass"})
FAIL_WORDS = frozenset({"no", "false", "fail"})


@dataclass(frozen=True)
class Manifest:
    """How an adapter was trained, so that inference asks exactly what was trained.

    Attributes:
        layout: Name of the check layout (see :mod:`alorakit.engine.layouts`): ``"chat"`` or ``"mellea"``.
        requirements: Whether training rows carried a requirement; if not, checks leave it out.
        labels: Every label seen in training, sorted.
        pass_labels: Labels that pass a check, if the trainer was told; else None.
        fail_labels: Labels that fail a check, if the trainer was told; else None.
        base_model: Name or folder of the base model.
        invocation: Text of the invocation, for people; the ids in ``adapter_config.json`` decide.
        capability: What the adapter is for (``"requirement-check"``), or None.
        metrics: Validation metrics of the saved epoch.
        answer: ``"label"``: one of ``labels``, by scoring them; ``"text"``: what the adapter generates.
        field: Of a text that is a JSON object: the field that holds the label, or None.
        temperature: What summed log-probabilities are divided by before labels' probabilities are taken from them,
            fitted on validation rows; 1 if it was not.
    """

    layout: str = "chat"
    requirements: bool = False
    labels: tuple[str, ...] = ()
    pass_labels: tuple[str, ...] | None = None
    fail_labels: tuple[str, ...] | None = None
    base_model: str = ""
    invocation: str = ""
    capability: str | None = None
    metrics: dict[str, float] = dataclass_field(default_factory=dict)
    answer: str = "label"
    field: str | None = None
    temperature: float = 1.0

    def to_json(self) -> str:
        """The file's text: UTF-8 JSON, two-space indent, final newline."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def load(cls, folder: str | Path) -> "Manifest | None":
        """Read ``alorakit.json`` of an adapter folder; None if the folder has none (a foreign adapter).

        Raises:
            AdapterError: The file is not JSON, has an unknown key, or a value of the wrong type.
        """
        path = Path(folder) / MANIFEST_NAME
        if not is_file(path):
            return None
        raw = read_json_object(path, AdapterError, "train again or delete the file")
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(raw) - known):
            raise AdapterError(f"{path}: unknown keys {unknown}; known keys are {sorted(known)}")
        manifest = cls(**{key: _checked(path, key, value) for key, value in raw.items()})
        for key, part in (("pass_labels", manifest.pass_labels), ("fail_labels", manifest.fail_labels)):
            if strange := sorted(set(part or ()) - set(manifest.labels)):
                raise AdapterError(f"{path}: {key} {strange} are not among labels {list(manifest.labels)}; add them")
        return manifest


def _checked(path: Path, key: str, value: Any) -> Any:
    nullable = key in ("pass_labels", "fail_labels", "capability", "field")
    if value is None and nullable:
        return None
    good, wanted = isinstance(value, str), "text"
    if key in ("labels", "pass_labels", "fail_labels"):
        texts = isinstance(value, list) and all(isinstance(item, str) and item for item in value)
        good, wanted = texts and len(set(value)) == len(value), "a list of distinct, non-empty strings"
    elif key == "layout":
        good, wanted = value in LAYOUTS, f"one of {', '.join(LAYOUTS)}"
    elif key == "requirements":
        good, wanted = isinstance(value, bool), "true or false"
    elif key == "answer":
        good, wanted = value in ("label", "text"), "'label' or 'text'"
    elif key == "temperature":
        good, wanted = type(value) in (int, float) and 0.01 <= value <= 100, "a number from 0.01 to 100"
    elif key == "metrics":
        good = isinstance(value, dict) and all(type(number) in (int, float) for number in value.values())
        wanted = "an object of numbers"
    if not good:
        raise AdapterError(f"{path}: {key}={value!r:.200} must be {wanted}{' or null' if nullable else ''}")
    return tuple(value) if isinstance(value, list) else value

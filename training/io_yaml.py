r"""``io.yaml``: Mellea 0.8's contract for an adapter, what its intrinsics rewriter and result processor go by.

Mellea (``mellea/formatters/granite/intrinsics``: util.py, input.py, output.py) parses an adapter's answer as JSON
and constrains decoding to ``response_format`` so that it is. Our adapters are trained to answer a bare label, which is
JSON only where the labels are numbers, or true and false. So:

- Labels that are JSON as they stand are asked for as they stand.
- Any other label is asked for as a JSON string. The constraint writes the quotes, and what the adapter chooses between
  them is its label. Without a constraint Mellea could not read the answer at all.
- A text is asked for as a JSON object with the adapter's field; where none is known, as any object, list or string.

Transformations then make the object that Mellea's contracts want: ``{"label": ...}``, or for a requirement check with
known sides ``{"requirement_check": {"score": 0..1}}``. Its ``likelihood`` rule takes the score from the label's first
token, so two labels that begin with the same token are told apart by the answer alone.

``instruction`` becomes one more user message, to which Mellea adds the chat template's generation prompt. That is as
near to a training row as a message can come: the invocation is there and activates the adapter, but between it and the
label lie the tokens that end a turn and begin the next.
"""

import json
import re
from typing import Any

import yaml

from alorakit.engine.manifest import FAIL_WORDS, PASS_WORDS, Manifest

IO_YAML_NAME = "io.yaml"
REQUIREMENT_CHECK = "requirement-check"
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,14}")
_TEXT_TOKENS = 1024
_ABOUT = "# How Mellea 0.8 asks this adapter and reads its answer; alorakit and PEFT do not need it.\n"


def io_yaml(manifest: Manifest) -> str:
    """Text of ``io.yaml``.

    Args:
        manifest: What the adapter was trained for.

    Returns:
        YAML with Mellea's required keys ``model``, ``response_format`` (a JSON schema, as text) and
        ``transformations``, and the optional ``instruction`` and ``parameters``; ``name`` where a capability is known.
    """
    name = {} if manifest.capability is None else {"name": manifest.capability}
    content = {
        **name,
        "model": None,  # whatever name the backend serves the adapter under
        "response_format": json.dumps(response_format(manifest), indent=2, ensure_ascii=False) + "\n",
        "transformations": _transformations(manifest),
        "instruction": _instruction(manifest),
        "parameters": {"max_completion_tokens": _max_tokens(manifest), "temperature": 0.0},
    }
    return _ABOUT + dump_yaml(content)


def response_format(manifest: Manifest) -> dict[str, Any]:
    """JSON schema of the adapter's answers, as Mellea asks for them."""
    if _scored(manifest):
        values = list(_values(manifest.labels).values())
        kind = {bool: "boolean", int: "integer", str: "string"}[type(values[0])]
        return {"type": kind, "enum": values}
    if manifest.field is not None:
        return {"type": "object", "properties": {manifest.field: {}}, "required": [manifest.field]}
    return {"type": ["object", "array", "string"]}


def dump_yaml(content: dict[str, Any]) -> str:
    """YAML in block style that reads back as ``content``, whatever characters its texts hold."""
    text: str = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    return text


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Writes texts of several lines as such, and escapes what does not print (YAML would change some of it)."""

    def represent_scalar(self, tag: str, value: Any, style: str | None = None) -> Any:
        lines = value.split("\n") if isinstance(value, str) and style is None else []
        if not all(line.isprintable() for line in lines):
            style = '"'
        elif len(lines) > 1:
            style = "|"
        return super().represent_scalar(tag, value, style)


def passing(manifest: Manifest) -> frozenset[str] | None:
    """The labels that pass a check whatever the requirement says; None if only a requirement can tell."""
    labels = frozenset(manifest.labels)
    passes, fails = manifest.pass_labels, manifest.fail_labels
    if passes is not None:
        told_all = fails is None or labels == {*passes, *fails}
        return frozenset(passes) if told_all else None
    if fails is not None:
        return labels - frozenset(fails)
    if labels and all(label.casefold() in PASS_WORDS | FAIL_WORDS for label in labels):
        return frozenset(label for label in labels if label.casefold() in PASS_WORDS)
    return None


def _scored(manifest: Manifest) -> bool:
    return manifest.answer == "label" and bool(manifest.labels)


def _values(labels: tuple[str, ...]) -> dict[str, bool | int | str]:
    """Each label as the JSON value that is asked for: itself, if all are true and false or all are integers."""
    if all(label in ("true", "false") for label in labels):
        return {label: label == "true" for label in labels}
    if all(_INTEGER.fullmatch(label) for label in labels):
        return {label: int(label) for label in labels}
    return {label: label for label in labels}


def _transformations(manifest: Manifest) -> list[dict[str, Any]]:
    if not _scored(manifest):
        return []
    passes = passing(manifest)
    if manifest.capability != REQUIREMENT_CHECK or passes is None:
        return [_nest("label")]
    # The rule looks the answer up by its value and the runners-up by their tokens; "true" is no spelling of True.
    spelled: dict[bool | int | str, str] = {value: label for label, value in _values(manifest.labels).items()}
    spelled |= {label: label for label, value in _values(manifest.labels).items() if isinstance(value, bool)}
    scores = {key: float(label in passes) for key, label in spelled.items()}
    likelihood = {"type": "likelihood", "input_path": [], "categories_to_values": scores}
    return [likelihood, _nest("score"), _nest("requirement_check")]


def _nest(field: str) -> dict[str, Any]:
    return {"type": "nest", "input_path": [], "field_name": field}


def _instruction(manifest: Manifest) -> str:
    """The last message; Mellea fills ``{requirement}`` in, and braces of ours are doubled."""
    invocation = manifest.invocation.replace("{", "{{").replace("}", "}}")
    if manifest.layout == "mellea":
        asked = "{requirement}\n" if manifest.requirements else ""
        return f"{asked}Requirement: <|end_of_text|>\n{invocation}"
    # On a line of its own, so that no token spans the requirement's end and the invocation's beginning.
    return f"Requirement: {{requirement}}\n{invocation}" if manifest.requirements else invocation


def _max_tokens(manifest: Manifest) -> int:
    """Enough for the longest answer: no token is less than a byte. The schema ends the answer sooner."""
    if not _scored(manifest):
        return _TEXT_TOKENS
    # Quotes included, and two for the end of sequence and a space that some tokenizers put first.
    return max(len(json.dumps(value)) for value in _values(manifest.labels).values()) + 2

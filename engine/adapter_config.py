"""``adapter_config.json`` as PEFT writes it: what is supported is read, everything else is refused by name."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alorakit.engine.errors import AdapterError
from alorakit.engine.files import is_file, read_json_object

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MAX_RANK = 256
MAX_ALPHA = 1e6
MAX_PATTERN_LENGTH = 1000
MAX_PATTERN_REPEATS = 8

# Fields that do not change what the adapter computes, whatever their value.
_HARMLESS = {
    "alora_invocation_tokens", "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config",
    "ensure_weight_tying", "eva_config", "exclude_modules", "inference_mode", "init_lora_weights", "layers_pattern",
    "layers_to_transform", "loftq_config", "lora_alpha", "lora_dropout", "lora_ga_config", "megatron_core",
    "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config",
    "target_modules", "task_type", "use_rslora",
}  # fmt: skip
# Initialisations that leave the base weights as they are; the others (PiSSA, OLoRA, LoftQ …) change them.
_PLAIN_INITS = ("gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class LoraSpec:
    """Rank and scaling of one adapted linear layer."""

    rank: int
    scaling: float


@dataclass(frozen=True)
class AdapterConfig:
    """What ``adapter_config.json`` says.

    Attributes:
        raw: The file's object.
        invocation_tokens: The aLoRA's invocation, or None for a plain LoRA.
        base_model: ``base_model_name_or_path``.
    """

    raw: Mapping[str, Any]
    invocation_tokens: tuple[int, ...] | None
    base_model: str

    @classmethod
    def load(cls, folder: str | Path) -> "AdapterConfig":
        """Read and check a folder's ``adapter_config.json``.

        Raises:
            AdapterError: No such file, not JSON, or a feature that is not supported.
        """
        path = Path(folder) / "adapter_config.json"
        if not is_file(path):
            raise AdapterError(f"{folder}: no adapter_config.json; an adapter folder holds it and its safetensors")
        raw = read_json_object(path, AdapterError, "save or download the adapter again")
        if refused := unsupported(raw):
            raise AdapterError(f"{path}: {refused[0]}")
        _check_types(path, raw)
        return cls(raw, _invocation(path, raw), str(raw.get("base_model_name_or_path") or ""))

    def modules(self, num_layers: int) -> dict[tuple[int, str], LoraSpec]:
        """The adapted linear layers, as PEFT's ``check_target_module_exists`` and ``get_pattern_key`` find them.

        Args:
            num_layers: Layers of the base model.

        Returns:
            (layer, target) -> rank and scaling.

        Raises:
            AdapterError: A rank is out of range, a pattern is no regular expression, or no module matches.
        """
        found: dict[tuple[int, str], LoraSpec] = {}
        try:
            for layer in range(num_layers):
                for target in TARGETS:
                    key = module_path(layer, target)
                    if self._adapts(key, layer, target):
                        found[layer, target] = self._spec(key)
        except (re.error, RecursionError, OverflowError) as exc:
            raise AdapterError(f"target_modules or a pattern is not a regular expression ({exc})") from exc
        if not found:
            raise AdapterError(
                f"target_modules={self.raw.get('target_modules')!r} matches no linear layer of the base model; "
                f"supported: {', '.join(TARGETS)}"
            )
        return found

    def _adapts(self, key: str, layer: int, target: str) -> bool:
        wanted, excluded = self.raw.get("target_modules"), self.raw.get("exclude_modules")
        if excluded and _matches(excluded, key):
            return False
        if wanted == "all-linear":
            return True
        if not wanted or not _matches(wanted, key):
            return False
        layers = self.raw.get("layers_to_transform")
        if layers is None or layers == [] or isinstance(wanted, str):
            return True
        return layer in ([layers] if isinstance(layers, int) else layers)

    def _spec(self, key: str) -> LoraSpec:
        rank = _pattern_value(self.raw.get("rank_pattern"), key, self.raw.get("r", 8))
        alpha = _pattern_value(self.raw.get("alpha_pattern"), key, self.raw.get("lora_alpha", 8))
        if type(rank) is not int or not 1 <= rank <= MAX_RANK:
            raise AdapterError(f"rank {rank!r:.80} of {key} must be an integer from 1 to {MAX_RANK}")
        if type(alpha) not in (int, float) or not abs(alpha) <= MAX_ALPHA:
            raise AdapterError(f"lora_alpha {alpha!r:.80} of {key} must be a number, at most {MAX_ALPHA:g} in size")
        return LoraSpec(rank, alpha / (math.sqrt(rank) if self.raw.get("use_rslora") else rank))


def module_path(layer: int, target: str) -> str:
    """Dotted path of a linear layer in the Hugging Face model."""
    block = "self_attn" if target in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
    return f"model.layers.{layer}.{block}.{target}"


def tensor_name(layer: int, target: str, which: str) -> str:
    """PEFT's name of ``lora_A`` or ``lora_B`` of a linear layer."""
    return f"base_model.model.{module_path(layer, target)}.lora_{which}.weight"


def _matches(wanted: str | list[str], key: str) -> bool:
    if isinstance(wanted, str):
        return re.fullmatch(wanted, key) is not None
    return any(key == name or key.endswith(f".{name}") for name in wanted)


def _pattern_value(patterns: Mapping[str, Any] | None, key: str, default: Any) -> Any:
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", key):
            return value
    return default


def unsupported(raw: Mapping[str, Any]) -> list[str]:
    """Every setting that is not supported, each with why or what to do; empty for a plain LoRA or aLoRA."""
    found = []
    if raw.get("peft_type", "LORA") != "LORA":
        found.append(f"peft_type={raw['peft_type']!r} is not supported; supported: LORA")
    if raw.get("invocation_string") or raw.get("alora_invocation_string"):
        found.append(
            "legacy invocation_string is not supported (its activation is off by one against PEFT); "
            "convert the adapter to alora_invocation_tokens with PEFT 0.18 or later"
        )
    if raw.get("bias", "none") != "none":
        found.append(f"bias={raw['bias']!r} is not supported; only bias='none'")
    init = raw.get("init_lora_weights", True)
    if not (init is None or isinstance(init, bool) or init in _PLAIN_INITS):
        found.append(
            f"init_lora_weights={init!r} changes the base weights and is not supported; "
            "convert it to a plain LoRA with PEFT's save_pretrained(path_initial_model_for_weight_conversion=...)"
        )
    known = {*_HARMLESS, "invocation_string", "alora_invocation_string"}
    found += [
        f"{name}={value!r} is not supported; train a plain LoRA or aLoRA"
        for name, value in raw.items()
        if name not in known and value not in (None, False, [], {}, "")
    ]
    return found


def _check_types(path: Path, raw: Mapping[str, Any]) -> None:
    """Refuse values of the wrong type, and patterns whose matching may never end."""

    def names(value: Any) -> bool:
        return isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))

    def indices(value: Any) -> bool:
        return type(value) is int or (isinstance(value, list) and all(type(item) is int for item in value))

    wanted: dict[str, tuple[Callable[[Any], bool], str]] = {
        "target_modules": (names, "a string or a list of strings"),
        "exclude_modules": (names, "a string or a list of strings"),
        "layers_to_transform": (indices, "a layer's index or a list of those"),
        "rank_pattern": (lambda value: isinstance(value, dict), "an object"),
        "alpha_pattern": (lambda value: isinstance(value, dict), "an object"),
        "use_rslora": (lambda value: isinstance(value, bool), "true or false"),
        "base_model_name_or_path": (lambda value: isinstance(value, str), "a string"),
    }
    for key, (good, kind) in wanted.items():
        value = raw.get(key)
        if value is not None and not good(value):
            raise AdapterError(f"{path}: {key}={value!r:.80} must be {kind}, or null")
        # In a list the names are compared as they are.
        for pattern in value if isinstance(value, dict) else [value] if isinstance(value, str) else []:
            if key != "base_model_name_or_path" and (fault := _pattern_fault(pattern)):
                raise AdapterError(f"{path}: {key}={pattern!r:.80} {fault}; write a simpler pattern, or list the names")


def _pattern_fault(pattern: str) -> str | None:
    """Why matching a regular expression may take for ever, or None; errs on the side of refusing."""
    if len(pattern) > MAX_PATTERN_LENGTH:
        return f"has {len(pattern)} characters, the limit is {MAX_PATTERN_LENGTH}"
    # Escapes and character classes become one plain character each, group openings lose their (?: or (?P<name>.
    plain = re.sub(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", "x", pattern, flags=re.DOTALL)
    plain = re.sub(r"\(\?(?:P?<\w+>|P=|<?[=!]|[a-zA-Z:>-]*)", "(", plain)
    repeats, choices = r"(?:[*+?]|\{[\d,]+\})[?+]?", r"[*+|]|\{[\d,]+\}"
    if len(re.findall(repeats, plain)) > MAX_PATTERN_REPEATS:
        return f"has more than {MAX_PATTERN_REPEATS} repetitions"
    open_groups: list[int] = []
    for index, char in enumerate(plain):
        if char == "(":
            open_groups.append(index)
        elif char == ")" and open_groups:
            inside = plain[open_groups.pop() + 1 : index]
            if plain[index + 1 : index + 2] in tuple("*+{") and re.search(choices, inside):
                return "repeats a group that holds a repetition or alternatives"
    return None


def _invocation(path: Path, raw: Mapping[str, Any]) -> tuple[int, ...] | None:
    tokens = raw.get("alora_invocation_tokens")
    if tokens is None:
        return None
    good = isinstance(tokens, list) and tokens and all(isinstance(t, int) and not isinstance(t, bool) for t in tokens)
    if not good:
        raise AdapterError(f"{path}: alora_invocation_tokens={tokens!r} must be null or a non-empty list of token ids")
    return tuple(tokens)

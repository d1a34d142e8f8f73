"""Model options: Mellea's keys on one side, the engine's ``SamplingParams`` on the other."""

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from types import NoneType
from typing import Any

from alorakit.bindings.schemas import schema_of
from alorakit.bindings.session.kinds import demand
from alorakit.engine.errors import ConfigError
from alorakit.engine.request import SamplingParams

DEFAULT_MAX_NEW_TOKENS = 256


class ModelOption:
    """Keys of ``model_options``, with the values Mellea gives them; from ``TOP_P`` on they are this backend's own."""

    TOOLS = "@@@tools@@@"
    TOOL_CHOICE = "tool_choice"
    MAX_NEW_TOKENS = "@@@max_new_tokens@@@"
    SYSTEM_PROMPT = "@@@system_prompt@@@"
    TEMPERATURE = "temperature"
    CONTEXT_WINDOW = "@@@context_window@@@"
    THINKING = "@@@thinking@@@"
    SEED = "@@@seed@@@"
    STREAM = "@@@stream@@@"
    STREAM_TIMEOUT = "@@@stream_timeout@@@"
    STOP_SEQUENCES = "@@@stop_sequences@@@"
    LOGITS = "@@@logits@@@"
    RAW_LOGITS = "@@@raw_logits@@@"
    TOP_P = "top_p"
    TOP_K = "top_k"
    MIN_P = "min_p"
    MIN_TOKENS = "min_tokens"
    PRESENCE_PENALTY = "presence_penalty"
    FREQUENCY_PENALTY = "frequency_penalty"
    REPETITION_PENALTY = "repetition_penalty"


_OWN = ("top_p", "top_k", "min_p", "min_tokens", "presence_penalty", "frequency_penalty", "repetition_penalty")
_FIELDS = {
    ModelOption.MAX_NEW_TOKENS: "max_tokens",
    ModelOption.TEMPERATURE: "temperature",
    ModelOption.SEED: "seed",
    ModelOption.STOP_SEQUENCES: "stop",
    **{name: name for name in _OWN},
}
_KINDS: dict[str, type | tuple[type, ...]] = {
    ModelOption.SYSTEM_PROMPT: str,
    ModelOption.STREAM: bool,
    ModelOption.STREAM_TIMEOUT: Real,
    ModelOption.THINKING: (bool, str),
}
_KNOWN = (*_KINDS, *_FIELDS)
_UNSUPPORTED = {
    ModelOption.TOOLS: "this backend calls no tools",
    ModelOption.TOOL_CHOICE: "this backend calls no tools",
    ModelOption.CONTEXT_WINDOW: "set max_model_len where the engine is made",
    ModelOption.LOGITS: "ask the engine for SamplingParams(logprobs=...)",
    ModelOption.RAW_LOGITS: "ask the engine for SamplingParams(logprobs=...)",
}
# The same keys as a person would type them.
_ALIASES = {key.strip("@"): key for key in (*_KNOWN, *_UNSUPPORTED)} | {
    "max_tokens": ModelOption.MAX_NEW_TOKENS,
    "stop": ModelOption.STOP_SEQUENCES,
}


@dataclass(frozen=True)
class Options:
    """Model options, checked and split.

    Attributes:
        sampling: Fields of ``SamplingParams`` that the caller set.
        system_prompt: Text of the system message, or None.
        stream: Whether the text is wanted piece by piece.
        stream_timeout: Seconds to wait for each piece; None: as long as it takes.
        template: Variables for the chat template.
    """

    sampling: dict[str, Any]
    system_prompt: str | None = None
    stream: bool = False
    stream_timeout: float | None = None
    template: dict[str, Any] | None = None

    @classmethod
    def merge(cls, *layers: Mapping[str, Any] | None) -> "Options":
        """Merge option dictionaries, later ones winning; a value of None counts as not given.

        Raises:
            ConfigError: No mapping, an unknown or unsupported key, or a value of the wrong type.
        """
        for layer in layers:
            demand("model_options", layer, (Mapping, NoneType), ConfigError)
        given = ((key, value) for layer in layers for key, value in (layer or {}).items() if value is not None)
        merged = {_ALIASES.get(key, key): value for key, value in given}
        for key, remedy in _UNSUPPORTED.items():
            if key in merged:
                raise ConfigError(f"the model option {key!r} is not supported: {remedy}, and leave the option out")
        if unknown := sorted(repr(key) for key in merged if key not in _KNOWN):
            known = ", ".join(key.strip("@") for key in _KNOWN)
            raise ConfigError(f"unknown model options {', '.join(unknown)}; known ones are {known}")
        for key, kinds in _KINDS.items():
            demand(key, merged.get(key), (*(kinds if isinstance(kinds, tuple) else (kinds,)), NoneType), ConfigError)
        timeout = merged.get(ModelOption.STREAM_TIMEOUT)
        if timeout is not None and not timeout > 0:
            raise ConfigError(f"stream_timeout={timeout!r:.80} must be above 0 seconds; give more, or leave it out")
        stop = merged.get(ModelOption.STOP_SEQUENCES)
        if stop is not None:
            if not isinstance(stop, list | tuple) or not all(isinstance(text, str) for text in stop):
                raise ConfigError(f"{ModelOption.STOP_SEQUENCES} must be a list of strings, found {stop!r}")
            merged[ModelOption.STOP_SEQUENCES] = tuple(stop)
        return cls(
            {_FIELDS[key]: value for key, value in merged.items() if key in _FIELDS},
            merged.get(ModelOption.SYSTEM_PROMPT),
            merged.get(ModelOption.STREAM, False),
            merged.get(ModelOption.STREAM_TIMEOUT),
            _thinking(merged.get(ModelOption.THINKING)),
        )

    def params(self, attempt: int = 0, format: type[Any] | None = None) -> SamplingParams:
        """Sampling parameters of one attempt: greedy, and at most 256 new tokens, unless the caller said otherwise.

        A second greedy attempt would only repeat the first, so from attempt 1 on: with neither temperature nor seed
        set, temperature 0.7 and the attempt's number as seed; with a seed set, that seed plus the attempt's number.

        Args:
            attempt: Number of the attempt, from 0.
            format: Pydantic model whose JSON the text must be, or None.

        Raises:
            AlorakitError: A value out of its range, or a format that has no JSON schema.
        """
        fields: dict[str, Any] = {"max_tokens": DEFAULT_MAX_NEW_TOKENS, "temperature": 0.0, **self.sampling}
        if attempt and "seed" in self.sampling:
            fields["seed"] += attempt
        elif attempt and "temperature" not in self.sampling:
            fields |= {"temperature": 0.7, "seed": attempt}
        if format is not None:
            if not callable(getattr(format, "model_json_schema", None)):
                raise ConfigError(f"format={format!r:.80} has no model_json_schema; give a pydantic model's class")
            fields["structured"] = schema_of(format)
        return SamplingParams(**fields)


def _thinking(value: bool | str | None) -> dict[str, Any]:
    """What templates read: each family has its own name for the switch, and one for the effort."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {"reasoning_effort": value}
    return dict.fromkeys(("thinking", "think", "enable_thinking"), value)

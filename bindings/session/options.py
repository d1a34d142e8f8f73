"""Model options: Mellea's keys on one side, the engine's ``SamplingParams`` on the other."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any

from alorakit.bindings.session.kinds import demand
from alorakit.engine.errors import ConfigError
from alorakit.engine.request import SamplingParams

DEFAULT_MAX_NEW_TOKENS = 256


class ModelOption:
    """Keys of ``model_options``, with the values Mellea gives them."""

    MAX_NEW_TOKENS = "@@@max_new_tokens@@@"
    SYSTEM_PROMPT = "@@@system_prompt@@@"
    TEMPERATURE = "temperature"
    SEED = "@@@seed@@@"
    STOP_SEQUENCES = "@@@stop_sequences@@@"
    TOP_P = "top_p"
    TOP_K = "top_k"
    MIN_P = "min_p"
    MIN_TOKENS = "min_tokens"
    PRESENCE_PENALTY = "presence_penalty"
    FREQUENCY_PENALTY = "frequency_penalty"
    REPETITION_PENALTY = "repetition_penalty"


_FIELDS = {
    ModelOption.MAX_NEW_TOKENS: "max_tokens",
    ModelOption.TEMPERATURE: "temperature",
    ModelOption.SEED: "seed",
    ModelOption.STOP_SEQUENCES: "stop",
    **{
        name: name
        for name in (
            ModelOption.TOP_P,
            ModelOption.TOP_K,
            ModelOption.MIN_P,
            ModelOption.MIN_TOKENS,
            ModelOption.PRESENCE_PENALTY,
            ModelOption.FREQUENCY_PENALTY,
            ModelOption.REPETITION_PENALTY,
        )
    },
}
_KNOWN = (ModelOption.SYSTEM_PROMPT, *_FIELDS)
# The same keys as a person would type them.
_ALIASES = {
    "system_prompt": ModelOption.SYSTEM_PROMPT,
    "max_new_tokens": ModelOption.MAX_NEW_TOKENS,
    "max_tokens": ModelOption.MAX_NEW_TOKENS,
    "seed": ModelOption.SEED,
    "stop_sequences": ModelOption.STOP_SEQUENCES,
    "stop": ModelOption.STOP_SEQUENCES,
}


@dataclass(frozen=True)
class Options:
    """Model options, checked and split.

    Attributes:
        system_prompt: Text of the system message, or None.
        sampling: Fields of ``SamplingParams`` that the caller set.
    """

    system_prompt: str | None
    sampling: dict[str, Any]

    @classmethod
    def merge(cls, *layers: Mapping[str, Any] | None) -> "Options":
        """Merge option dictionaries, later ones winning; a value of None counts as not given.

        Raises:
            ConfigError: No mapping, an unknown key, or a value of the wrong type.
        """
        for layer in layers:
            demand("model_options", layer, (Mapping, NoneType), ConfigError)
        given = ((key, value) for layer in layers for key, value in (layer or {}).items() if value is not None)
        merged = {_ALIASES.get(key, key): value for key, value in given}
        if unknown := sorted(repr(key) for key in merged if key not in _KNOWN):
            known = ", ".join(key.strip("@") for key in _KNOWN)
            raise ConfigError(f"unknown model options {', '.join(unknown)}; known ones are {known}")
        system = merged.pop(ModelOption.SYSTEM_PROMPT, None)
        if system is not None and not isinstance(system, str):
            raise ConfigError(f"{ModelOption.SYSTEM_PROMPT} must be a string, found {system!r}")
        stop = merged.get(ModelOption.STOP_SEQUENCES)
        if stop is not None:
            if not isinstance(stop, list | tuple) or not all(isinstance(text, str) for text in stop):
                raise ConfigError(f"{ModelOption.STOP_SEQUENCES} must be a list of strings, found {stop!r}")
            merged[ModelOption.STOP_SEQUENCES] = tuple(stop)
        return cls(system, {_FIELDS[key]: value for key, value in merged.items()})

    def params(self, attempt: int = 0) -> SamplingParams:
        """Sampling parameters of one attempt: greedy, and at most 256 new tokens, unless the caller said otherwise.

        A second greedy attempt would only repeat the first, so from attempt 1 on: with neither temperature nor seed
        set, temperature 0.7 and the attempt's number as seed; with a seed set, that seed plus the attempt's number.

        Args:
            attempt: Number of the attempt, from 0.

        Raises:
            AlorakitError: A value out of its range.
        """
        fields: dict[str, Any] = {"max_tokens": DEFAULT_MAX_NEW_TOKENS, "temperature": 0.0, **self.sampling}
        if attempt and "seed" in self.sampling:
            fields["seed"] += attempt
        elif attempt and "temperature" not in self.sampling:
            fields |= {"temperature": 0.7, "seed": attempt}
        return SamplingParams(**fields)

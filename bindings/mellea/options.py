"""Mellea's model options: what the sampler, the chat template and the backend itself make of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mellea.backends import ModelOption
from mellea.backends._options import resolve_model_options
from mellea.backends.tools import MelleaTool
from mellea.core.base import AbstractMelleaTool
from mellea.helpers.async_helpers import DEFAULT_CHUNK_TIMEOUT

from alorakit.engine.errors import ConfigError
from alorakit.engine.request import SamplingParams

DEFAULT_MAX_NEW_TOKENS = 256
THINKING_VARIABLES = ("think", "thinking", "enable_thinking")
EFFORT_VARIABLE = "reasoning_effort"

# Other spellings of Mellea's own keys: those of transformers, of the OpenAI interface and of our session.
SPELLINGS = {
    "system": ModelOption.SYSTEM_PROMPT,
    "system_prompt": ModelOption.SYSTEM_PROMPT,
    "max_new_tokens": ModelOption.MAX_NEW_TOKENS,
    "max_tokens": ModelOption.MAX_NEW_TOKENS,
    "max_completion_tokens": ModelOption.MAX_NEW_TOKENS,
    "seed": ModelOption.SEED,
    "tools": ModelOption.TOOLS,
    "stream": ModelOption.STREAM,
    "stop": ModelOption.STOP_SEQUENCES,
    "stop_strings": ModelOption.STOP_SEQUENCES,
    "stop_sequences": ModelOption.STOP_SEQUENCES,
    **dict.fromkeys(THINKING_VARIABLES, ModelOption.THINKING),
}
# Sampling parameters that carry the engine's own names.
_SAMPLING = (
    "top_p",
    "top_k",
    "min_p",
    "min_tokens",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logprobs",
    "ignore_eos",
    "stop_token_ids",
)
_OTHERS = ("n", "min_new_tokens", "temperature", "do_sample", "tool_choice")
# The engine has its own answer to these, or none: said once, then ignored, as Mellea's other backends do.
IGNORED = {
    ModelOption.CONTEXT_WINDOW: "the engine's window is set once, by max_model_len",
    ModelOption.LOGITS: "the engine reports log-probabilities (logprobs=k), not logits",
    ModelOption.RAW_LOGITS: "the engine reports log-probabilities (logprobs=k), not logits",
    "use_cache": "the engine always reuses its cache",
    "return_dict_in_generate": "the thunk carries the engine's own output",
}


@dataclass(frozen=True)
class CallOptions:
    """Options of one call, checked and split.

    Attributes:
        merged: All of them, under Mellea's keys; what the thunk keeps.
        sampling: Fields of :class:`SamplingParams` that were given.
        template: Variables for the chat template.
        system_prompt: Text of the system message, or None.
        own_system_prompt: The same, if the call itself gives it.
        stream: Whether the thunk is to be filled piece by piece.
        stream_timeout: Seconds to wait for a piece; None: for ever.
        tool_choice: ``"auto"``, ``"none"`` or a tool's name; None if not given.
        ignored: Options that have no effect, and why.
    """

    merged: dict[str, Any]
    sampling: dict[str, Any]
    template: dict[str, Any]
    system_prompt: str | None = None
    own_system_prompt: str | None = None
    stream: bool = False
    stream_timeout: float | None = DEFAULT_CHUNK_TIMEOUT
    tool_choice: str | None = None
    ignored: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, defaults: Mapping[str, Any], given: Mapping[str, Any] | None, template_variables: frozenset[str]
    ) -> "CallOptions":
        """Merge a call's options over the backend's.

        Args:
            defaults: The backend's.
            given: The call's; they win.
            template_variables: What the chat template reads besides what it always gets.

        Raises:
            ConfigError: An option that nothing here understands, or one of the wrong type.
        """
        own = None if given is None else dict(given)
        merged = resolve_model_options(backend_defaults=dict(defaults), remap=SPELLINGS, call_options=own)
        asked = resolve_model_options(backend_defaults={}, remap=SPELLINGS, call_options=own)
        rest = {key: value for key, value in merged.items() if value is not None}
        ignored = {key: why for key, why in IGNORED.items() if rest.pop(key, None)}
        system = rest.pop(ModelOption.SYSTEM_PROMPT, None)
        if system is not None and not isinstance(system, str):
            raise ConfigError(f"the system prompt must be a string, found {system!r:.80}")
        timeout = merged.get(ModelOption.STREAM_TIMEOUT, DEFAULT_CHUNK_TIMEOUT)
        if timeout is not None and (type(timeout) not in (int, float) or not timeout > 0):
            raise ConfigError(f"stream_timeout={timeout!r:.80} must be seconds above 0, or None to wait for ever")
        choice = rest.pop(ModelOption.TOOL_CHOICE, None)
        if choice is not None and not isinstance(choice, str):
            raise ConfigError(f"tool_choice={choice!r:.80} must be 'auto', 'none' or the name of a tool")
        stream = rest.pop(ModelOption.STREAM, False)
        if not isinstance(stream, bool):
            raise ConfigError(f"stream={stream!r:.80} must be True or False")
        rest.pop(ModelOption.STREAM_TIMEOUT, None)
        _check_tools(rest.pop(ModelOption.TOOLS, None))
        thinking = _thinking(rest.pop(ModelOption.THINKING, None), template_variables)
        sampling = _sampling(rest)
        template = {key: rest.pop(key) for key in list(rest) if key in template_variables}
        if rest:
            known = sorted([*SPELLINGS, *_SAMPLING, *_OTHERS, *template_variables])
            raise ConfigError(
                f"unknown model options {sorted(map(str, rest))}; drop them, or use one of {', '.join(known)}"
            )
        own_system = asked.get(ModelOption.SYSTEM_PROMPT)
        return cls(merged, sampling, {**template, **thinking}, system, own_system, stream, timeout, choice, ignored)

    def params(self, **fixed: Any) -> SamplingParams:
        """Sampling parameters: greedy and at most 256 new tokens unless the caller says otherwise.

        Args:
            fixed: Fields that the caller's options do not change.

        Raises:
            RequestError: A value out of its range.
        """
        fields = {"max_tokens": DEFAULT_MAX_NEW_TOKENS, "temperature": 0.0, **self.sampling, **fixed}
        return SamplingParams(**fields)


def _sampling(options: dict[str, Any]) -> dict[str, Any]:
    """Take the sampling parameters out of ``options``; as in Mellea, a seed or a temperature asks for samples."""
    found = {name: options.pop(name) for name in _SAMPLING if name in options}
    if (least := options.pop("min_new_tokens", None)) is not None:
        found["min_tokens"] = least
    if (number := options.pop("n", 1)) != 1:
        raise ConfigError(f"n={number!r:.80} must be 1: a thunk holds one answer; call once for each")
    if (limit := options.pop(ModelOption.MAX_NEW_TOKENS, None)) is not None:
        found["max_tokens"] = limit
    stop = options.pop(ModelOption.STOP_SEQUENCES, None)
    if stop is not None:
        if not isinstance(stop, str | list | tuple):
            raise ConfigError(f"stop sequences must be a list of strings, found {stop!r:.80}")
        found["stop"] = stop if isinstance(stop, str) else tuple(stop)
    seed = options.pop(ModelOption.SEED, None)
    temperature = options.pop(ModelOption.TEMPERATURE, None)
    do_sample = options.pop("do_sample", None)
    if seed is not None:
        found["seed"] = seed
    if do_sample is False or temperature == 0:
        found["temperature"] = 0.0
    elif temperature is not None:
        found["temperature"] = temperature
    elif seed is not None or do_sample:
        found["temperature"] = 1.0
    return found


def _check_tools(tools: Any) -> None:
    named = isinstance(tools, Mapping) and all(isinstance(name, str) for name in tools)
    if tools is None or isinstance(tools, list | tuple) or named:
        values = list(tools.values() if named else tools or ())
        if all(isinstance(tool, AbstractMelleaTool if named else MelleaTool) for tool in values):
            return
    raise ConfigError(
        f"tools={tools!r:.80} must be a list of MelleaTool or a dict of them by name; make one of a function with "
        "MelleaTool.from_callable"
    )


def _thinking(value: Any, template_variables: frozenset[str]) -> dict[str, Any]:
    """The template's variable for thinking: an on-off one for a bool, the effort for a word; none if it has none."""
    if isinstance(value, bool):
        name = next((name for name in THINKING_VARIABLES if name in template_variables), None)
        return {} if name is None else {name: value}
    return {EFFORT_VARIABLE: value} if value is not None and EFFORT_VARIABLE in template_variables else {}

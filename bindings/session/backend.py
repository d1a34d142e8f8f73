"""The backend of a session: one engine, its adapters and the default model options."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alorakit.bindings.checks.choose import choose_adapter, deciding
from alorakit.bindings.checks.question import question
from alorakit.bindings.session.adapter import CustomIntrinsicAdapter
from alorakit.bindings.session.blocks import Message, ModelOutputThunk
from alorakit.bindings.session.context import Context
from alorakit.bindings.session.judge import judge
from alorakit.bindings.session.kinds import demand
from alorakit.bindings.session.options import Options
from alorakit.bindings.session.requirement import Requirement, ValidationResult
from alorakit.engine.errors import AdapterError, CheckError, ConfigError

if TYPE_CHECKING:
    from alorakit.engine.adapters import AdapterInfo
    from alorakit.engine.engine import Engine


class EngineBackend:
    """Runs a session's messages and checks on an :class:`~alorakit.Engine`.

    Args:
        model_id: Hub id or folder of the base model.
        engine: A ready engine, instead of ``model_id``; :meth:`close` leaves it open.
        model_options: Defaults for every call, by :class:`ModelOption` keys.
        config: Fields of ``EngineConfig`` for the engine built from ``model_id``.

    Attributes:
        engine: The engine.
        model_options: The defaults given.
        default_to_constraint_checking_alora: Whether a requirement that names no adapter is checked by one, where
            any is loaded. False: the base model judges.

    Raises:
        ConfigError: Neither or both of ``model_id`` and ``engine``, ``config`` besides ``engine``, or bad options.
        TypeError: ``config`` has an unknown field.
        AlorakitError: The model cannot be loaded.
    """

    def __init__(
        self,
        model_id: str | Path | None = None,
        *,
        engine: "Engine | None" = None,
        model_options: Mapping[str, Any] | None = None,
        **config: Any,
    ) -> None:
        if (model_id is None) == (engine is None):
            raise ConfigError("EngineBackend needs one of model_id and engine; give a model's name or a ready engine")
        if engine is not None and config:
            raise ConfigError(f"{sorted(config)} configure a new engine; a ready one already has its settings")
        if engine is not None and not hasattr(engine, "generate"):
            raise ConfigError(f"engine={engine!r} is no engine; give what Engine.from_pretrained returns")
        Options.merge(model_options)  # raise now rather than at the first call
        self.model_options = dict(model_options or {})
        self.default_to_constraint_checking_alora = True
        self._owns_engine = engine is None
        self.engine = engine if engine is not None else _load(str(model_id), config)

    def add_adapter(self, adapter: CustomIntrinsicAdapter, *, replace: bool = False) -> None:
        """Load an adapter. Warns if it names another base model; another shape raises.

        Args:
            adapter: What to load, and under which name.
            replace: Take the place of an adapter of that name.

        Raises:
            AdapterError: The folder is not there, cannot be loaded, or does not fit the base model.
        """
        demand("adapter", adapter, CustomIntrinsicAdapter, AdapterError)
        base, loaded = (Path(name).name for name in (adapter.base_model_name, self.engine.model_name))
        if base.casefold() != loaded.casefold():
            warnings.warn(
                f"adapter {adapter.name!r} names the base model {base!r}, but {loaded!r} is loaded", stacklevel=2
            )
        self.engine.add_adapter(adapter.name, adapter.folder(), replace=replace)

    def list_adapters(self) -> list[str]:
        """Names of the loaded adapters."""
        return list(self.engine.adapters)

    def generate(self, messages: Sequence[Message], options: Options, attempt: int = 0) -> ModelOutputThunk:
        """Generate the answer to a chat with the base model.

        Args:
            messages: The chat, system message included.
            options: Merged model options.
            attempt: Number of the attempt, from 0; see :meth:`Options.params`.

        Raises:
            AlorakitError: The chat is longer than the context window, or an option is out of its range.
        """
        ids = self.engine.tokenizer.render([message.as_dict() for message in messages], add_generation_prompt=True)
        [output] = self.engine.generate([ids], options.params(attempt))
        return ModelOutputThunk(
            output.text, tuple(output.token_ids), tuple(messages), output.usage, output.finish_reason
        )

    def ensure_checkable(self, requirement: Requirement) -> None:
        """See that a requirement can be decided; nothing is run.

        Raises:
            CheckError: It cannot be decided which adapter answers, or which of its labels pass.
            AdapterNotFoundError: The adapter that the requirement names is not loaded.
        """
        if requirement.validation_fn is None and (info := self._adapter_for(requirement)):
            deciding(info, requirement.description)

    def validate(self, requirement: Requirement, context: Context, messages: Sequence[Message]) -> ValidationResult:
        """Check one requirement: by its function, by an adapter, or by the base model as judge.

        Args:
            requirement: What to check.
            context: What a ``validation_fn`` is given.
            messages: The chat that a model is given.

        Raises:
            CheckError: It cannot be decided which adapter answers, or which of its labels pass; or a ``validation_fn``
                returned something else than a verdict.
            AdapterNotFoundError: The adapter that the requirement names is not loaded.
        """
        if requirement.validation_fn is not None:
            verdict = requirement.validation_fn(context)
            demand("what a validation_fn returns", verdict, (ValidationResult, bool), CheckError)
            return ValidationResult(verdict) if isinstance(verdict, bool) else verdict
        info = self._adapter_for(requirement)
        if info is None:
            return judge(self.engine, messages, requirement.description)
        asked = question(
            self.engine.tokenizer, info, [message.as_dict() for message in messages], requirement.description
        )
        [answer] = self.engine.batch([asked.request])
        found = asked.verdict(answer)
        return ValidationResult(
            bool(found.passed),
            reason=found.reason,
            score=found.score,
            label=found.label,
            probabilities=found.probabilities,
            usage=found.usage,
        )

    def _adapter_for(self, requirement: Requirement) -> "AdapterInfo | None":
        """The adapter that answers; None: the base model does."""
        adapters, wanted = self.engine.adapters, requirement.adapter
        if wanted is None and not (self.default_to_constraint_checking_alora and adapters):
            return None
        return choose_adapter(adapters, wanted, requirement=requirement.description)

    def close(self) -> None:
        """Free the engine, if this backend built it."""
        if self._owns_engine:
            self.engine.close()


def _load(model_id: str, config: dict[str, Any]) -> "Engine":
    from alorakit.engine.engine import Engine  # torch only now: importing the session stays cheap

    return Engine.from_pretrained(model_id, **config)

"""The backend: what Mellea calls."""

import asyncio
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mellea.backends.backend import FormatterBackend
from mellea.backends.model_ids import ModelIdentifier
from mellea.core import MelleaLogger, Requirement
from mellea.formatters import TemplateFormatter
from mellea.stdlib.components import Intrinsic

from alorakit.bindings.mellea.adapter_verbs import AdapterVerbs
from alorakit.bindings.mellea.adapters import Adapters
from alorakit.bindings.mellea.answers import Answers
from alorakit.bindings.mellea.chats import linear, refuse_media
from alorakit.bindings.mellea.checks import route
from alorakit.bindings.mellea.errors import NoAdapterError
from alorakit.bindings.mellea.options import CallOptions
from alorakit.bindings.mellea.thunks import PROVIDER
from alorakit.bindings.session.background import GENERATION
from alorakit.bindings.session.serving import give_back, give_back_soon, lease
from alorakit.engine.async_engine import AsyncEngine
from alorakit.engine.engine import Engine
from alorakit.engine.errors import ClosedError, ConfigError


class MelleaBackend(FormatterBackend, AdapterVerbs):  # type: ignore[misc]
    """Runs Mellea's programs on an :class:`~alorakit.Engine`.

    Calls may come from any number of threads and coroutines: they run in one batch, over one prefix cache.

    Args:
        model_id: Hub id or folder of the base model, or one of Mellea's model identifiers.
        formatter: Renders components; None: Mellea's templates.
        engine: A ready Engine or AsyncEngine, instead of loading ``model_id``; :meth:`close` leaves it open. An Engine
            must not be used besides until then; backends that share one are given the same AsyncEngine.
        default_to_constraint_checking_alora: Whether a plain requirement is checked by an adapter, where one can.
        model_options: Defaults for every call.
        config: Fields of ``EngineConfig`` for the engine that is built.

    Attributes:
        engine: The engine.

    Raises:
        ConfigError: Neither ``model_id`` nor ``engine``, or ``config`` besides ``engine``, or bad options.
        TypeError: ``config`` has an unknown field.
        AlorakitError: The model cannot be loaded.
    """

    def __init__(
        self,
        model_id: str | Path | ModelIdentifier | None = None,
        formatter: Any = None,
        *,
        engine: Engine | AsyncEngine | None = None,
        default_to_constraint_checking_alora: bool = True,
        model_options: dict[str, Any] | None = None,
        **config: Any,
    ) -> None:
        """See the class."""
        name = _model_name(model_id)
        if name is None and engine is None:
            raise ConfigError("MelleaBackend needs a model_id or a ready engine; give one")
        if engine is not None and config:
            raise ConfigError(f"{sorted(config)} configure a new engine; a ready one already has its settings")
        if engine is not None and not isinstance(engine, Engine | AsyncEngine):
            raise ConfigError(f"engine={engine!r:.80} is no engine; give what Engine.from_pretrained returns")
        built: Any = engine if engine is not None else Engine.from_pretrained(str(name), **config)
        try:  # rather than at the first call, and before a thread is started
            CallOptions.of(model_options or {}, None, built.tokenizer.template_variables)
        except ConfigError:
            if engine is None:
                built.close()
            raise
        self._owns_engine, self._shared = engine is None, isinstance(engine, AsyncEngine)
        self._user = object()
        self._serving = built if isinstance(built, AsyncEngine) else lease(built, self._user)
        self.engine: Engine = self._serving.engine
        self._model_id = name if name is not None else self.engine.model_name
        shown: Any = model_id if model_id is not None else self._model_id
        super().__init__(
            shown,
            formatter if formatter is not None else TemplateFormatter(model_id=shown),
            model_options=model_options,
        )
        self._provider = PROVIDER
        self.default_to_constraint_checking_alora = default_to_constraint_checking_alora
        self._serve_adapters(Adapters(self.engine))
        self._answers = Answers(self._serving, self._adapters, self.formatter, self._model_id)
        if not self._shared:  # what nobody closed is let go with its last answer: the answers live as long as these
            weakref.finalize(self._answers, give_back_soon, GENERATION.loop, self.engine, self._user)

    # --- generation -----------------------------------------------------------------------------------------------

    async def _generate_from_context(
        self,
        action: Any,
        ctx: Any,
        *,
        format: Any = None,
        model_options: dict[str, Any] | None = None,
        tool_calls: bool = False,
    ) -> tuple[Any, Any]:
        """Answer an action; a requirement or an adapter function goes to its adapter.

        Raises:
            AlorakitError: The chat, an option or an adapter cannot be used, or no adapter can decide.
        """
        self._raise_if_closed()
        await self.do_generate_walk(action)
        options = self._options(model_options)
        if isinstance(action, Requirement):
            key = route(self._adapters, action, self.default_to_constraint_checking_alora)
            if key is not None:
                return self._answers.check(action, ctx, key, options)
        elif isinstance(action, Intrinsic):
            key = self._adapters.find(action.intrinsic_name, tuple(kind.value for kind in action.adapter_types))
            if key is None:
                raise NoAdapterError(
                    f"this backend has no adapter for {action.intrinsic_name!r}; registered are "
                    f"{self.list_adapters()}; call add_adapter"
                )
            return self._answers.function(action, ctx, linear(ctx), key, options, tool_calls)
        return self._answers.chat(action, ctx, format, options, tool_calls)

    async def _generate_from_raw(
        self,
        actions: Sequence[Any],
        ctx: Any,
        *,
        format: Any = None,
        model_options: dict[str, Any] | None = None,
        tool_calls: bool = False,
    ) -> tuple[list[Any], dict[str, Any] | None]:
        """Answer texts without a chat template, all in one batch.

        Raises:
            AlorakitError: A text or an option cannot be used; nothing is run then.
        """
        self._raise_if_closed()
        refuse_media(actions)
        await self.do_generate_walks(list(actions))
        if tool_calls:
            MelleaLogger.get_logger().warning("texts without a chat carry no tools; tool_calls=True has no effect")
        options = self._options(model_options)
        thunks = await self._answers.raw(actions, format, options)
        usages = [thunk.generation.usage for thunk in thunks]
        names = ("prompt_tokens", "completion_tokens", "total_tokens")
        return thunks, {name: sum(usage[name] for usage in usages) for name in names} if thunks else None

    def _options(self, given: dict[str, Any] | None) -> CallOptions:
        options = CallOptions.of(self.model_options, given, self.engine.tokenizer.template_variables)
        for key, why in options.ignored.items():
            if key not in self._warned_about:
                self._warned_about.add(key)
                MelleaLogger.get_logger().warning("model option %s has no effect: %s", key.strip("@"), why)
        return options

    def close(self) -> None:
        """End every call and close the engine, unless it was given; calls on a given AsyncEngine go on."""
        self._closed = True
        if not self._shared:
            give_back(self.engine, self._user, wait=True, close=self._owns_engine)
        if self._owns_engine:
            self.engine.close()

    async def aclose(self) -> None:
        """As :meth:`close`, for callers in an event loop."""
        await asyncio.to_thread(self.close)

    def _raise_if_closed(self) -> None:
        if self._closed:
            raise ClosedError("this MelleaBackend is closed; make another, and a session over it")


def _model_name(model_id: Any) -> str | None:
    """The name to load a model by.

    Raises:
        ConfigError: An identifier that the Hub does not know, or something else than a name.
    """
    if isinstance(model_id, ModelIdentifier):
        if model_id.hf_model_name is None:
            raise ConfigError(f"{model_id!r:.120} has no name on the Hub; give one that has hf_model_name, or a folder")
        return str(model_id.hf_model_name)
    if model_id is None or isinstance(model_id, str | Path):
        return None if model_id is None else str(model_id)
    raise ConfigError(f"model_id={model_id!r:.80} must be a Hub id, a folder or a ModelIdentifier")

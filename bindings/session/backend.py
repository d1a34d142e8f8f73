"""The backend of a session: one engine, its adapters and the default model options."""

import asyncio
import inspect
import os
import warnings
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alorakit.bindings.checks.choose import choose_adapter, deciding
from alorakit.bindings.session.adapter import CustomIntrinsicAdapter
from alorakit.bindings.session.background import GENERATION
from alorakit.bindings.session.blocks import Message, Span, as_message, computed
from alorakit.bindings.session.checking import check_all
from alorakit.bindings.session.context import Context
from alorakit.bindings.session.flight import Flight
from alorakit.bindings.session.kinds import demand, refuse
from alorakit.bindings.session.options import Options
from alorakit.bindings.session.requirement import Requirement, default_output_to_bool
from alorakit.bindings.session.serving import give_back, give_back_soon, lease
from alorakit.bindings.session.thunk import ModelOutputThunk
from alorakit.bindings.session.validation import ValidationResult
from alorakit.bindings.session.watching import Watch
from alorakit.bindings.session.writing import write
from alorakit.engine.errors import AdapterError, CheckError, ClosedError, ConfigError

if TYPE_CHECKING:
    from alorakit.engine.adapters import AdapterInfo
    from alorakit.engine.async_engine import AsyncEngine
    from alorakit.engine.engine import Engine
    from alorakit.engine.request import RequestOutput


class EngineBackend:
    """Runs messages and checks of any number of sessions, threads and coroutines on one engine, in shared batches.

    Args:
        model_id: Hub id or folder of the base model.
        engine: A ready :class:`~alorakit.Engine` or :class:`~alorakit.AsyncEngine`, instead of ``model_id``;
            :meth:`close` leaves it open. An Engine may be used directly whenever no call of a session is under way.
        model_options: Defaults for every call, by :class:`ModelOption` keys.
        config: Fields of ``EngineConfig`` for the engine built from ``model_id``.

    Attributes:
        engine: The engine: its adapters, tokenizer and statistics.
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
        engine: "Engine | AsyncEngine | None" = None,
        model_options: Mapping[str, Any] | None = None,
        **config: Any,
    ) -> None:
        if (model_id is None) == (engine is None):
            raise ConfigError("EngineBackend needs one of model_id and engine; give a model's name or a ready engine")
        if engine is not None and config:
            raise ConfigError(f"{sorted(config)} configure a new engine; a ready one already has its settings")
        if engine is not None and not hasattr(engine, "batch"):
            raise ConfigError(f"engine={engine!r} is no engine; give what Engine.from_pretrained returns")
        Options.merge(model_options)  # raise now rather than at the first call
        self.model_options = dict(model_options or {})
        self.default_to_constraint_checking_alora = True
        self._owns_engine, self._closed, self._pid, self._user = engine is None, False, os.getpid(), object()
        given: Any = engine
        self._running: Any = given if inspect.iscoroutinefunction(getattr(given, "batch", None)) else None
        self.engine: Engine = _load(str(model_id), config) if given is None else getattr(self._running, "engine", given)
        weakref.finalize(self, give_back_soon, GENERATION.loop, self.engine, self._user)

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

    async def generate_from_context(
        self,
        action: Span,
        ctx: Context,
        *,
        format: type[Any] | None = None,
        model_options: Mapping[str, Any] | None = None,
        tool_calls: bool = False,
        attempt: int = 0,
        watch: Watch | None = None,
    ) -> tuple[ModelOutputThunk[Any], Context]:
        """Have the base model answer; it writes in the background from here on.

        Args:
            action: What to answer.
            ctx: What was said before.
            format: Pydantic model whose JSON the answer must be.
            model_options: Options for this call, over the backend's.
            tool_calls: False; this backend calls no tools.
            attempt: Number of the attempt, from 0; see :meth:`Options.params`.
            watch: Checks that stop it while it is written, or None.

        Returns:
            The output, which is not computed yet, and the context grown by action and output.

        Raises:
            AlorakitError: An option is unknown or out of its range, or an output in the context failed. What the engine
                refuses (a chat longer than its window) is raised when the output is awaited.
        """
        refuse("generate", tool_calls=tool_calls)
        running = self.running()
        options = Options.merge(self.model_options, model_options)
        params = options.params(attempt, format)
        await computed([*ctx.view_for_generation(), action])
        prompt = (*self.chat(ctx, options), as_message(action))
        ids = self.render(prompt, options)
        watched = None if watch is None else watch.over(prompt)
        flight = Flight(lambda flight: self._write(running, ids, params, options, watched, flight))
        thunk: ModelOutputThunk[Any] = ModelOutputThunk.under_way(flight, action, prompt)
        return thunk, ctx.add(action).add(thunk)

    async def check(
        self,
        requirements: Sequence[Requirement],
        context: Context,
        messages: Sequence[Message] | None = None,
        *,
        format: type[Any] | None = None,
        model_options: Mapping[str, Any] | None = None,
    ) -> list[ValidationResult]:
        """Check requirements: by their functions, by adapters, or by the base model as judge; models in one batch.

        Args:
            requirements: What to check.
            context: The chat, which ends with the output to check.
            messages: What adapters read instead of the chat, or None.
            format: Pydantic model whose JSON the judge's answer must be.
            model_options: Options for the judge, over the backend's.

        Returns:
            The verdicts, in order.

        Raises:
            CheckError: It cannot be decided which adapter answers, or which of its labels pass; there are no words to
                judge by, or no output; or a ``validation_fn`` returned something else than a verdict.
            AdapterNotFoundError: The adapter that a requirement names is not loaded.
        """
        return await check_all(self, requirements, context, messages, format, model_options)

    def ensure_checkable(self, requirement: Requirement) -> None:
        """See that a requirement can be decided; nothing is run.

        Raises:
            CheckError: It cannot be decided which adapter answers, or which of its labels pass.
            AdapterNotFoundError: The adapter that the requirement names is not loaded.
        """
        if requirement.decides_alone:
            return
        info, decide = self.adapter_for(requirement), requirement.output_to_bool
        if info is not None and decide is default_output_to_bool:
            deciding(info, requirement.description)
        elif info is None and not requirement.description:
            raise CheckError("a requirement without a description needs a validation_fn or an adapter to check it")
        elif info is None and decide is None:
            raise CheckError(f"{requirement!r} has output_to_bool=None: nothing reads the judge's answer; leave it out")

    def adapter_for(self, requirement: Requirement) -> "AdapterInfo | None":
        """The adapter that answers a requirement; None: the base model does. Raises as :meth:`ensure_checkable`."""
        adapters, wanted = self.engine.adapters, requirement.adapter
        if wanted is None and not (self.default_to_constraint_checking_alora and adapters):
            return None
        return choose_adapter(adapters, wanted, requirement=requirement.description)

    def chat(self, context: Context, options: Options) -> list[Message]:
        """What the model sees before the next message: the system prompt of the options, and the context's view."""
        history = [as_message(item) for item in context.view_for_generation()]
        return history if options.system_prompt is None else [Message("system", options.system_prompt), *history]

    def render(self, messages: Sequence[Message], options: Options) -> list[int]:
        """The ids of a chat that the assistant is to answer.

        Args:
            messages: The chat.
            options: Whose variables the chat template gets.

        Returns:
            The ids, the assistant's turn opened.
        """
        chat = [message.as_dict() for message in messages]
        return self.engine.tokenizer.render(chat, add_generation_prompt=True, **(options.template or {}))

    def running(self) -> "AsyncEngine":
        """What steps the engine for everybody: started at the first call, and again in a forked process.

        Raises:
            ClosedError: The backend is closed.
        """
        if self._closed:
            raise ClosedError("the session's backend is closed; make another EngineBackend, or start_session again")
        self.engine.check_open()
        if self._running is None or self._pid != os.getpid():
            self._running, self._pid = lease(self.engine, self._user), os.getpid()
        return self._running  # type: ignore[no-any-return]

    async def _write(self, *arguments: Any) -> "RequestOutput":
        """See :func:`write`; the backend lives as long as that takes."""
        return await write(*arguments)

    def close(self) -> None:
        """End what is under way and stop stepping; the engine is freed if this backend built it. May be repeated."""
        self._closed = True
        give_back(self.engine, self._user, wait=True, close=self._owns_engine)
        self._running = None
        if self._owns_engine:
            self.engine.close()

    async def aclose(self) -> None:
        """As :meth:`close`, for callers in an event loop."""
        await asyncio.to_thread(self.close)


def _load(model_id: str, config: dict[str, Any]) -> "Engine":
    from alorakit.engine.engine import Engine  # torch only now: importing the session stays cheap

    return Engine.from_pretrained(model_id, **config)

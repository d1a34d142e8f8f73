"""Answers to what Mellea asks: chats, checks, adapter functions and plain texts."""

import functools
from collections.abc import Sequence
from typing import Any

from mellea.backends import ModelOption
from mellea.backends.adapters import AdapterType
from mellea.backends.tools import (
    add_tools_from_context_actions,
    add_tools_from_model_options,
    convert_tools_to_json,
)
from mellea.stdlib.requirements import ALoraRequirement
from pydantic import BaseModel

from alorakit.bindings.checks.question import Question, question
from alorakit.bindings.history import GeneratedTexts, Message
from alorakit.bindings.mellea.adapters import Adapters
from alorakit.bindings.mellea.chats import as_messages, conversation, linear
from alorakit.bindings.mellea.checks import as_trained, asked_as_trained, judged, read, said, system_prompt_of
from alorakit.bindings.mellea.errors import StreamingUnsupportedError
from alorakit.bindings.mellea.hooks import reported
from alorakit.bindings.mellea.intrinsics import Chat, IntrinsicCall
from alorakit.bindings.mellea.options import THINKING_VARIABLES, CallOptions
from alorakit.bindings.mellea.thunks import Answered, Call, computed, start, written
from alorakit.bindings.schemas import schema_of
from alorakit.engine.async_engine import AsyncEngine
from alorakit.engine.errors import ClosedError, ConfigError, MissingInvocationError, RequestError
from alorakit.engine.mixed import GenerateRequest
from alorakit.engine.request import RequestOutput


class Answers:
    """Turns actions into requests, and the engine's answers into thunks. A thunk is returned at once, and filled later.

    Attributes:
        texts: The ids of what was generated.
    """

    def __init__(self, serving: AsyncEngine, adapters: Adapters, formatter: Any, model: str) -> None:
        """Answers of ``serving``, whose model is called ``model``."""
        self._serving, self._adapters, self._formatter, self._model = serving, adapters, formatter, model
        self._tokenizer = serving.tokenizer
        self.texts = GeneratedTexts()

    def chat(self, action: Any, ctx: Any, format: Any, options: CallOptions, tool_calls: bool) -> tuple[Any, Any]:
        """The base model's answer to a chat."""
        view = linear(ctx)
        messages = conversation(action, ctx, self._formatter, options.system_prompt)
        tools = self._tools(action, ctx, options, tool_calls and format is None)
        ids = self._tokenizer.render(
            self.texts.restore(messages),
            add_generation_prompt=True,
            **{"tools": convert_tools_to_json(tools) or None, **options.template},
        )
        params = options.params(**_structure(format))
        call = Call(
            action=action,
            view=view,
            prompt=messages,
            options=options,
            model=self._model,
            format=format,
            tools=tools,
            wants_tools=tool_calls,
            thinks=self._thinks(options),
            finished=functools.partial(self._remember, messages),
        )
        if options.stream:
            response: Any = self._serving.stream(ids, params)
        else:
            response = self._written(GenerateRequest(ids, params))
        thunk = start(call, response)
        return thunk, ctx.add(action).add(thunk)

    def check(self, requirement: Any, ctx: Any, key: str, options: CallOptions) -> tuple[Any, Any]:
        """A requirement's verdict, by an adapter in the layout it was trained with, else as its ``io.yaml`` says.

        Raises:
            AlorakitError: There is nothing to judge, or no way to tell which answers pass.
        """
        info, spans = self._adapters.info(key), judged(ctx)
        if not asked_as_trained(info):
            name = self._adapters.entry(key).name
            action = requirement
            if not isinstance(requirement, ALoraRequirement):
                action = ALoraRequirement(requirement.description, name, adapter_types=(AdapterType(info.kind),))
            return self.function(action, ctx, spans, key, options, tool_calls=False, requirement=requirement)
        asked_about = as_trained(spans)
        # A row of the training data had no system prompt; a chat had the one that it was generated under.
        system = (
            options.own_system_prompt if asked_about is not spans else options.system_prompt or system_prompt_of(ctx)
        )
        messages = as_messages(asked_about, self._formatter, system)
        asked = question(self._tokenizer, info, self.texts.restore(messages), requirement.description)
        verdict = reported(self._adapters.adapter(key), self._verdict(requirement, asked))
        thunk = start(Call(requirement, spans, messages, options, self._model, key), verdict)
        return thunk, ctx.add(requirement).add(thunk)

    def function(
        self,
        action: Any,
        ctx: Any,
        spans: list[Any],
        key: str,
        options: CallOptions,
        tool_calls: bool,
        requirement: Any = None,
    ) -> tuple[Any, Any]:
        """An adapter function over ``spans``, asked and read as its ``io.yaml`` says; ``requirement`` if that asks.

        Raises:
            AlorakitError: The chat cannot be rewritten, or the adapter has no ``io.yaml`` or is not loaded.
            StreamingUnsupportedError: The answer is to be streamed.
        """
        if options.stream:
            raise StreamingUnsupportedError(
                "Intrinsics do not support streaming, as their answers are read as a whole; drop ModelOption.STREAM"
            )
        self._adapters.info(key)  # say now that it is not loaded, and how to load it
        tools = self._tools(None, ctx, options, tool_calls)
        chat = Chat(spans, self._formatter, self._tokenizer, self.texts, tools)
        asked = IntrinsicCall(self._adapters.entry(key), action.intrinsic_kwargs, chat, options)
        call = Call(action, spans, asked.messages, options, self._model, key, tools=tools, wants_tools=tool_calls)
        thunk = start(call, reported(self._adapters.adapter(key), self._function(asked, requirement)))
        return thunk, ctx.add(action).add(thunk)

    async def raw(self, actions: Sequence[Any], format: Any, options: CallOptions) -> list[Any]:
        """Computed thunks for texts without a chat template, all in one batch.

        Raises:
            AlorakitError: A text or an option cannot be used; nothing is run then.
        """
        params = options.params(**_structure(format))
        prompts = [self._formatter.print(action) for action in actions]
        outputs = await self._serving.batch([GenerateRequest(self._start_of(prompt), params) for prompt in prompts])
        thunks = []
        for action, prompt, output in zip(actions, prompts, outputs, strict=True):
            assert isinstance(output, RequestOutput)
            call = Call(action, None, prompt, options, self._model, format=format)
            thunks.append(computed(call, written(output)))
        return thunks

    def _start_of(self, prompt: str) -> str | list[int]:
        """The prompt itself; where it comes to no token, the one that texts begin with, as transformers has it."""
        bos = self._tokenizer.bos_token_id
        return prompt if bos is None or self._tokenizer.encode(prompt) else [bos]

    async def _written(self, request: GenerateRequest) -> Answered:
        [output] = await self._serving.batch([request])
        assert isinstance(output, RequestOutput)
        return written(output)

    async def _verdict(self, requirement: Any, asked: Question) -> Answered:
        [answer] = await self._serving.batch([asked.request])
        return said(requirement, asked.verdict(answer), answer)

    async def _function(self, asked: IntrinsicCall, requirement: Any) -> Answered:
        try:
            [output] = await self._serving.batch([asked.request])
        except MissingInvocationError as exc:
            raise MissingInvocationError(f"{exc}; the instruction in {asked.where} is the place to add it") from exc
        assert isinstance(output, RequestOutput) and asked.request.sampling is not None
        if output.finish_reason == "abort":
            raise ClosedError("the engine was closed before the adapter had answered; make another and ask again")
        answered = asked.result(output, self._serving.engine.intake.matcher(asked.request.sampling))
        return answered if requirement is None else read(requirement, answered)

    def _remember(self, chat: Sequence[Message], output: RequestOutput) -> None:
        self.texts.add(chat, output.text, output.token_ids)

    def _thinks(self, options: CallOptions) -> bool:
        variables = self._tokenizer.template_variables
        return options.merged.get(ModelOption.THINKING) is not False and not variables.isdisjoint(THINKING_VARIABLES)

    def _tools(self, action: Any, ctx: Any, options: CallOptions, wanted: bool) -> dict[str, Any]:
        """The tools that the model is shown; the action's own replace others of the same name."""
        tools: dict[str, Any] = {}
        if not wanted or options.tool_choice == "none":
            return tools
        add_tools_from_model_options(tools, options.merged)
        add_tools_from_context_actions(tools, ctx.actions_for_available_tools())
        if action is not None:
            add_tools_from_context_actions(tools, [action])
        chosen = options.tool_choice
        if chosen in (None, "auto"):
            return tools
        if chosen not in tools:
            raise ConfigError(f"tool_choice={chosen!r} is none of the tools {sorted(tools)}; name one, or use 'auto'")
        return {chosen: tools[chosen]}


def _structure(format: Any) -> dict[str, Any]:
    """The sampling parameter that makes an answer obey ``format``.

    Raises:
        RequestError: It is no pydantic model, or has no JSON schema.
    """
    if format is None:
        return {}
    if not (isinstance(format, type) and issubclass(format, BaseModel)):
        raise RequestError(f"format={format!r:.80} must be a class that derives from pydantic.BaseModel")
    return {"structured": schema_of(format)}

"""Adapter functions through ``io.yaml``: Mellea rewrites the chat and reads the answer, the engine runs the adapter."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mellea.backends.tools import convert_tools_to_json
from mellea.formatters.granite import ChatCompletionResponse
from mellea.formatters.granite.base.util import _LLGUIDANCE_GRAMMAR_DEFAULTS
from mellea.helpers import message_to_openai_message, messages_to_docs

from alorakit.bindings.history import GeneratedTexts
from alorakit.bindings.mellea.adapters import Entry
from alorakit.bindings.mellea.chats import refuse_media, refuse_unwritten
from alorakit.bindings.mellea.options import CallOptions
from alorakit.bindings.mellea.thunks import PROVIDER, Answered
from alorakit.engine.errors import CheckError, RequestError
from alorakit.engine.mixed import GenerateRequest
from alorakit.engine.request import MAX_LOGPROBS, RequestOutput
from alorakit.engine.structured import Matcher
from alorakit.engine.tokenizer import Tokenizer

_RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt"})


@dataclass(frozen=True)
class Chat:
    """What an adapter function is asked about.

    Attributes:
        spans: Parts of the chat.
        formatter: Makes messages of them.
        tokenizer: The base model's.
        texts: The ids of what was generated.
        tools: Tools that the model is shown, by name.
    """

    spans: Sequence[Any]
    formatter: Any
    tokenizer: Tokenizer
    texts: GeneratedTexts
    tools: Mapping[str, Any]

    def request(self, system_prompt: str | None) -> dict[str, Any]:
        """The chat as a request in the OpenAI form, which Mellea's rewriter takes."""
        refuse_unwritten(self.spans)
        refuse_media(self.spans)
        chat = self.formatter.to_chat_messages(list(self.spans))
        messages = [message_to_openai_message(message, provider=PROVIDER) for message in chat]
        if system_prompt:
            messages.insert(0, {"role": "system", "content": system_prompt})
        functions = [tool["function"] for tool in convert_tools_to_json(dict(self.tools))]
        return {"messages": messages, "extra_body": {"documents": messages_to_docs(chat)}, "tools": functions or None}


class IntrinsicCall:
    """One call of an adapter function.

    Attributes:
        request: What the engine is given.
        messages: The chat as it was rewritten.
        where: The ``io.yaml``, for messages.
    """

    def __init__(self, entry: Entry, arguments: Mapping[str, Any], chat: Chat, options: CallOptions) -> None:
        """Rewrite a chat as the adapter's ``io.yaml`` says, its instruction filled with ``arguments``.

        Raises:
            RequestError: The chat cannot be rewritten, or the instruction needs an argument that is not there.
            CheckError: The adapter has no ``io.yaml``.
        """
        if entry.io is None:
            raise CheckError(
                f"adapter {entry.name!r} has no io.yaml in {entry.folder}, which says how Mellea asks it; write one, "
                "or train it again with m alora train"
            )
        asked = chat.request(options.system_prompt)
        self._entry, self._tokenizer = entry, chat.tokenizer
        self._processor, self.where = entry.io.processor(), entry.io.where
        try:
            rewritten = entry.io.rewriter(entry.name).transform(asked, **arguments)
        except (ValueError, TypeError, LookupError, AttributeError) as exc:
            raise RequestError(
                f"adapter {entry.name!r}: the chat cannot be rewritten as {entry.io.where} says: {exc}; give the "
                "missing argument, or a chat that has what it needs"
            ) from exc
        self._rewritten = rewritten
        body = rewritten.model_dump()
        extra = body.get("extra_body") or {}
        template = extra.get("chat_template_kwargs") or {}
        if taken := _RESERVED & template.keys():
            raise RequestError(f"chat_template_kwargs must not hold {sorted(taken)}, which the chat itself gives")
        self.messages = [{k: v for k, v in message.items() if v is not None} for message in body["messages"]]
        ids = chat.tokenizer.render(
            chat.texts.restore(self.messages),
            add_generation_prompt=True,
            **{"tools": body.get("tools"), "documents": extra.get("documents"), **options.template, **template},
        )
        self.request = GenerateRequest(ids, options.params(**_sampling(body, extra, options)), entry.engine_name)

    def result(self, output: RequestOutput, matcher: Matcher | None) -> Answered:
        """What the adapter's answer comes to.

        Args:
            output: The answer.
            matcher: At the start of the grammar that it obeys, if it obeys one.

        Raises:
            CheckError: The answer is not the JSON that ``io.yaml`` asks for.
        """
        try:
            response = ChatCompletionResponse.model_validate({"choices": [self._choice(output, matcher)]})
            text = self._processor.transform(response, self._rewritten).choices[0].message.content
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as exc:
            cut = "; it was cut off: raise max_new_tokens" if output.finish_reason == "length" else ""
            raise CheckError(
                f"adapter {self._entry.name!r} answered {output.text!r:.200}, which is not what its io.yaml asks for "
                f"({type(exc).__name__}: {exc}){cut}"
            ) from exc
        return Answered(text, output, output.usage, output.finish_reason, {"answer": output.text})

    def _choice(self, output: RequestOutput, matcher: Matcher | None) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant", "content": output.text}}
        if output.logprobs is not None:
            choice["logprobs"] = {"content": self._logprobs(output, matcher)}
        return choice

    def _logprobs(self, output: RequestOutput, matcher: Matcher | None) -> list[dict[str, Any]]:
        """Each token with its text, its log-probability and the likeliest others', the end of the text left out.

        The engine's log-probabilities are of all tokens. Others that the grammar forbids are left out, as Mellea's are
        taken after the grammar: one of them may begin like a category, or have no text and begin like any.
        """
        text_of, special, found, left = self._tokenizer.text_of, self._tokenizer.special_ids, [], output.text
        for index, (token_id, top) in enumerate(zip(output.token_ids, output.logprobs or [], strict=True)):
            text = text_of(token_id)
            if not left or token_id in special:
                break
            allowed = None if matcher is None else matcher.allowed(output.token_ids[:index])
            others = [i for i in top if i not in special and (allowed is None or allowed[i])]
            # Cut by length, as the text is: a token that is no whole character has another text on its own.
            found.append(
                {
                    **_token(left[: len(text)], top[token_id]),
                    "top_logprobs": [_token(text_of(i), top[i]) for i in others],
                }
            )
            left = left[len(text) :]
        return found


def _token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "bytes": list(text.encode("utf-8")), "logprob": logprob}


def _sampling(body: Mapping[str, Any], extra: Mapping[str, Any], options: CallOptions) -> dict[str, Any]:
    """Sampling parameters of a rewritten request, where the call's options do not say otherwise."""
    found: dict[str, Any] = {}
    schema = (extra.get("structured_outputs") or {}).get("json")
    if schema is not None:
        schema = json.loads(schema) if isinstance(schema, str) else schema
        found["structured"] = {**schema, "x-guidance": {**schema.get("x-guidance", {}), **_LLGUIDANCE_GRAMMAR_DEFAULTS}}
    for key, name in (("max_completion_tokens", "max_tokens"), ("temperature", "temperature"), ("top_p", "top_p")):
        if body.get(key) is not None and name not in options.sampling:
            found[name] = body[key]
    if body.get("logprobs"):
        # Mellea asks for ten of those that the schema allows; so that these are among the engine's, more are had.
        found["logprobs"] = MAX_LOGPROBS
    return found

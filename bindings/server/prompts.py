"""Chats as templates read them: messages in plain form, and the variables beside them."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from alorakit.bindings.history import Message
from alorakit.bindings.server.body import MAX_DEPTH, parse_inner
from alorakit.bindings.server.errors import HttpError
from alorakit.bindings.server.schemas_chat import ChatMessage, ChatRequest, ToolCall

if TYPE_CHECKING:
    from alorakit.engine.tokenizer import Tokenizer


def plain_messages(messages: Sequence[ChatMessage]) -> list[Message]:
    """The messages as templates read them: one text each, the arguments of tool calls as objects.

    Raises:
        HttpError: 400: a message without content, or arguments that are no JSON.
    """
    return [_plain(index, message) for index, message in enumerate(messages)]


def _plain(index: int, message: ChatMessage) -> Message:
    content = message.content
    if content is None:
        if not message.tool_calls:
            where = f"messages.{index}.content"
            raise HttpError(400, f"{where} is missing; give a text", param=where)
        content = ""
    if not isinstance(content, str):
        content = "\n".join(part.text for part in content)
    # Templates know no developer; the name is OpenAI's newer one for the system.
    plain: Message = {"role": "system" if message.role == "developer" else message.role, "content": content}
    for key in ("name", "tool_call_id"):
        if (value := getattr(message, key)) is not None:
            plain[key] = value
    if message.tool_calls:
        plain["tool_calls"] = [
            _plain_call(f"messages.{index}.tool_calls.{at}", call) for at, call in enumerate(message.tool_calls)
        ]
    return plain


def _plain_call(where: str, call: ToolCall) -> dict[str, Any]:
    try:
        arguments = parse_inner(call.function.arguments)
    except ValueError:
        path = f"{where}.function.arguments"
        told = f"{path}={call.function.arguments[:80]!r} is not JSON, or is nested more than {MAX_DEPTH} levels deep"
        raise HttpError(400, told, param=path) from None
    return {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": arguments}}


def template_variables(tokenizer: "Tokenizer", body: ChatRequest, model: str) -> dict[str, Any]:
    """What the template gets besides the messages: the request's variables, and tools unless none may be called.

    Raises:
        HttpError: 400: the template does not read them.
    """
    variables = dict(body.chat_template_kwargs or {})
    for name in variables.keys() - tokenizer.template_variables:
        raise HttpError(
            400,
            f"chat_template_kwargs.{name:.80} is not read by the chat template of {model!r}, which reads "
            f"{sorted(tokenizer.template_variables)}; leave it out",
            param=f"chat_template_kwargs.{name:.80}",
        )
    if body.tools and body.tool_choice != "none":
        if not re.search(r"\btools\b", tokenizer.chat_template or ""):
            raise HttpError(400, f"the chat template of {model!r} does not know tools; leave them out", param="tools")
        variables["tools"] = [tool.model_dump(exclude_none=True) for tool in body.tools]
    return variables

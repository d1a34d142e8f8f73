"""What a validation looks at: the chat so far, or a given output."""

from types import NoneType
from typing import Any

from alorakit.bindings.session.blocks import CBlock, Message, computed
from alorakit.bindings.session.context import Context
from alorakit.bindings.session.kinds import demand
from alorakit.bindings.session.thunk import ModelOutputThunk

Text = str | CBlock | ModelOutputThunk[Any]


async def target(context: Context, output: Text | None, input: Text | None) -> tuple[Context, list[Message] | None]:
    """Find what to check.

    Args:
        context: The session's context.
        output: What to check, or None: the last output.
        input: What ``output`` answers, if it is not known from ``output`` or the context.

    Returns:
        The context for functions and the judge: the session's, grown by ``input`` and by ``output`` unless that is its
        last part already. And what adapters read: None for that context's chat; ``input`` and ``output`` after the
        chat; or, for a text alone, one user message, which is how training renders a row's ``item``.

    Raises:
        RequestError: One of the two is of the wrong kind.
    """
    for name, given in (("output", output), ("input", input)):
        demand(name, given, (str, CBlock, ModelOutputThunk, NoneType))
    empty = context.is_root_node
    if input is not None:
        context = context.add(CBlock(input) if isinstance(input, str) else input)
    if output is None:
        return context, None
    answered = output if isinstance(output, ModelOutputThunk) else ModelOutputThunk(str(output))
    if context.node_data is not answered:
        context = context.add(answered)
    await computed(context.as_list())
    if input is not None:
        return context, context.written()
    row = not isinstance(output, ModelOutputThunk) or (empty and output.prompt is None)
    return context, [Message("user", str(answered))] if row else None

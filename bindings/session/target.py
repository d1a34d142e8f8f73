"""What a validation looks at: the chat so far, or a given output."""

from types import NoneType

from alorakit.bindings.session.blocks import CBlock, Message, ModelOutputThunk
from alorakit.bindings.session.context import Context, SimpleContext
from alorakit.bindings.session.kinds import demand
from alorakit.engine.errors import RequestError

Text = str | CBlock | ModelOutputThunk


def target(context: Context, output: Text | None, input: Text | None) -> tuple[Context, list[Message]]:
    """Find what to check.

    Args:
        context: The session's context, used where there is no ``output``.
        output: What to check, or None.
        input: What ``output`` answers, or None.

    Returns:
        The context for a ``validation_fn`` (it ends with the output), and the messages for a model: the chat so far;
        or ``input`` and ``output`` as user and assistant; or a generated output after the messages it answered; or a
        text alone as one user message, which is how training renders a row's ``item``.

    Raises:
        RequestError: ``input`` without ``output``, one of the wrong kind, or an empty context.
    """
    for name, given in (("output", output), ("input", input)):
        demand(name, given, (str, CBlock, ModelOutputThunk, NoneType))
    if output is None:
        if input is not None:
            raise RequestError("validate(input=...) needs output=... too; give both, or neither to check the chat")
        messages = context.messages()
        if not messages:
            raise RequestError("there is nothing to validate; generate first, or pass output=...")
        return context, messages
    answered = output if isinstance(output, ModelOutputThunk) else ModelOutputThunk(str(output))
    if input is not None:
        asked = Message("user", str(input))
        return SimpleContext().add(asked).add(answered), [asked, answered.as_message()]
    alone = SimpleContext().add(answered)
    return alone, alone.messages() if answered.prompt is not None else [Message("user", answered.value)]

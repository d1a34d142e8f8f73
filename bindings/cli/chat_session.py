"""A chat on one engine: answers are kept as the ids they were generated as, so that each turn reuses its past."""

from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from alorakit.bindings.checks.answering import answer_ids
from alorakit.bindings.checks.choose import choose_adapter
from alorakit.bindings.checks.question import Verdict, question
from alorakit.engine.errors import AdapterNotFoundError, CheckError, RequestError
from alorakit.engine.pretrained import resolve_adapter
from alorakit.engine.request import SamplingParams, Timing, Usage
from alorakit.training.interrupt import watched

if TYPE_CHECKING:
    from alorakit.engine.adapters import AdapterInfo
    from alorakit.engine.engine import Engine

# Greedy decoding would only say the same again.
RETRY_TEMPERATURE = 0.7
INTERRUPTED = "interrupted"

Message = dict[str, Any]


@dataclass(frozen=True)
class Turn:
    """An answer.

    Attributes:
        text: What was said.
        token_ids: Its ids.
        finish_reason: As the engine gives it, or ``"interrupted"``.
        adapter: Name of the adapter that answered, or None.
        usage: Token counts; None if it was interrupted.
        timing: Seconds; None if it was interrupted.
    """

    text: str
    token_ids: list[int]
    finish_reason: str
    adapter: str | None
    usage: Usage | None = None
    timing: Timing | None = None


class ChatSession:
    """Messages, and an engine that answers and checks them.

    Attributes:
        engine: The engine with its adapters.
        params: How answers are decoded.
        system: System message, or None.
        messages: The chat without the system message; generated ones carry their ``token_ids``.
        adapter: Name of the adapter that answers; None: the base model.
    """

    def __init__(self, engine: "Engine", params: SamplingParams, system: str | None = None) -> None:
        """An empty chat.

        Raises:
            RequestError: The model has no chat template.
        """
        if engine.tokenizer.chat_template is None:
            raise RequestError(
                f"model {engine.model_name!r} has no chat template; use an instruct model, or m alora generate"
            )
        self.engine, self.params, self.system = engine, params, system
        self.messages: list[Message] = []
        self.adapter: str | None = None

    def chat(self) -> list[Message]:
        """The whole chat, the system message included."""
        return self._whole(self.messages)

    def ask(self, text: str, show: Callable[[str], object]) -> Turn:
        """Say something and have it answered; both join the chat.

        Args:
            text: The user's message.
            show: Called with each piece of the answer. Ctrl-C ends the answer, and what there is of it is kept.

        Raises:
            AlorakitError: It cannot be answered; the chat is as it was.
        """
        return self._answer([*self.messages, {"role": "user", "content": text}], self.params, show)

    def retry(self, show: Callable[[str], object], temperature: float | None = None) -> Turn:
        """Answer the last message again; the new answer takes the place of the old one.

        Args:
            show: As for :meth:`ask`.
            temperature: Of this answer; None: the chat's, or ``RETRY_TEMPERATURE`` if that is greedy.

        Raises:
            RequestError: There is nothing to answer, or the temperature is out of range.
        """
        asked = self.messages[:-1] if self._answered else self.messages
        if not asked:
            raise RequestError("nothing was said yet; there is no answer to try again")
        chosen = temperature if temperature is not None else self.params.temperature or RETRY_TEMPERATURE
        return self._answer(asked, replace(self.params, temperature=chosen, seed=None), show)

    def undo(self) -> str:
        """Take the last message of the user back, with its answer.

        Returns:
            Its text.

        Raises:
            RequestError: There is none.
        """
        at = max((at for at, message in enumerate(self.messages) if message["role"] == "user"), default=None)
        if at is None:
            raise RequestError("nothing was said yet; there is nothing to undo")
        text = str(self.messages[at]["content"])
        del self.messages[at:]
        return text

    def choose(self, name: str | None) -> None:
        """Let an adapter answer from now on, or the base model (None).

        Raises:
            AdapterNotFoundError: It is not loaded.
        """
        if name is not None and name not in self.engine.adapters:
            loaded = ", ".join(sorted(self.engine.adapters)) or "none"
            raise AdapterNotFoundError(f"no adapter is called {name!r}; loaded: {loaded}; add one with /add name=DIR")
        self.adapter = name

    def add(self, name: str, place: str) -> "AdapterInfo":
        """Load an adapter.

        Raises:
            AdapterError: The name is taken, or the adapter cannot be loaded.
        """
        return self.engine.add_adapter(name, resolve_adapter(place))

    def check(self, name: str | None, requirement: str | None) -> "tuple[AdapterInfo, Verdict]":
        """Have an adapter check the chat.

        Args:
            name: The adapter; None: the one that can.
            requirement: The requirement in words, or None.

        Raises:
            CheckError: There is nothing to check, it is not clear which adapter checks, or it cannot.
            AdapterNotFoundError: It is not loaded.
        """
        if not self.messages:
            raise CheckError("nothing was said yet; there is nothing to check")
        if not self.engine.adapters:
            raise CheckError("no adapter is loaded; add one with /add name=DIR")
        try:
            info = choose_adapter(self.engine.adapters, name, requirement=requirement)
        except CheckError as exc:  # it speaks to programs
            raise CheckError(f"{exc}; in the chat: /check NAME, or /add name=DIR") from exc
        # Where no requirement is given, nobody asked for a verdict; it is told where the adapter knows it all the same.
        asked = question(self.engine.tokenizer, info, self.chat(), requirement, decide=requirement is not None)
        [answer] = self.engine.batch([asked.request])
        return info, asked.verdict(answer)

    def _whole(self, messages: list[Message]) -> list[Message]:
        return [*([] if self.system is None else [{"role": "system", "content": self.system}]), *messages]

    @property
    def _answered(self) -> bool:
        return bool(self.messages) and self.messages[-1]["role"] == "assistant"

    def _answer(self, messages: list[Message], params: SamplingParams, show: Callable[[str], object]) -> Turn:
        info = None if self.adapter is None else self.engine.adapters[self.adapter]
        prompt = answer_ids(self.engine.tokenizer, info, self._whole(messages))
        turn = self._told(prompt, params, show)
        if turn.token_ids:
            self.messages = [*messages, {"role": "assistant", "content": turn.text, "token_ids": turn.token_ids}]
        return turn

    def _told(self, prompt: list[int], params: SamplingParams, show: Callable[[str], object]) -> Turn:
        """Show an answer while it is written; the first Ctrl-C ends it after the step under way, a second at once."""
        ids: list[int] = []
        chunks = self.engine.stream(prompt, params, self.adapter)
        with suppress(KeyboardInterrupt), closing(chunks), watched() as interrupt:
            for chunk in chunks:
                ids += chunk.token_ids
                show(chunk.text)
                if chunk.output is not None:
                    out = chunk.output
                    return Turn(out.text, out.token_ids, out.finish_reason, self.adapter, out.usage, out.timing)
                if interrupt.asked:
                    break
        return Turn(self.engine.tokenizer.decode(ids), ids, INTERRUPTED, self.adapter)

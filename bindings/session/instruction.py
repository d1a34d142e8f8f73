"""The actions of ``instruct`` and ``query``."""

from collections.abc import Mapping, Sequence
from copy import copy
from types import NoneType
from typing import Any

from alorakit.bindings.session.blocks import CBlock, Span
from alorakit.bindings.session.component import Component, text_of
from alorakit.bindings.session.kinds import demand, listed, refuse
from alorakit.bindings.session.prompt import fill, instruction, query_text
from alorakit.bindings.session.requirement import Requirement, reqify
from alorakit.bindings.session.thunk import ModelOutputThunk

_TEXT = (str, CBlock, NoneType)


class Instruction(Component[str]):
    """Something to do, what the answer must meet, and what helps to do it.

    Args:
        description: The instruction.
        requirements: Listed in the prompt, but for those with ``check_only`` or without words.
        icl_examples: Examples listed in the prompt.
        grounding_context: Named texts put in the prompt.
        user_variables: Values for ``{{name}}`` placeholders in all of the texts; None: they are taken as they are.
        prefix: Text put before the description.
        output_prefix: Text put at the end, for the answer to go on from.
        images, audio: None; not supported.

    Raises:
        RequestError: An argument is of the wrong kind, or a placeholder has no value.
    """

    def __init__(
        self,
        description: str | CBlock | None = None,
        requirements: Sequence[Requirement | str] | None = None,
        icl_examples: Sequence[str | CBlock] | None = None,
        grounding_context: Mapping[str, str | Span] | None = None,
        user_variables: Mapping[str, str] | None = None,
        prefix: str | CBlock | None = None,
        output_prefix: str | CBlock | None = None,
        images: None = None,
        audio: None = None,
    ) -> None:
        refuse("Instruction", images=images, audio=audio)
        demand("grounding_context", grounding_context, (Mapping, NoneType))
        for name, text in (("description", description), ("prefix", prefix), ("output_prefix", output_prefix)):
            demand(name, text, _TEXT)

        def filled(text: Any) -> Any:
            return fill(str(text), user_variables) if isinstance(text, str | CBlock) else text

        self._description = filled(description)
        self._requirements = [
            _worded(reqify(r), filled) for r in listed("requirements", requirements, (str, Requirement))
        ]
        self._icl_examples: list[Span | str] = [filled(e) for e in listed("icl_examples", icl_examples, (str, CBlock))]
        self._grounding_context = {name: filled(given) for name, given in (grounding_context or {}).items()}
        self._prefix, self._output_prefix = filled(prefix), filled(output_prefix)
        self._repair_string: str | None = None

    @property
    def requirements(self) -> list[Requirement]:
        """What the answer must meet."""
        return self._requirements

    def copy_and_repair(self, repair_string: str) -> "Instruction":
        """The same instruction, with ``repair_string`` at its end, about what was wrong before."""
        repeated = copy(self)
        repeated._repair_string = repair_string
        return repeated

    def parts(self) -> list[Any]:
        """The examples and grounding texts that are no plain strings."""
        return [part for part in (*self._icl_examples, *self._grounding_context.values()) if not isinstance(part, str)]

    def format_for_llm(self) -> str:
        """The user message."""
        shown = [r.description for r in self._requirements if r.description and not r.check_only]
        return instruction(
            self._description or "",
            shown,
            [_text(example) for example in self._icl_examples],
            {name: _text(given) for name, given in self._grounding_context.items()},
            self._prefix,
            self._output_prefix,
            self._repair_string,
        )


class Query(Component[str]):
    """A question about an object.

    Args:
        obj: A component, an object with ``content_as_string()``, or anything whose ``str()`` tells what it is.
        query: The question.

    Raises:
        RequestError: The question is no string.
    """

    def __init__(self, obj: Any, query: str) -> None:
        demand("query", query, str)
        self._obj, self._query = obj, query

    @classmethod
    def about(cls, obj: Any, query: str) -> "Component[Any]":
        """The question ``query`` about ``obj``, in the object's own words where it has any (``get_query_object``)."""
        own = getattr(obj, "get_query_object", None)
        made = own(query) if callable(own) else cls(obj, query)
        demand("what get_query_object returns", made, Component)
        return made

    def parts(self) -> list[Any]:
        """The object, where it may still be under way."""
        return [self._obj] if isinstance(self._obj, Component | ModelOutputThunk) else []

    def format_for_llm(self) -> str:
        """The user message."""
        own = getattr(self._obj, "content_as_string", None)
        return query_text(str(own()) if callable(own) else _text(self._obj), self._query)


def _worded(requirement: Requirement, filled: Any) -> Requirement:
    """The requirement with its placeholders filled: itself, where there is nothing to fill."""
    text = filled(requirement.description)
    if text == requirement.description:
        return requirement
    worded = copy(requirement)
    worded.description = text
    return worded


def _text(part: object) -> str:
    return text_of(part) if isinstance(part, Component) else str(part)

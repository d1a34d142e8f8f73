"""What can be said to a model beside plain text."""

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from alorakit.bindings.session.kinds import demand

if TYPE_CHECKING:
    from alorakit.bindings.session.thunk import ModelOutputThunk

S = TypeVar("S")


class Component(Generic[S]):
    """Something that has a text for the model, and reads the answer. Subclass it for prompts of your own."""

    def parts(self) -> list[Any]:
        """The blocks, components and outputs that it is made of; those that are still generated are waited for."""
        return []

    def format_for_llm(self) -> str:
        """Its text in the prompt.

        Raises:
            NotImplementedError: A subclass has not said what it is.
        """
        raise NotImplementedError(f"{type(self).__name__} has no format_for_llm; write one that returns the prompt")

    def parse(self, computed: "ModelOutputThunk[Any]") -> S:
        """What the answer ``computed`` means: :attr:`ModelOutputThunk.parsed_repr`."""
        return self._parse(computed)

    def _parse(self, computed: "ModelOutputThunk[Any]") -> S:
        return str(computed)  # type: ignore[return-value]  # what S is unless a subclass says otherwise


def text_of(component: Component[Any]) -> str:
    """The component's text.

    Raises:
        RequestError: Its ``format_for_llm`` returns something else.
    """
    text = component.format_for_llm()
    demand(f"what format_for_llm of {type(component).__name__} returns", text, str)
    return text

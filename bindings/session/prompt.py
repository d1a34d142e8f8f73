"""Words put before the model, letter for letter those of Mellea 0.8; and filled placeholders."""

from collections.abc import Mapping, Sequence

from jinja2 import StrictUndefined
from jinja2.sandbox import SandboxedEnvironment

from alorakit.bindings.session.kinds import demand
from alorakit.engine.errors import RequestError

_JUDGE = (
    "Check whether the output below satisfies the requirement below.\n"
    "The conversation is provided so that you can interpret the requirement; judge only the output.\n"
    "Reply with 'yes' if the requirement is satisfied and 'no' otherwise.\n"
    "Do not include any other text in your response."
)


def fill(template: str, user_variables: Mapping[str, str] | None) -> str:
    """Fill ``{{name}}`` placeholders (jinja2, sandboxed); with None the text is taken as it is.

    Args:
        template: Text with placeholders.
        user_variables: Values by name. Their own braces are left alone.

    Raises:
        RequestError: A placeholder has no value, a value is no string, or the template is not valid jinja2 or fails.
    """
    if user_variables is None:
        return template
    demand("user_variables", user_variables, Mapping)
    for name, value in user_variables.items():
        demand("a key of user_variables", name, str)
        demand(f"user_variables[{name!r}]", value, str)
    environment = SandboxedEnvironment(undefined=StrictUndefined)
    try:
        return environment.from_string(template).render(user_variables)
    except Exception as exc:  # a template is a program: it may divide by zero, recurse, or ask for too much memory
        known = ", ".join(sorted(user_variables)) or "none"
        raise RequestError(
            f"cannot fill the template {template!r:.200}: {str(exc) or type(exc).__name__}; user_variables has: {known}"
        ) from exc


def instruction(
    description: str,
    requirements: Sequence[str] = (),
    icl_examples: Sequence[str] = (),
    grounding_context: Mapping[str, str] | None = None,
    prefix: str | None = None,
    output_prefix: str | None = None,
    repair: str | None = None,
) -> str:
    """The user message of an instruction; ``repair`` says what was wrong with an earlier answer."""
    grounding = [f"*  {f' [{name}] = ' if name else ''} {text}" for name, text in (grounding_context or {}).items()]
    parts = [
        f"{prefix}\n" if prefix else "",
        description,
        _section("Fulfill the following requirements:", [f"* {text}" for text in requirements]),
        _section("Here are some examples:", [f"* {text}" for text in icl_examples]),
        _section("Here is some grounding context:", grounding),
        f"\n{repair}" if repair else "",
        f"\n{output_prefix}" if output_prefix else "",
    ]
    return "".join(parts)


def query_text(content: str, query: str) -> str:
    """The user message that asks something about an object."""
    return f"For the following object please execute the following query.\nObject:\n{content}\n\nQuery:\n{query}"


def judge_question(requirement: str, output: str) -> str:
    """The user message that asks the base model whether an output meets a requirement."""
    return "".join(
        [_JUDGE, f"\n  Output: {output}" if output else "", f"\n  Requirement: {requirement}" if requirement else ""]
    )


def repair_note(faults: Sequence[str]) -> str:
    """What an instruction that is repeated says of the last answer."""
    return "\n".join(["The following requirements failed before:", *(f"* {fault}" for fault in faults)])


def repair_message(faults: Sequence[str]) -> str:
    """What the user says in the next turn about the last answer."""
    listed = "\n".join(f"* {fault}" for fault in faults)
    return f"The following requirements have not been met:\n{listed}\nPlease try again to fulfill the requirements."


def _section(title: str, lines: Sequence[str]) -> str:
    return "".join(f"\n{line}" for line in (title, *lines)) if lines else ""

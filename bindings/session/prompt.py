"""Words put before the model: filled templates, instructions and the judge's question."""

from collections.abc import Mapping, Sequence

from jinja2 import StrictUndefined
from jinja2.sandbox import SandboxedEnvironment

from alorakit.bindings.session.kinds import demand
from alorakit.engine.errors import RequestError


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
    environment = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
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
) -> str:
    """The user message of an instruction: prefix, description, requirements, examples, grounding, in that order."""
    parts = [prefix or "", description]
    parts.append(_section("Requirements:", requirements))
    parts.append(_section("Examples:", icl_examples))
    parts.append(_section("Context:", [f"[{name}] {text}" for name, text in (grounding_context or {}).items()]))
    return "\n\n".join(part for part in parts if part)


def judge_question(requirement: str) -> str:
    """The user message that asks the base model whether the last answer meets a requirement."""
    return (
        "Check the conversation above against this requirement.\n"
        f"Requirement: {requirement}\n"
        "Is the requirement satisfied? Answer with yes or no only."
    )


def _section(title: str, lines: Sequence[str]) -> str:
    return "\n".join([title, *(f"- {line}" for line in lines)]) if lines else ""

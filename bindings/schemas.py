"""JSON schemas of pydantic models, as an answer is to obey them."""

from typing import Any

from alorakit.engine.errors import RequestError


def schema_of(format: Any) -> Any:
    """The schema of a pydantic model, closed by :func:`fields_only`.

    Args:
        format: The model's class.

    Raises:
        RequestError: The model has no JSON schema.
    """
    try:
        return fields_only(format.model_json_schema())
    except Exception as exc:  # pydantic's own errors, and those of the model's own methods
        raise RequestError(
            f"format={format!r:.80} has no JSON schema ({' '.join(str(exc).split())[:200]}); give a pydantic model "
            "whose fields JSON can hold"
        ) from exc


def fields_only(schema: Any) -> Any:
    """The schema with every object kept to the fields it names, unless it says itself what else it takes.

    Pydantic ignores further fields, so its schemas allow them, and a small model that may go on writing fields does,
    until the answer is cut off.

    Args:
        schema: A JSON schema, or a part of one. It is not changed.

    Returns:
        The closed copy.
    """
    if isinstance(schema, list):
        return [fields_only(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {
        key: value if key in ("default", "const", "enum") else fields_only(value) for key, value in schema.items()
    }
    if schema.get("type") == "object" and "properties" in schema:
        closed.setdefault("additionalProperties", False)
    return closed

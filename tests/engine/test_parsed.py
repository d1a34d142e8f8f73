import pytest

from alorakit.engine.parsed import json_object, parsed


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        (" an answer\n", None, "an answer"),
        ('{"mode": "a", "n": 1}', "mode", "a"),
        ('{"mode": {"é": 1}}', "mode", '{"é": 1}'),
        ('{"mode": null}', "mode", "null"),
        ('{"mode": "a"} and more', "mode", None),
        ('{"n": 1}', "mode", None),
        ('["mode"]', "mode", None),
        ("[" * 100_000, "mode", None),
        ("", "mode", None),
    ],
)
def test_what_an_answer_says(text: str, field: str | None, value: str | None) -> None:
    assert parsed(text, field) == value


def test_only_an_object_is_one() -> None:
    assert json_object('{"a": 1}') == {"a": 1}
    assert json_object("3") is None

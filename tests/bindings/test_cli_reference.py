"""``docs/cli.md`` says what the commands are."""

from pathlib import Path

import pytest

from alorakit.bindings.cli.chat_loop import COMMANDS as CHAT_COMMANDS
from alorakit.bindings.cli.main import COMMANDS, alora_command
from alorakit.bindings.cli.reference import reference

DOCS = Path(__file__).resolve().parents[2] / "docs" / "cli.md"


def test_it_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    assert DOCS.read_text(encoding="utf-8") == reference(), (
        "docs/cli.md is out of date; run python -m alorakit.bindings.cli.reference > docs/cli.md"
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_in_it(name: str) -> None:
    section = reference().split(f"\n## {name}\n")[1].split("\n## ")[0]
    options = [one for one in alora_command(name).params if one.param_type_name == "option" and one.name != "help"]
    for option in options:
        assert all(f"`{word}" in section for word in (*option.opts, *option.secondary_opts)), option.opts
    assert "`--debug`" in section and "`--json`" in section
    assert section.count("| `--") == len(options)


def test_the_chats_commands_are_in_it() -> None:
    for name in CHAT_COMMANDS:
        assert f"| `/{name}" in reference()

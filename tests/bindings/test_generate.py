"""``m alora generate`` on a tiny model: what it prints is what the engine says."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from alorakit import Engine, SamplingParams
from alorakit.bindings.checks.answering import answer_ids
from alorakit.bindings.cli import generate_run
from alorakit.bindings.cli.main import m_app
from tests.engine.folders import make_adapter

PROMPTS = ["The pump vibrates.", "Is it the rod?"]
DEVICE = ["--device", "cpu", "--dtype", "float32"]


def run(folder: Path, *args: object, code: int = 0, stdin: str | None = None, tokens: int = 6) -> Any:
    command = ["alora", "generate", str(folder / "model"), *DEVICE, "--max-tokens", str(tokens), *map(str, args)]
    result = CliRunner().invoke(m_app(), command, input=stdin)
    assert result.exit_code == code, result.output
    return result


def objects(result: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_prompts_are_messages_of_a_chat(served_folder: Path, engine: Engine) -> None:
    found = objects(run(served_folder, *PROMPTS, "--json", "--logprobs", 2))
    asked = [engine.tokenizer.render(user(prompt), add_generation_prompt=True) for prompt in PROMPTS]
    wanted = engine.generate(asked, SamplingParams(max_tokens=6))
    assert [one["token_ids"] for one in found] == [one.token_ids for one in wanted]
    assert [(one["prompt"], one["text"], one["finish_reason"]) for one in found] == [
        (at, one.text, one.finish_reason) for at, one in enumerate(wanted)
    ]
    assert found[0]["usage"]["prompt_tokens"] == len(asked[0])
    assert len(found[0]["logprobs"]) == 6 and found[0]["timing"]["total_s"] > 0
    plain = run(served_folder, *PROMPTS).stdout
    assert plain == "".join(
        f"{start}== prompt {at + 1}\n{one.text}\n"
        for at, (start, one) in enumerate(zip(("", "\n"), wanted, strict=True))
    )


def test_without_a_chat(served_folder: Path, engine: Engine) -> None:
    [wanted] = engine.generate(PROMPTS[0], SamplingParams(max_tokens=6))
    for more in ((), ("--stream",)):
        assert run(served_folder, PROMPTS[0], "--no-chat", *more).stdout == wanted.text + "\n"


def test_every_adapter_answers_every_prompt(served_folder: Path, engine: Engine, tmp_path: Path) -> None:
    model = served_folder / "model"
    bare = make_adapter(tmp_path / "bare", model, ["q_proj"], 4, [301, 17], 7)
    lora = make_adapter(tmp_path / "lora", model, ["q_proj"], 4, None, 8)
    engine.add_adapter("bare", bare)
    engine.add_adapter("lora", lora)
    given = [f"--adapter={served_folder / 'parts'}", f"--adapter=bare={bare}", f"--adapter=lora={lora}"]
    found = objects(run(served_folder, *PROMPTS, *given, "--json"))
    assert [(one["prompt"], one["adapter"]) for one in found] == [
        (at, name) for at in range(2) for name in ("parts", "bare", "lora")
    ]
    closed = engine.tokenizer.render(user(PROMPTS[0]))
    opened = engine.tokenizer.render(user(PROMPTS[0]), add_generation_prompt=True)
    asked = {"parts": [*closed, 301, 17, 302], "bare": [*closed, 301, 17], "lora": opened}
    for one in found[:3]:
        [wanted] = engine.generate([asked[one["adapter"]]], SamplingParams(max_tokens=6), one["adapter"])
        assert (one["token_ids"], one["activation"]) == (wanted.token_ids, wanted.activation)


def test_a_template_that_invokes_the_adapter_itself(engine: Engine, served_folder: Path, tmp_path: Path) -> None:
    """The invocation of IBM's newer adapters is what opens the assistant's turn."""
    opened = engine.tokenizer.render(user("Hi"), add_generation_prompt=True)
    opening = opened[len(engine.tokenizer.render(user("Hi"))) :]
    folder = make_adapter(tmp_path / "own", served_folder / "model", ["q_proj"], 4, opening, 7)
    info = engine.add_adapter("own", folder)
    assert answer_ids(engine.tokenizer, info, user("Hi")) == opened


def test_an_adapter_with_requirements(served_folder: Path) -> None:
    given = ["Hi", f"--adapter={served_folder / 'checker'}"]
    assert "was trained with requirements" in run(served_folder, *given, code=2).stderr
    [found] = objects(run(served_folder, *given, "--requirement", "Be short.", "--json"))
    assert found["adapter"] == "checker" and found["activation"] == found["usage"]["prompt_tokens"] - 3


def test_files_and_standard_input(served_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate_run, "PROMPTS_PER_CALL", 2)
    rows = [PROMPTS[0], {"prompt": PROMPTS[0]}, {"messages": user(PROMPTS[0])}, user(PROMPTS[0])]
    text = "".join(json.dumps(row) + "\n\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(text)
    found = objects(run(served_folder, "-", "--file", tmp_path / "rows.jsonl", "--json", stdin=PROMPTS[0]))
    assert [one["prompt"] for one in found] == list(range(5))
    assert {tuple(one["token_ids"]) for one in found} == {tuple(found[0]["token_ids"])}
    assert len(objects(run(served_folder, "--file", "-", "--json", stdin=text))) == 4


def test_samples_and_a_grammar(served_folder: Path, tmp_path: Path) -> None:
    given = ["Hi", "-n", 3, "--temperature", 2, "--seed", 5, "--json"]
    found = objects(run(served_folder, *given))
    assert [one["sample"] for one in found] == [0, 1, 2]
    assert [one["token_ids"] for one in objects(run(served_folder, *given))] == [one["token_ids"] for one in found]
    (tmp_path / "s.json").write_text('["alpha", "beta"]')
    for structured in (tmp_path / "s.json", '["alpha", "beta"]', '"(alpha|beta)"'):
        assert run(served_folder, "Hi", "--structured", structured, tokens=30).stdout.strip() in ("alpha", "beta")


def test_a_system_message(served_folder: Path, engine: Engine) -> None:
    asked = engine.tokenizer.render([{"role": "system", "content": "Be short."}, *user("Hi")], True)
    [found] = objects(run(served_folder, "Hi", "--system", "Be short.", "--json"))
    assert found["token_ids"] == engine.generate([asked], SamplingParams(max_tokens=6))[0].token_ids


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "nothing to answer"),
        (["--file", "gone.jsonl"], "gone.jsonl is not a file"),
        (["Hi", "--temperature", "-1"], "temperature=-1.0"),
        (["Hi", "--structured", "{"], "neither a file nor JSON"),
        (["Hi", "--structured", "[]"], "at least one choice"),
        (["Hi", "--stream", "--json"], "--stream prints one answer"),
        (["Hi", "Ho", "--stream"], "--stream prints one answer"),
        (["Hi", "--no-chat", "--system", "x"], "parts of a chat"),
        (["Hi", "--adapter", "no/such/thing/at/all"], "is not a folder"),
        (["Hi", "--adapter", "=x"], "neither of them empty"),
        (["Hi", "--device", "tpu"], "device='tpu'"),
        (["Hi", "--requirement", "Be short."], "give --adapter"),
        (["Hi", "--logprobs", "2"], "shown by --json only"),
    ],
)
def test_bad_input(served_folder: Path, args: list[str], message: str) -> None:
    line = run(served_folder, *args, code=2).stderr
    assert message in line and line.count("\n") == 1


@pytest.mark.parametrize(
    "line", ["{", "3", "{}", '""', "[]", '{"prompt": "a", "messages": []}', '{"messages": [{"role": "user"}]}']
)
def test_bad_lines(served_folder: Path, tmp_path: Path, line: str) -> None:
    (tmp_path / "rows.jsonl").write_text(f'"fine"\n{line}\n')
    told = run(served_folder, "--file", tmp_path / "rows.jsonl", code=2).stderr
    assert f"{tmp_path / 'rows.jsonl'}:2: " in told and told.count("\n") == 1


def test_a_file_that_is_no_text(served_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b"\xff\x00")
    assert "cannot be read as UTF-8" in run(served_folder, "--file", tmp_path / "rows.jsonl", code=2).stderr


def test_two_adapters_of_one_name(served_folder: Path) -> None:
    twice = [f"--adapter={served_folder / 'parts'}"] * 2
    assert "two adapters are called 'parts'" in run(served_folder, "Hi", *twice, code=2).stderr

"""What serving does without is not imported: the engine runs where only torch and tokenizers are installed."""

import shutil
import subprocess
import sys

import pytest

UNNEEDED = (
    "llguidance",
    "rich",
    "jinja2",
    "huggingface_hub",
    "typer",
    "transformers",
    "peft",
    "triton",
    "matplotlib",
)

SCRIPT = """
import sys
from importlib.abc import MetaPathFinder

class Hide(MetaPathFinder):
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {unneeded} else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Hide(finder) for finder in sys.meta_path]
import alorakit
from alorakit import Engine, SamplingParams
assert not set({unneeded}) & set(sys.modules)
with Engine.from_pretrained({model!r}, device="cpu", dtype="float32", block_size=16) as engine:
    engine.add_adapter("a", {adapter!r})
    prompt = engine.tokenizer.encode("The pump vibrates") + [301, 17, 302]
    outs = engine.generate([prompt, prompt], SamplingParams(max_tokens=3, ignore_eos=True), adapter=["a", None])
    assert [len(out.token_ids) for out in outs] == [3, 3]
    engine.score(prompt, ["yes", "no"], adapter="a", end=False)
    for use in {uses}:
        try:
            use(engine, SamplingParams)
        except ImportError as exc:
            print(exc)
assert not set({unneeded}) & set(sys.modules)
"""
USES = """(
    lambda engine, params: engine.generate("a", params(structured=["yes", "no"])),
    lambda engine, params: Engine.from_pretrained("owner/model"),
)"""


@pytest.fixture
def bare_model(tiny_models, tmp_path):
    """A tiny model without a chat template."""
    folder = tmp_path / "bare"
    shutil.copytree(tiny_models["llama"], folder)
    (folder / "chat_template.jinja").unlink()
    return folder


def test_serving_imports_nothing_it_can_do_without(bare_model, make_adapter):
    script = SCRIPT.format(unneeded=UNNEEDED, model=str(bare_model), adapter=str(make_adapter(bare_model)), uses=USES)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # What does need a package asks for it there and then.
    assert done.stdout.splitlines() == ["No module named 'llguidance'", "No module named 'huggingface_hub'"]

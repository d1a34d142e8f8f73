"""The temperature of an adapter folder: probabilities follow it, and nothing else does."""

import shutil

import numpy as np
import pytest

from alorakit.engine.manifest import Manifest

from .test_parity import prompt_with

CANDIDATES = ["yes", "no, it does not", "y"]


@pytest.fixture
def folders(tiny_models, make_adapter, tmp_path):
    """The same weights twice: without ``alorakit.json``, and with a temperature of 2."""
    plain = make_adapter(tiny_models["llama"], seed=2)
    calibrated = shutil.copytree(plain, tmp_path / "calibrated")
    (calibrated / "alorakit.json").write_text(Manifest(temperature=2.0).to_json(), encoding="utf-8")
    return plain, calibrated


def test_probabilities_are_calibrated_and_log_probabilities_are_not(tiny_engine, folders):
    engine, prompt = tiny_engine(block_size=8), prompt_with(3, 1)
    infos = [engine.add_adapter(name, path) for name, path in zip(["plain", "calibrated"], folders, strict=True)]
    assert [info.temperature for info in infos] == [1.0, 2.0]
    assert infos[0].digest == infos[1].digest
    plain, calibrated = (engine.score(prompt, CANDIDATES, adapter=info.name) for info in infos)
    assert calibrated.usage.cached_tokens == len(prompt) - 1  # the other's keys and values serve it
    logprobs = np.array([score.logprob for score in plain])
    assert [score.logprob for score in calibrated] == pytest.approx(logprobs.tolist(), abs=1e-4)
    for scores, temperature in ((plain, 1.0), (calibrated, 2.0)):
        weights = np.exp((logprobs - logprobs.max()) / temperature)
        want = (weights / weights.sum()).tolist()
        assert [score.probability for score in scores] == pytest.approx(want, abs=1e-4)
    assert calibrated.best.text == plain.best.text


def test_the_base_model_is_not_calibrated(tiny_engine, folders):
    engine, prompt = tiny_engine(on_missing_invocation="base"), prompt_with(3, 0)
    base = engine.score(prompt, CANDIDATES)
    engine.add_adapter("calibrated", folders[1])
    asked_of_the_adapter = engine.score(prompt, CANDIDATES, adapter="calibrated")
    assert asked_of_the_adapter.activation is None
    want = pytest.approx([score.probability for score in base], abs=1e-5)
    assert [score.probability for score in asked_of_the_adapter] == want

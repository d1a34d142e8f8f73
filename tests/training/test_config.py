import subprocess
import sys

import pytest

from alorakit.engine.adapter_config import TARGETS
from alorakit.engine.errors import ConfigError
from alorakit.training.config import TrainConfig


def test_defaults_are_the_incumbents() -> None:
    config = TrainConfig()
    assert (config.epochs, config.learning_rate, config.batch_size, config.grad_accum) == (6, 6e-6, 2, 4)
    assert (config.effective_rank, TrainConfig(adapter="lora").effective_rank) == (32, 6)
    assert config.targets == ("q_proj", "k_proj", "v_proj")


@pytest.mark.parametrize("given", ["all-linear", ("all-linear",), ("q_proj", "all-linear")])
def test_all_linear_means_the_seven(given: object) -> None:
    assert TrainConfig(target_modules=given).targets == TARGETS  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"adapter": "dora"},
        {"rank": 0},
        {"rank": 257},
        {"rank": True},
        {"alpha": 0},
        {"dropout": 1.0},
        {"epochs": 0},
        {"batch_size": 1.5},
        {"learning_rate": float("nan")},
        {"learning_rate": "fast"},
        {"val_fraction": 1.0},
        {"val_fraction": -0.1},
        {"seed": -1},
        {"seed": 2**63},
        {"seed": 1.0},
        {"seed": None},
        {"scheduler": "step"},
        {"device": "tpu"},
        {"dtype": "float16"},
        {"target_modules": ("lm_head",)},
        {"target_modules": ()},
        {"target_modules": ("all-linear", "lm_head")},
        {"field": ""},
        {"capability": " "},
        {"prefix_memory": -1},
        {"pass_labels": ("a", "b"), "fail_labels": ("b",)},
    ],
    ids=lambda changes: ",".join(changes),
)
def test_a_bad_value_is_named(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))) as info:
        TrainConfig(**changes)  # type: ignore[arg-type]
    assert "\n" not in str(info.value)


def test_settings_do_not_load_torch() -> None:
    code = "import sys, alorakit.training.config, alorakit.training; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})

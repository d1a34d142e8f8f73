"""Names, parameters and defaults are those of Mellea 0.8, but for what is listed here."""

from types import SimpleNamespace
from typing import Any

import pytest

import alorakit.bindings.session as ours
from tests.bindings.session_programs import SIGNATURES, options, parameters

API = SimpleNamespace(**vars(ours))

# Parameters of ours beside Mellea's: always by keyword, always after theirs.
ADDED = {
    "Requirement.__init__": ["adapter"],  # which adapter checks it
    "ValidationResult.__init__": ["label", "probabilities", "usage"],  # what adapters tell
    "Message.__init__": ["token_ids"],  # so that what was generated is found in the cache
    # Checks while an answer is written.
    **{
        name: ["check_every"]
        for name in (
            "MelleaSession.instruct",
            "MelleaSession.ainstruct",
            "RejectionSamplingStrategy.__init__",
            "RepairTemplateStrategy.__init__",
            "MultiTurnStrategy.__init__",
        )
    },
    "ModelOutputThunk.__init__": ["token_ids", "prompt", "usage", "finish_reason", "timing"],
}
# Whole signatures that differ.
DIFFERENT = {
    # Mellea's takes *args and **kwargs and hands them on: here the parameters are spelled out.
    "req": parameters(API, "Requirement.__init__")[1:],
    "check": [p for p in parameters(API, "Requirement.__init__")[1:] if p[0] != "check_only"],
}
# Defaults that differ: this package has one backend, and not Mellea's choice of model.
DEFAULTS = {
    ("start_session", "backend_name"): "'alorakit'",
    ("start_session", "model_id"): "'HuggingFaceTB/SmolLM2-135M-Instruct'",
}
# What results differ in, each with the test that shows it. Errors here are AlorakitErrors, where Mellea has assertions.
#   a placeholder without a value, and a value that is no string: an error (Mellea leaves the place empty, or prints it)
#   a requirement without words and without a function: an error (Mellea has it judged)
#   Instruction(None): no description (Mellea prints "None"); output_prefix with user_variables works (Mellea refuses)
#   an error in a later attempt is raised and the context stays (Mellea logs it, and returns an attempt that failed)
#   requirements are checked in the order given (Mellea goes through a set); attempts after the first are sampled
#   a str may stand where Mellea wants a CBlock, an output or a list of one
#   ModelOption.STREAM_TIMEOUT has no default (Mellea: 120 s); unknown options are errors (Mellea hands them on)
#   what is not supported (images, audio, tools, plugins, compactors, chunking, generate_logs) is refused when given


@pytest.mark.parametrize("name", SIGNATURES)
def test_parameters_are_melleas(name: str, mellea_says: dict[str, Any]) -> None:
    found = parameters(API, name)
    expected = [
        [parameter, kind, DEFAULTS.get((name, parameter), default)]
        for parameter, kind, default in mellea_says["signatures"][name]
    ]
    added = ADDED.get(name, [])
    if added:
        assert [p[:2] for p in found[-len(added) :]] == [[parameter, "KEYWORD_ONLY"] for parameter in added]
        found = found[: -len(added)]
    assert found == DIFFERENT.get(name, expected)


def test_options_have_melleas_keys(mellea_says: dict[str, Any]) -> None:
    assert options(API).items() >= mellea_says["options"].items()

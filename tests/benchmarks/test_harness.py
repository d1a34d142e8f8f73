"""The harness takes turns, leaves warm-up out, and ends in JSON."""

import json

import pytest

from benchmarks.harness import Timings, interleave, report


def test_contestants_take_turns_and_warm_up_does_not_count():
    calls = []
    timings = interleave({"a": lambda i: calls.append(("a", i)), "b": lambda i: calls.append(("b", i))}, 2, warmup=1)
    assert calls == [(name, turn) for turn in range(3) for name in "ab"]
    assert [len(t.seconds) for t in timings.values()] == [2, 2]


def test_report_ends_in_json_with_ratios_of_medians(capsys):
    report("title", {"us": Timings("us", [1.0, 2.0, 9.0]), "them": Timings("them", [8.0, 8.0, 1.0])}, "us", note=3)
    last = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert last["ratio"] == {"us": 1.0, "them": pytest.approx(4.0)}
    assert (last["seconds"]["us"], last["note"]) == (2.0, 3)

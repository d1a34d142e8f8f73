"""The harness takes turns, leaves warm-up and accidents out, and ends in JSON."""

import json

import pytest

from benchmarks.harness import Target, Timings, drop_accidents, interleave, report, take_turns


def timings(**seconds: list[float]) -> dict[str, Timings]:
    return {name: Timings(name, values) for name, values in seconds.items()}


def test_contestants_take_turns_and_warm_up_does_not_count():
    calls = []
    result = interleave({"a": lambda i: calls.append(("a", i)), "b": lambda i: calls.append(("b", i))}, 2, warmup=1)
    assert calls == [(name, turn) for turn in range(3) for name in "ab"]
    assert [len(t.seconds) for t in result.values()] == [2, 2]


def test_a_slow_contestant_takes_part_in_the_first_rounds_only():
    calls = []
    run = {name: lambda turn, name=name: calls.append((name, turn)) or turn for name in "ab"}
    assert take_turns(run, 3, warmup=1, fewer={"b": 2}) == {"a": [1, 2, 3], "b": [1, 2]}
    assert calls == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 3)]
    calls.clear()
    assert take_turns(run, 2, warmup=1, fewer={"b": 1}) == {"a": [1, 2], "b": [1]}
    assert calls == [("a", 0), ("a", 1), ("b", 1), ("a", 2)]  # one round, no warm-up


def test_a_round_with_an_accident_is_dropped_for_all():
    clean, dropped = drop_accidents(timings(us=[1.0, 3.1, 2.0, 3.0], them=[8.0, 8.0, 25.0, 9.0]))
    assert clean == timings(us=[1.0, 3.0], them=[8.0, 9.0])
    assert dropped == 2


def test_a_lucky_round_of_uneven_work_makes_no_accident_of_the_others():
    seconds = timings(drafted=[0.1, 1.0, 1.0, 1.0], them=[8.0, 8.0, 8.0, 25.0])
    clean, dropped = drop_accidents(seconds, uneven=["drafted"])
    assert clean == timings(drafted=[0.1, 1.0, 1.0], them=[8.0, 8.0, 8.0])
    assert dropped == 1


def test_no_round_without_an_accident_is_no_result():
    with pytest.raises(SystemExit, match="no round went undisturbed"):
        drop_accidents(timings(us=[1.0, 4.0], them=[40.0, 10.0]))


def test_report_ends_in_json_with_ratios_of_medians_and_targets(capsys):
    targets = [Target("speed", 12.5, 12.0), Target("share", 11.0, 10.0, at_least=False, unit="%")]
    report("title", timings(us=[1.0, 2.0, 9.0], them=[8.0, 8.0, 1.0]), "us", 2, targets, note=3)
    lines = capsys.readouterr().out.strip().splitlines()
    last = json.loads(lines[-1])
    assert last["ratio"] == {"us": 1.0, "them": pytest.approx(4.0)}
    assert (last["seconds"]["us"], last["rounds"], last["dropped"], last["note"]) == (2.0, 3, 2, 3)
    assert last["targets"]["speed"] == {"value": 12.5, "limit": 12.0, "met": True, "at_least": True, "unit": "x"}
    assert "met     speed: 12.5x, target at least 12x" in lines
    assert "MISSED  share: 11%, target at most 10%" in lines


@pytest.mark.parametrize("dropped", [3, 4])
def test_more_rounds_dropped_than_kept_is_said(capsys, dropped):
    report("title", timings(us=[1.0, 2.0, 3.0]), "us", dropped)
    assert ("more rounds were dropped than kept" in capsys.readouterr().out) == (dropped > 3)


def test_scaled_timings_are_those_of_all_the_work():
    assert Timings("part", [1.0, 2.0, 4.0]).scaled(8).median == 16.0


def test_the_distance_from_the_machines_limit_is_reported(capsys):
    result = report("title", timings(us=[1.0, 3.0, 2.0], them=[8.0, 8.0, 8.0]), "us", limits={"us": 0.5})
    assert result["times_limit"] == {"us": 4.0}
    assert "us: 4.00 times the 0.5000s that the machine needs at least" in capsys.readouterr().out

import json
import re
from pathlib import Path
from typing import Any

import pytest

from agent.render import curves, typed
from agent.render import record as nights
from agent.render.record import gather, with_folder
from agent.render.summary import MAX_LINES, summarize
from agent.render.words import WIDTH, block, count, duration, listed, number, shortened, table
from policies.gate import GateVerdict
from state.goal import Condition
from state.paths import CampaignPaths
from tests.agent.recorded import record

CAMPAIGN = {
    "name": "big",
    "state": "waiting",
    "sentence": "word " * 200,
    "promoted": "",
    "started_at": 0.0,
    "ended_at": None,
    "agent_starts": 12,
}


def condition(index: int) -> dict[str, Any]:
    return {
        "id": f"c{index}", "metric": "s.m", "statistic": "mean", "against": "value", "value": 0.5, "reference": 0.4,
        "estimate": 0.5, "low": 0.4, "high": 0.6, "alpha": 0.05, "n": 40, "holds": False, "decided": "undecided",
        "label": "plain, not significant" * 3, "rescued": ["a"], "broken": [], "cases_needed": 99,
        "sentence": f"Asked: s.a-metric-with-a-long-name-{index} at least 0.6. Measured 0.5.",
    }  # fmt: skip


def overfull() -> dict[str, Any]:
    gate = {"use": "selection", "sentence": "0 of 30 hold " * 30, "conditions": [condition(i) for i in range(30)]}
    spec = {
        "model": {"path": "m" * 200},
        "track": {"name": None, "grader": "g.py", "command": None},
        "gate": {"conditions": [{}] * 30, "max_confirmations": 3},
        "budget": {},
    }
    decision = {
        "id": "D1", "rule": "r", "action": "judge", "run": "R1", "bucket": "C", "verdict": {"gate": gate},
        "sentence": "long " * 100, "action_inputs": {},
    }  # fmt: skip
    question = {
        "id": "Q1",
        "kind": "promotion",
        "question": "why " * 200,
        "answer": None,
        "deadline_at": 9.0,
        "unanswered": "no",
    }
    plan = {"id": "C1", "will": "do " * 100, "when": "then " * 50, "cancelled_by": "a person", "status": "open"}
    belief = {"id": "B1", "status": "fresh", "tag": "assumed", "subject": "data:x", "statement": "perhaps " * 100}
    job = {
        "id": "J1", "kind": "training", "run": "R1", "state": "running", "step": 10, "steps": 100, "started_at": 1.0,
        "restarts": 1, "exit": {}, "last": {},
    }  # fmt: skip
    ended = {
        **job,
        "state": "stopped",
        "exit": {"state": "stopped", "by": "guard", "reason": "so " * 90, "wall_s": 9.0},
    }
    return {
        "campaign": CAMPAIGN,
        "goal": {"version": 2, "difference": ["changed " * 50], "spec": spec},
        "beliefs": [belief] * 50,
        "decisions": [decision],
        "runs": [{"id": f"R{i}", "bucket": "C"} for i in range(90)],
        "jobs": [ended, ended, ended, ended, job],
        "approvals": [question] * 9,
        "commitments": [plan] * 9,
        "holder": {"pid": 1},
        "now": 1000.0,
    }


def test_an_overfull_campaign_still_fits_and_keeps_the_question_and_the_command() -> None:
    lines = summarize(overfull())
    assert len(lines) <= MAX_LINES
    assert max(map(len, lines)) <= WIDTH
    assert any(line.startswith("For you") and "Q1" in line for line in lines)
    assert any(line.startswith("Next") for line in lines[-4:])
    assert "vigil approve big:Q1" in " ".join(lines)


def test_a_campaign_without_any_row_has_a_summary() -> None:
    view = {"campaign": {**CAMPAIGN, "state": "running", "sentence": ""}, "goal": None, "now": 10.0}
    assert summarize(view)[0].startswith("big is running")


def test_a_dead_agent_is_not_called_running() -> None:
    view = {"campaign": {**CAMPAIGN, "state": "running", "sentence": ""}, "goal": None, "now": 10.0, "holder": None}
    lines = summarize(view)
    assert "has no agent running" in lines[0]
    assert "vigil run FILE" in lines[-1]


def test_a_stopped_job_saved_what_its_own_pace_says() -> None:
    job = {"step": 100, "steps": 400, "exit": {"wall_s": 60.0}}
    assert nights.saved_s(job) == 180.0
    assert nights.saved_s({"step": 0, "steps": 400, "exit": {"wall_s": 60.0}}) == 0.0


def test_a_hard_stop_says_what_it_spared() -> None:
    decision = {"id": "D2", "action": "halt", "rule": "hard_stop", "action_inputs": {"saved_s": 600}, "bucket": None}
    assert nights.stopped({"decisions": [decision], "jobs": []}) == [
        "The campaign, by hard stop (hard_stop, D2); about 10 min of training were not spent."
    ]


def left_s(rows: list[tuple[int, float]], begun_at: float | None, now: float, steps: int = 100) -> float | None:
    found = nights.pace([{"step": step, "t": at} for step, at in rows], begun_at)
    return nights.eta_s({"step": rows[-1][0] if rows else 0, "steps": steps, "pace": found}, now)


def test_the_time_left_is_told_from_the_pace_of_recent_steps() -> None:
    rows = [(10, 100.0), (20, 110.0), (30, 120.0)]
    assert left_s(rows, 90.0, now=120.0) == 70.0
    assert left_s(rows, 90.0, now=124.0) == 66.0
    assert left_s(rows, 90.0, now=500.0) == 60.0, "no further than to the next report until it is there"
    assert left_s([], 90.0, now=120.0) is None
    slower = [(step, step / 10) for step in range(1, 41)] + [(40 + step, 4 + 2.0 * step) for step in range(1, 21)]
    assert left_s(slower, 0.0, now=slower[-1][1]) == 80.0, "what it was an hour ago does not count"


def test_the_time_between_two_sittings_of_a_job_is_no_work() -> None:
    first = [(10, 100.0), (20, 110.0), (30, 120.0)]
    # Taken up a quarter of an hour later, from the save at step 20.
    again = [(20, 1020.0), (30, 1030.0), (40, 1040.0)]
    assert left_s(first + again, 1010.0, now=1040.0) == 60.0
    assert left_s([*first, (40, 160.0)], 150.0, now=160.0) == 60.0, "however short it was"
    slept = [(step, 10.0 * step + (3600.0 if step > 5 else 0.0)) for step in range(1, 11)]
    assert left_s(slept, 0.0, now=slept[-1][1], steps=20) == 100.0


def test_a_run_that_goes_on_from_another_s_state_has_its_own_pace() -> None:
    rows = [{"step": 60, "t": 130.0, "resumed_from": 60}]
    assert nights.pace(rows, 100.0)["step_s"] is None, "sixty steps were not done in thirty seconds"
    assert nights.pace([*rows, {"step": 70, "t": 150.0}], 100.0)["step_s"] == 2.0
    same = [{"step": 60, "t": 50.0}, *rows, {"step": 70, "t": 150.0}]
    assert nights.pace(same, 100.0)["step_s"] == 2.0


def test_what_a_validation_took_belongs_to_the_pace() -> None:
    rows = [(10, 100.0), (10, 105.0), (20, 115.0), (20, 120.0), (30, 130.0)]
    assert left_s(rows, 90.0, now=130.0) == 105.0


def test_a_first_report_tells_a_pace_that_is_rather_too_slow() -> None:
    assert left_s([(10, 130.0)], 100.0, now=130.0) == 270.0
    assert left_s([(0, 130.0)], 100.0, now=130.0) is None


JOB: dict[str, Any] = {
    "id": "J5", "key": "k", "kind": "training", "run": "R2", "state": "running", "step": 120, "steps": 450,
    "started_at": 0.0, "last": {"train_loss": 0.4, "val_loss": 0.5, "tokens_per_s": 1480.0}, "loss_before": 0.5,
    "pace": {"step_s": 0.5, "report_s": 5.0, "at": 100.0}, "power": {"source": "battery", "battery_percent": 71.0},
}  # fmt: skip


def test_a_line_on_a_job_leaves_out_what_matters_least() -> None:
    assert nights.line(JOB, 100.0, 200) == nights.progress(JOB, 100.0).rstrip(".") == (
        "Training R2: step 120 of 450, 27 %, about 3 min left, loss 0.400 ↓, 1,480 tokens/s, validation loss 0.500, "
        "on battery at 71 %"
    )  # fmt: skip
    at_80, at_60 = (nights.line(JOB, 100.0, width) for width in (80, 60))
    assert at_80 == "Training R2: step 120 of 450, about 3 min left, loss 0.400 ↓, on battery at 71 %"
    assert at_60 == "Training R2: step 120 of 450, about 3 min left, loss 0.400 ↓"
    assert nights.line(JOB, 100.0, 50) == "Training R2: step 120 of 450, about 3 min left"


def test_a_job_is_told_by_whom_it_asks_about_what() -> None:
    asked = {**JOB, "kind": "evaluation", "run": "", "about": {"side": "base", "use": "confirmation"}, "power": {}}
    said = nights.line(asked, 100.0, 100)
    assert said.startswith("Evaluating the base on the confirmation cases: answer 120 of 450")
    queued = {"waits_for": {"ahead": [{"kind": "training", "campaign": "other"}], "since": 0.0}}
    assert "queued, training of other has the accelerator" in nights.line({**JOB, **queued}, 0.0, 100)
    assert nights.line({**JOB, "step": 450}, 100.0, 60).startswith("Training R2: step 450 of 450, finishing")
    new = {"step": 0, "steps": 0, "last": {}, "power": {}}
    assert nights.progress({**JOB, **new}, 12.0) == "Training R2: loading, 12 s so far."
    assert nights.progress({**JOB, **new, "begun_at": 960.0}, 972.0) == "Training R2: loading, 12 s so far."
    reading = {**new, "phase": "first step, 7,168 tokens"}
    assert nights.progress({**JOB, **reading}, 12.0) == "Training R2: first step, 7,168 tokens, 12 s so far."
    assert nights.progress({**JOB, **reading, "state": "queued"}, 12.0).startswith("Training R2: queued")
    again = {**JOB, "phase": "loading the model", "power": {}}
    assert nights.line(again, 100.0, 80).startswith("Training R2: step 120 of 450, loading the model, about 3 min left")
    assert nights.progress({**JOB, **new, "state": "orphaned"}, 1.0).endswith("its supervisor is gone, 1 s so far.")
    assert nights.progress({**JOB, **new, "kind": "census", "run": "", "step": 3}, 12.0) == (
        "Checking tokens and grader: 3 cases done, 12 s so far."
    )  # fmt: skip


def test_a_job_that_has_ended_is_told_with_what_it_took_and_why_it_stopped() -> None:
    ended = {**JOB, "step": 450, "exit": {"state": "finished", "wall_s": 130.0}}
    assert nights.outcome(ended) == (
        "Training R2: 450 of 450 steps in 2 min, loss 0.400, validation loss 0.500."
    )  # fmt: skip
    stopped = {**JOB, "last": {}, "exit": {"state": "stopped", "wall_s": 30.0, "reason": "It repeats itself."}}
    assert nights.outcome(stopped) == "Training R2: 120 of 450 steps in 30 s; stopped: It repeats itself."


def test_numbers_and_times_are_said_as_people_say_them() -> None:
    assert [duration(s) for s in (0, 59.6, 89, 600, 5400, 7200, 9000)] == [
        "0 s", "60 s", "89 s", "10 min", "1 h 30 min", "2 h", "2 h 30 min",
    ]  # fmt: skip
    assert [number(v) for v in (None, 0.12345, 12345, True, "x")] == ["not measured", "0.123", "12,345", "True", "x"]
    assert [count(1, "run"), count(2, "run")] == ["1 run", "2 runs"]
    assert listed("abcdef", 2) == "a, b and 4 more"
    assert shortened("a  b\nc", 3) == "a…"


def test_a_block_is_cut_at_its_lines_and_says_so() -> None:
    lines = block("Label", "word " * 100, lines=2)
    assert len(lines) == 2
    assert lines[0].startswith("Label       word")
    assert lines[1].endswith("…")
    assert max(map(len, lines)) <= WIDTH


def test_a_table_is_aligned_and_its_last_column_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    assert table(("a", "b"), [("long", "x"), ("s", "y" * 99)], last_width=5) == [
        "a     b",
        "long  x",
        f"s     {'y' * 99}",
    ]
    told = table(("a", "b"), [("x", "one two three four five six seven eight nine ten")])
    assert told == ["a  b", "x  one two three four five six seven eight nine ten"]
    monkeypatch.setenv("COLUMNS", "40")
    assert table(("a", "b"), [("x" * 15, "one two three four five six seven eight nine ten")])[1:] == [
        "xxxxxxxxxxxxxxx  one two three four five",
        "                 six seven eight nine…",
    ]


def test_a_curve_without_points_draws_nothing_and_one_point_draws_something() -> None:
    assert curves.plot("t", "x", [curves.Series("a", "#000", [])]) == ""
    drawn = curves.plot("t <&>", "x", [curves.Series("a <b>", "#000", [(1.0, 2.0)], is_dotted=True)])
    assert "<circle" in drawn
    assert "a &lt;b&gt;" in drawn
    assert "nan" not in drawn
    names = [
        curves.Series(name, colour, [(0.0, 0.000101), (9.0, 2.0)]) for name, colour in (("a", "#111"), ("b", "#222"))
    ]
    told = curves.plot("t", "x", names)
    assert 'fill="#222"/><text' in told, "the colour stands beside its name"
    assert "style" not in told, "a page under a strict policy allows none"
    legend = [float(y) + 10 for y in re.findall(r'y="([0-9.]+)" width="10"', told)]
    assert max(legend) < min(float(y) for y in re.findall(r",([0-9.]+)[ \"]", told)), "no line runs through a name"
    assert "0.000101" in told


def test_scores_stand_with_their_intervals_beside_what_the_gate_asks() -> None:
    assert curves.estimates("t", [], {}, {}) == ""
    rows = [
        curves.Estimate("base", 0.2, None, None, "base"),
        curves.Estimate("R1 <b>", 0.5, 0.4, 0.6, "improved"),
        *(curves.Estimate(f"R{n}", 0.5, 0.4, 0.6, "improved") for n in range(2, 60)),
    ]
    drawn = curves.estimates("t", rows, {"base": "#111", "improved": "#222", "unused": "#333"}, {"asked": 0.55})
    high, value, low = (
        float(re.search(pattern, drawn)[1])  # type: ignore[index]  # it is there, or the test fails
        for pattern in (
            r'V([\d.]+)" stroke="#222"',
            r'cy="([\d.]+)" r="4" fill="#222"',
            r'd="M[\d.]+ ([\d.]+)V[\d.]+" stroke',
        )
    )
    assert high < value < low, "pixels count downwards"
    assert (drawn.count("<circle"), drawn.count('stroke="#222"')) == (60, 59)
    assert "#333" not in drawn
    assert drawn.count('text-anchor="middle"') <= 12
    assert "asked" in drawn


def test_a_long_curve_is_thinned_and_keeps_its_ends() -> None:
    points = [(float(i), float(i)) for i in range(10_000)]
    kept = curves.thinned(points, 400)
    assert len(kept) == 400
    assert (kept[0], kept[-1]) == (points[0], points[-1])


def test_a_halted_campaign_says_how_to_go_on_regardless() -> None:
    halt = {"id": "D3", "action": "halt", "rule": "hard_stop", "action_inputs": {"belief": "B29"}, "bucket": None}
    view = {"campaign": {**CAMPAIGN, "state": "halted"}, "goal": None, "now": 10.0}
    belief = {**overfull()["beliefs"][0], "id": "B29", "tag": "confirmed"}

    def typed(rule: str, status: str) -> str:
        told = {**view, "decisions": [{**halt, "rule": rule}], "beliefs": [{**belief, "status": status}]}
        return " ".join(summarize(told)[-2:])

    for rule, status in (("hard_stop", "refuted"), ("hard_stop", "contradicted"), ("signal.none", "refuted")):
        assert "vigil approve big:B29 --reason WHY" in typed(rule, status), rule
    assert "vigil approve" not in typed("assumed.limit", "fresh"), "what is assumed is settled, not overridden"
    assert "vigil approve" not in " ".join(summarize({**view, "decisions": [halt]})[-2:]), "it is on record no more"


def test_new_failures_are_told_as_cases_not_as_a_difference() -> None:
    asked = {"metric": "s.ok", "statistic": "new_failures", "against": "parent", "min": None, "max": 2}
    assert typed.asked(asked) == "new failures of s.ok against the parent at most 2"
    assert typed.asked({**asked, "statistic": "count"}) == "s.ok as a count minus the parent's at most 2"
    written = Condition(metric="s.ok", against="parent", max=0, margin=0.1)
    assert typed.asked(written.model_dump(mode="json")) == written.sentence, "said twice, and the same"
    row = {**condition(1), "statistic": "new_failures", "against": "parent", "estimate": 3.0, "low": 1.0, "high": 7.0}
    assert ": 3.0 (90 % interval 1.0 to 7.0, 40 cases)" in typed.said(row)
    assert ": +0.500 (" in typed.said({**condition(1), "against": "parent"})


def test_a_warning_is_on_the_screen_and_says_where_the_others_are() -> None:
    view = {**overfull(), "decisions": [], "approvals": [], "commitments": [], "jobs": []}
    view["goal"]["spec"]["gate"]["conditions"] = [{"metric": "s.m", "min": 0.5}]
    assert not any(line.startswith("Warnings") for line in summarize(view))
    warning = {**view["beliefs"][0], "status": "refuted", "severity": "warning", "tag": "confirmed"}
    first = {**warning, "id": "B90", "statement": "The metric rows_kept pays for a fabricated line."}
    view["beliefs"] = [first, {**warning, "id": "B91"}, {**warning, "id": "B92", "superseded_by": "B93"}]
    text = " ".join(" ".join(summarize(view)).split())
    assert "Warnings The metric rows_kept pays for a fabricated line. And 1 more, in beliefs --stale." in text


def test_the_night_says_what_the_machine_ran_on() -> None:
    ending = {"wall_s": 7200.0, "slept_s": 0.0, "kept_awake_by": "caffeinate"}
    view = {"campaign": {"agent_starts": 1}, "jobs": [{"exit": ending}]}
    assert "no sleep; peak" in nights.format_night(view)
    ending |= {"slept_s": 600.0, "on_battery_s": 3600.0, "lid_closed_s": 1800.0, "held_back_s": 120.0}
    assert "slept 10 min, 60 min on battery, 30 min lid closed, 2 min held back; peak" in nights.format_night(view)
    ending["kept_awake_by"] = ""
    assert "slept 10 min (nothing kept it awake)" in nights.format_night(view)


def test_a_running_job_says_that_it_empties_the_battery() -> None:
    job = {"id": "J1", "kind": "training", "run": "R1", "state": "running", "step": 0, "steps": 0}
    assert nights.progress({**job, "power": {"source": "mains", "battery_percent": 80.0}}, 0.0).endswith("loading.")
    unplugged = {"source": "battery", "battery_percent": 71.0}
    assert nights.progress({**job, "power": unplugged}, 0.0).endswith("loading, on battery at 71 %.")
    unplugged["battery_percent"] = None
    assert nights.progress({**job, "power": unplugged}, 0.0).endswith("loading, on battery.")


@pytest.mark.parametrize(
    ("heartbeat", "power"),
    [('{"power": {"source": "battery"}}', {"source": "battery"}), ("", {}), ("[]", {}), ('{"power": 7}', {})],
)
def test_what_a_running_job_runs_on_is_read_from_its_heartbeat(
    tmp_path: Path, heartbeat: str, power: dict[str, str]
) -> None:
    files = CampaignPaths(tmp_path, "x").job("k")
    files.folder.mkdir(parents=True)
    files.heartbeat.write_text(heartbeat)
    job = {"folder": "jobs/k", "state": "running", "exit": {}, "started_at": 0.0}
    assert with_folder(CampaignPaths(tmp_path, "x"), job)["power"] == power


def test_what_to_type_can_be_pasted_into_a_shell_wherever_the_campaign_lives() -> None:
    campaign = {**CAMPAIGN, "state": "stopped", "sentence": ""}
    view = {"campaign": campaign, "goal": None, "now": 10.0, "file": "my task/c.yaml"}
    assert summarize(view)[-1] == "Next        go on: vigil run 'my task/c.yaml'"
    away = summarize(view | {"elsewhere": "/disk/two words", "bin": "/my disk/bin"})
    assert away[-1] == "Next        go on: '/my disk/bin/vigil' run 'my task/c.yaml' --home '/disk/two words'"


def test_a_best_run_without_scores_is_said_to_have_none() -> None:
    view = overfull()
    row = {**condition(0), "value": None, "estimate": None, "n": 0, "rescued": []}
    view["decisions"][0]["verdict"]["gate"]["conditions"] = [row]
    view["decisions"][0]["bucket"] = "U"
    [line] = [line for line in summarize(view) if line.startswith("Best run")]
    assert line == "Best run    R1, inconclusive (U): s.m was not measured."


@pytest.mark.parametrize(("hours", "said"), [(0.02, "budget 72 s."), (0.5, "budget 30 min."), (2, "budget 2 h.")])
def test_a_budget_under_an_hour_is_told_in_minutes(hours: float, said: str) -> None:
    view = overfull()
    view["goal"]["version"] = 1
    view["goal"]["spec"] = {**view["goal"]["spec"], "model": {"path": "m"}, "budget": {"hours": hours}}
    assert said in " ".join(" ".join(summarize(view)).split())


def test_the_best_run_is_the_one_that_the_planner_would_train_on() -> None:
    def verdict(run: str, bucket: str, *lows: float, holds: bool = False) -> dict[str, Any]:
        rows = [{**condition(1), "sign": 1, "bound": 0.5, "low": low, "holds": holds} for low in lows]
        return {
            "id": f"D{run}", "run": run, "rule": "r", "bucket": bucket,
            "verdict": {"gate": {"use": "selection", "conditions": rows}, "bucket": {"gate": {"conditions": rows}}},
        }  # fmt: skip

    def best(*decisions: dict[str, Any]) -> str:
        found = typed.best({"decisions": list(decisions)})
        assert found is not None
        return str(found["run"])

    # More conditions held, and yet further from the worst one.
    assert best(verdict("R1", "B", 0.1, 0.9, holds=True), verdict("R2", "B", 0.4, 0.4)) == "R2"
    assert best(verdict("R1", "A", 0.1), verdict("R2", "B", 0.4)) == "R1"
    assert best(verdict("R1", "B", 0.4), verdict("R2", "B", 0.4)) == "R2"
    assert best(verdict("R1", "A", 0.4), verdict("R2", "B", 0.4), verdict("R1", "B", 0.1)) == "R2", "R1 judged again"
    assert typed.best({"decisions": []}) is None


def test_slack_is_what_the_policies_say_it_is(tmp_path: Path) -> None:
    record(tmp_path, "promoted")
    rows = typed.judged(gather(CampaignPaths(tmp_path, "quick")))
    assert rows
    for row in rows:
        gate = GateVerdict.model_validate(row["detail"].get("gate") or row["gate"])
        assert typed.slack(row) == min(each.slack for each in gate.conditions)
    unread = {**condition(1), "low": None, "sign": 1, "bound": 0.5}
    assert typed.slack({"detail": {}, "gate": {"conditions": [unread]}}) == float("-inf")


@pytest.mark.parametrize(
    ("rows", "phase"),
    [
        ([], ""),
        ([{"phase": "loading the model", "t": 11.0}, {"step": 0, "prepared": 900, "t": 12.0}], "loading the model"),
        ([{"phase": "first step", "t": 11.0}, {"step": 10, "t": 12.0}], ""),
        ([{"phase": "reading", "t": 9.0}], ""),
        ([{"step": 10, "t": 9.0}, {"phase": "reading", "t": 11.0}], "reading"),
    ],
)
def test_what_a_job_does_before_its_first_report_is_what_the_worker_of_now_said_last(
    tmp_path: Path, rows: list[dict[str, Any]], phase: str
) -> None:
    files = CampaignPaths(tmp_path, "x").job("k")
    files.folder.mkdir(parents=True)
    files.worker.write_text('{"create_time": 10.0}')
    files.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = {"folder": "jobs/k", "state": "running", "exit": {}, "started_at": 0.0}
    assert with_folder(CampaignPaths(tmp_path, "x"), job)["phase"] == phase

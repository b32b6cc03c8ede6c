"""A user's own probe: what it finds stands like a finding of Vigil's; what it fails to say never passes in silence."""

import os
import re
from pathlib import Path
from typing import Any

import pytest

from agent.campaign import load_campaign
from state.hashing import HashCache
from state.records import Belief, Evidence, Fingerprint
from tests.faults.campaign import world
from tools.probes import own
from tools.probes.catalogue import Observation, Probe, ProbeContext
from tools.probes.own import PROBES, probes_of

GOOD = """
refuted_by = "a row without a unit"
cost_s = 0.2
stands_on = ["train.jsonl"]


def observe(context):
    import json
    from pathlib import Path

    rows = Path(context["data"]["train"]).read_text().splitlines()
    bad = [n for n, row in enumerate(rows, start=1) if "kg" not in row]
    return {
        "claim": "has_units",
        "statement": f"{len(bad)} of {len(rows)} rows have no unit.",
        "holds": not bad,
        "value": {"bad": len(bad)},
        "severity": "hard_stop",
        "fix": "Add the units.",
        "evidence": f"lines {bad[:2]}",
    }
"""


def asked(folder: Path, source: str | None, **changes: Any) -> tuple[Probe, ProbeContext]:
    campaign = load_campaign(world.write_campaign(folder, probes=["units.py"], **changes))
    if source is not None:
        (folder / "units.py").write_text(source)
    context = ProbeContext(campaign.goal, campaign.folder, folder / "base", folder, HashCache())
    [probe] = [probe for probe in probes_of(campaign.goal, campaign.folder) if probe.id.startswith("own:")]
    return probe, context


def answering(what: str, head: str = 'refuted_by = "x"') -> str:
    return f"{head}\ncost_s = 0.1\n\n\ndef observe(context):\n    return {what}\n"


def seen(folder: Path, source: str | None, **changes: Any) -> list[Observation]:
    probe, context = asked(folder, source, **changes)
    return list(probe.observe(context))


def test_a_finding_has_all_that_one_of_vigil_s_own_has(tmp_path: Path) -> None:
    probe, context = asked(tmp_path, GOOD)
    assert (probe.id, probe.cost_s, probe.refuted_by) == ("own:units.py", 0.2, "a row without a unit")
    found, counts = probe.observe(context)
    assert (found.subject, found.claim, found.holds, found.severity) == ("own:units", "has_units", False, "hard_stop")
    assert found.statement == "8 of 8 rows have no unit."
    assert found.value == {"bad": 8}
    assert (found.tag, found.fix) == ("confirmed", "Add the units.")
    assert found.evidence[0].summary == "lines [1, 2]"
    assert counts.holds
    assert counts.statement == "units.py answered with 1 findings; refuted by a row without a unit."


def test_own_probes_are_asked_among_vigil_s_cheapest_first(tmp_path: Path) -> None:
    probe, context = asked(tmp_path, GOOD)
    every = probes_of(context.goal, context.folder)
    assert [row.cost_s for row in every] == sorted(row.cost_s for row in every)
    wanted = {row.id for row in PROBES} - {"data.pairs"}
    assert {row.id for row in every} == {probe.id, *wanted}, "pairs are looked at where a campaign has some"


def prints(folder: Path, context: ProbeContext) -> dict[str, str]:
    [probe] = [row for row in probes_of(context.goal, folder) if row.id.startswith("own:")]
    fresh = ProbeContext(context.goal, folder, context.model, context.home, HashCache())
    return {row.name: row.value for row in probe.stands_on(fresh)}


def changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return sorted(Path(name).name for name in before | after if before.get(name) != after.get(name))


def test_it_stands_on_its_code_the_modules_it_imports_the_files_it_names_and_what_it_is_told(tmp_path: Path) -> None:
    source = 'import helper\nstands_on = ["notes", "later.csv"]\ndef observe(context): return []\n'
    _, context = asked(tmp_path, source)
    (tmp_path / "helper.py").write_text("import deeper\n")
    (tmp_path / "deeper.py").write_text("")
    (tmp_path / "notes").mkdir()
    first = prints(tmp_path, context)
    (tmp_path / "deeper.py").write_text("x = 1\n")
    second = prints(tmp_path, context)
    assert changed(first, second) == ["deeper.py"]
    (tmp_path / "notes" / "a.txt").write_text("a")
    third = prints(tmp_path, context)
    assert changed(second, third) == ["notes"]
    (tmp_path / "later.csv").write_text("1")
    fourth = prints(tmp_path, context)
    assert changed(third, fourth) == ["later.csv"]
    (tmp_path / "unrelated.py").write_text("x = 2\n")
    os.utime(tmp_path / "units.py")
    assert prints(tmp_path, context) == fourth
    longer = world.write_campaign(tmp_path, probes=["units.py"], evaluation=_evaluation(65))
    other = ProbeContext(load_campaign(longer).goal, tmp_path, context.model, tmp_path, HashCache())
    assert changed(fourth, prints(tmp_path, other)) == ["context of units.py"]


def _evaluation(max_tokens: int) -> dict[str, Any]:
    splits = {"main": {"selection": "selection.jsonl", "confirmation": "confirmation.jsonl"}}
    return {"max_tokens": max_tokens, "splits": splits}


def test_what_may_be_spent_is_not_told_so_a_new_budget_asks_nothing_anew(tmp_path: Path) -> None:
    _, context = asked(tmp_path, GOOD)
    before = prints(tmp_path, context)
    _, richer = asked(tmp_path, GOOD, budget={"runs": 3})
    assert prints(tmp_path, richer) == before


def test_the_context_names_every_file_and_the_campaign(tmp_path: Path) -> None:
    said = seen(tmp_path, answering('{"claim": "c", "statement": "s", "holds": True, "value": context}'))[0].value
    assert Path(said["data"]["train"]).is_file()
    assert Path(said["splits"]["main.selection"]).is_file()
    assert said["folder"] == str(tmp_path)
    assert said["model"] == str(tmp_path / "base")
    assert said["goal"]["gate"]["conditions"][0]["metric"] == "main.score"
    assert not {"budget", "approvals", "search", "probes"} & said["goal"].keys()


def test_without_an_outcome_that_refutes_it_a_finding_is_assumed_stops_nothing_and_is_not_counted(
    tmp_path: Path,
) -> None:
    answer = '{"claim": "c", "statement": "All is well.", "holds": False, "severity": "hard_stop"}'
    found, counts = seen(tmp_path, answering(answer, head=""))
    assert (found.tag, found.severity, found.holds) == ("assumed", "warning", False)
    assert (counts.holds, counts.mode, counts.severity) == (False, "P6", "warning")
    assert "not counted as evidence" in counts.statement
    with_one, counts = seen(tmp_path, answering(answer))
    assert (with_one.tag, with_one.severity) == ("confirmed", "hard_stop")
    assert counts.holds


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (answering("1 / 0"), "observe raised ZeroDivisionError: division by zero at units.py:6"),
        (answering("None"), "finding 1 of 1 is unusable: it is null, not an object"),
        (answering("[]"), "it answered with no finding"),
        (answering("[{}] * 101"), "101 findings, more than 100"),
        (answering("{1}"), "TypeError: set is no JSON value"),
        (answering("float('nan')"), "not JSON compliant"),
        (answering("{'claim': 'c', 'holds': True}"), "`statement`: Field required"),
        (answering("{'claim': 'c', 'statement': 's', 'holds': 'yes'}"), "`holds`: Input should be a valid boolean"),
        (answering("{'claim': 'c', 'statement': 's', 'holds': 1, 'extra': 2}"), "`holds`"),
        (answering("{'claim': 'c', 'statement': 's', 'holds': True, 'extra': 2}"), "`extra`"),
        (answering("{'claim': 'c', 'statement': 's', 'holds': True, 'subject': 'model:base'}"), "'model:base'"),
        (answering("{'claim': 'c', 'statement': 's', 'holds': True, 'subject': 'own:other'}"), "'own:other'"),
        (answering("{'claim': 'c', 'statement': 's', 'holds': True, 'value': 'x' * 20001}"), "20,000 characters"),
        (answering("{'claim': 'counts_as_evidence', 'statement': 's', 'holds': True}"), "a second time"),
        (answering("__import__('os')._exit(3)"), "its process ended with exit code 3"),
        (answering("__import__('sys').exit(0)"), "observe raised SystemExit"),
        ("refuted_by = 'x'\nraise OSError('no disk')\n", "it cannot be imported: OSError: no disk at units.py:2"),
        ("def observe(:\n", "it cannot be imported: SyntaxError"),
        ("refuted_by = 'x'\n", "it has no function `observe(context)`"),
        (answering("1", head="refuted_by = 'a' + 'b'"), "`refuted_by` is not a text written out"),
        (answering("1", head="refuted_by = 3"), "`refuted_by` is not a text written out"),
        (answering("1", head="stands_on = 'train.jsonl'"), "`stands_on` is not a list of names written out"),
        ("cost_s = 0\n", "`cost_s` is not a number of seconds"),
        (None, "there is no file units.py"),
    ],
)
def test_what_fails_is_a_warning_that_is_only_assumed_and_never_passes(
    tmp_path: Path, source: str | None, why: str
) -> None:
    counts = seen(tmp_path, source)[-1]
    assert (counts.subject, counts.claim) == ("own:units", own.COUNTS)
    assert (counts.holds, counts.severity, counts.tag, counts.mode) == (False, "warning", "assumed", "")
    assert why in counts.statement
    assert "until then what it checks is not known" in counts.fix


def test_one_that_hangs_is_ended_and_told(tmp_path: Path) -> None:
    source = answering("__import__('time').sleep(600)")
    counts = seen(tmp_path, source)[-1]
    assert "no answer within 5 s" in counts.statement


def test_a_process_that_cannot_be_started_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe, context = asked(tmp_path, GOOD)
    monkeypatch.setattr("sys.executable", str(tmp_path / "no-python"))
    assert "could not be started" in probe.observe(context)[-1].statement


def test_an_answer_that_is_no_json_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe, context = asked(tmp_path, GOOD)
    (tmp_path / "child.py").write_text("print('hello')\n")
    monkeypatch.setattr(own, "_CHILD", tmp_path / "child.py")
    assert "no JSON" in probe.observe(context)[-1].statement


def test_a_good_finding_beside_a_bad_one_is_kept_and_the_bad_one_told(tmp_path: Path) -> None:
    rows = "[{'claim': 'c', 'statement': 's', 'holds': False, 'severity': 'hard_stop'}, 7]"
    found, counts = seen(tmp_path, answering(rows))
    assert (found.claim, found.severity, found.fix) == ("c", "hard_stop", "See units.py.")
    assert "finding 2 of 2 is unusable: it is 7, not an object" in counts.statement


def test_it_may_print_use_its_neighbours_and_numpy_and_speak_of_parts(tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "__init__.py").write_text("WORD = 'mine'\n")
    source = (
        "import numpy\nimport tools\nrefuted_by: str = 'x'\ncost_s: float = 0.5\nabove, beside = 1, 2\n"
        "def observe(context):\n    print('noise')\n"
        "    return [{'subject': 'own:units.a', 'claim': 'c', 'statement': tools.WORD, 'holds': True,\n"
        "             'value': numpy.float32(0.5)},\n"
        "            {'subject': 'own:units.b', 'claim': 'c', 'statement': 's', 'holds': True,\n"
        "             'value': numpy.arange(2), 'evidence': ['one', 'two']}]\n"
    )
    one, two, counts = seen(tmp_path, source)
    assert (one.subject, one.statement, one.value) == ("own:units.a", "mine", 0.5)
    assert (two.value, len(two.evidence)) == ([0, 1], 2)
    assert counts.value == {"findings": 2}
    assert not list(tmp_path.glob("**/__pycache__"))


CANARY = "canary-5417"
TELLING = """
refuted_by = "a secret"
def observe(context):
    secret = "canary" + "-5417"
    return [
        {"claim": "plain", "statement": "One row is strange.", "holds": False, "value": {"n": 1, "said": "plain"},
         "fix": "Look at it.", "evidence": "One row is strange."},
        {"claim": "c" + secret, "subject": "own:units." + secret, "statement": "It says " + secret, "holds": True,
         "value": {secret: [secret, 0.5, None]}, "fix": secret, "evidence": [secret]},
        {"claim": secret, "statement": secret, "holds": secret},
    ]
"""


def test_redacted_findings_keep_numbers_and_what_stands_in_the_file_and_nothing_else(tmp_path: Path) -> None:
    assert CANARY in repr(seen(tmp_path, TELLING))
    plain, told, counts = seen(tmp_path, TELLING, privacy="redact")
    assert CANARY not in repr([plain, told, counts])
    assert (plain.claim, plain.statement, plain.fix) == ("plain", "One row is strange.", "Look at it.")
    assert plain.value == {"n": 1, "said": "plain"}
    assert plain.evidence[0].summary == "One row is strange."
    assert (told.subject, told.claim) == ("own:units.2", "claim2")
    assert told.statement == "own:units.2 claim2 holds; its own words are kept out of the record."
    assert told.value == {"key1": [{"characters": 11}, 0.5, None]}
    assert "finding 3 of 3 is unusable: not of the form that a finding has" in counts.statement


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        ("raise ValueError(secret)", "observe raised ValueError at units.py:5"),
        ("print(secret, file=__import__('sys').stderr); __import__('os')._exit(1)", "its process ended"),
    ],
)
def test_a_failure_is_told_without_its_words_where_they_are_private(tmp_path: Path, body: str, kept: str) -> None:
    source = f'refuted_by = "x"\n\ndef observe(context):\n    secret = "canary" + "-5417"\n    {body}\n'
    assert CANARY in seen(tmp_path, source)[-1].statement
    private = seen(tmp_path, source, privacy="redact")[-1]
    assert CANARY not in repr(private)
    assert kept in private.statement


def test_words_of_an_import_that_fails_are_private_too(tmp_path: Path) -> None:
    source = 'raise ValueError("canary" + "-5417")\n'
    assert CANARY in seen(tmp_path, source)[-1].statement
    private = seen(tmp_path, source, privacy="redact")[-1].statement
    assert CANARY not in private
    assert "it cannot be imported: ValueError at units.py:1" in private


def belief(name: str, claim: str, by: str, at: str, **fields: Any) -> Belief:
    evidence = (Evidence(kind="probe", ref=by, summary="Refuted by x."),)
    stands_on = (Fingerprint(kind="file", name="f", value=at),)
    base: dict[str, Any] = {"subject": "own:units", "claim": claim, "statement": "s", "tag": "confirmed"}
    return Belief(**{**base, "id": name, "evidence": evidence, "stands_on": stands_on, **fields})


def test_what_a_file_no_longer_says_gives_way_to_what_it_says_now(tmp_path: Path) -> None:
    probe, _ = asked(tmp_path, GOOD)
    old = belief("B1", "old", probe.id, "1")
    now = belief("B2", "new", probe.id, "2")
    counts = belief("B3", own.COUNTS, probe.id, "2")
    foreign = belief("B4", "is", "other", "1", subject="data:train")
    assert own.unsaid([old, now, counts, foreign], [probe]) == [(old, "B3")]


def test_what_a_file_said_falls_when_the_campaign_no_longer_names_it(tmp_path: Path) -> None:
    probe, _ = asked(tmp_path, GOOD)
    rows = [belief("B1", "old", probe.id, "1"), belief("B2", own.COUNTS, probe.id, "1", status="stale")]
    assert own.unsaid(rows, []) == [(rows[0], "")]
    assert own.unsaid(rows, [probe]) == []


def test_the_refuting_outcome_is_read_without_running_the_file(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("raise SystemExit\nrefuted_by = 'it fails.'\nother = 2\n")
    assert own.declared(tmp_path / "x.py").refuted_by == "it fails"
    assert own.declared(tmp_path / "gone.py") == own.Declared()


def test_the_page_shows_a_probe_that_works(tmp_path: Path) -> None:
    page = (world.ROOT / "runbooks" / "campaign_file.md").read_text()
    [source] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    found = seen(tmp_path, source)
    assert found[-1].holds, found[-1].statement


def test_a_finding_whose_file_was_cut_off_before_it_said_that_it_counts_is_left(tmp_path: Path) -> None:
    probe, _ = asked(tmp_path, GOOD)
    assert own.unsaid([belief("B1", "old", probe.id, "1")], [probe]) == []

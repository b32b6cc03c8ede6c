"""In which form a run is judged, how often more the base is asked, and what is believed of both and of its training."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent import results
from agent.campaign import load_campaign
from agent.inputs import job_spec
from policies.guards import measuring_guards
from state.paths import CampaignPaths
from state.records import Action, Decision, Job
from tests.faults.campaign import world

DONE = [
    Action(key="e1", kind="evaluate", decision="D1", state="done", result={"wall_s": 30.0, "exit": {"wall_s": 40.0}}),
    Action(key="e2", kind="evaluate", decision="D1", state="done", result={"wall_s": 10.0}),
    Action(key="e3", kind="evaluate", decision="D1", state="failed", result={"wall_s": 999.0}),
    Action(key="t1", kind="train", decision="D1", state="done", result={"wall_s": 999.0}),
]
JOBS = [Job(key=each.key, kind="evaluation", folder="f", steps=10) for each in DONE]


def asked(
    folder: Path, action: Any, inputs: dict[str, Any], done: tuple[list[Action], list[Job]] = ([], []), **campaign: Any
) -> dict[str, Any]:
    """Return a worker's input, how many answers it is to give, and for how long it may."""
    loaded = load_campaign(world.write_campaign(folder, **campaign))
    session: Any = SimpleNamespace(
        loaded=loaded, goal=loaded.goal, paths=CampaignPaths(folder / "home", "storm"),
        model=loaded.resolve(loaded.goal.model.path), adapter=None, environment={}, workers={"evaluation": "worker"},
        store=SimpleNamespace(read=SimpleNamespace(runs=list, actions=lambda: done[0], jobs=lambda: done[1])),
    )  # fmt: skip
    decision = Decision(rule="r", sentence="s", action=action, action_key="k", run="R1", action_inputs=inputs)
    spec = job_spec(session, decision)
    return spec.input | {"steps": spec.steps, "wall_s": [g.threshold for g in spec.guards if g.signal == "wall_s"]}


CONFIRMED = {"use": "confirmation", "side": "candidate", "weights": "w", "adapter": "a" * 64}


@pytest.mark.parametrize(
    ("export", "form", "other"),
    [(None, "apart", "fused"), ({"to": "out"}, "apart", "fused"), ({"to": "out", "fused": True}, "fused", "apart")],
)
def test_what_is_confirmed_is_what_the_export_hands_out(tmp_path: Path, export: Any, form: str, other: str) -> None:
    given = asked(tmp_path, "confirm", CONFIRMED, **({"export": export} if export else {}))
    assert (given["form"], given["other_form"]) == (form, other)
    assert "orders" not in given
    bare = asked(tmp_path / "bare", "confirm", CONFIRMED | {"adapter": ""})
    assert not {"form", "other_form", "orders"} & bare.keys(), "without an adapter there is one form"


def test_confirmation_may_take_as_long_as_all_its_answers_do_however_few_selection_has(tmp_path: Path) -> None:
    guards = [guard.model_dump(mode="json") for guard in measuring_guards(wall_s=5.0, left_s=1.0)]
    first = asked(tmp_path / "first", "confirm", CONFIRMED | {"guards": guards})
    assert first["wall_s"] == [60.0]
    given = asked(tmp_path / "later", "confirm", CONFIRMED | {"guards": guards}, (DONE, JOBS))
    cases = (tmp_path / "later" / "confirmation.jsonl").read_text().splitlines()
    assert given["steps"] == 2 * len(cases)
    assert given["wall_s"] == [10 * 4.0 * given["steps"]], "ten times all answers, at 4 s each"
    assert asked(tmp_path / "few", "confirm", CONFIRMED, (DONE, JOBS))["wall_s"] == []


@pytest.mark.parametrize(("dtype", "orders"), [("bfloat16", 3), ("float16", 3), ("float32", None)])
def test_the_base_is_asked_in_other_orders_where_precision_is_half(
    tmp_path: Path, dtype: str, orders: int | None
) -> None:
    base = {"use": "selection", "side": "base", "weights": "w"}
    model = {"path": "base", "dtype": dtype}
    found = asked(tmp_path / "base", "evaluate", base, model=model)
    assert found.get("orders") == orders
    plain = asked(tmp_path / "plain", "evaluate", base, model={"path": "base", "dtype": "float32"})
    assert found["steps"] == plain["steps"] * (1 + (orders or 0)), "fewer cases than are asked again"
    for name, other in (("candidate", CONFIRMED | {"use": "selection"}), ("held", base | {"use": "confirmation"})):
        given = asked(tmp_path / name, "evaluate", other, model=model)
        assert not {"form", "other_form", "orders"} & given.keys()


def test_beliefs_say_what_order_and_form_change() -> None:
    found: list[tuple[Any, ...]] = []
    of: Any = SimpleNamespace(
        action=SimpleNamespace(inputs={"run": "R2"}, key="k"), believe=lambda *told, **_: found.append(told)
    )
    results._noise(of, {"orders": 4, "cases": {"s": 200}, "differ": 0.13, "noise_sd": {"s.ok": 0.011, "s.f1": 0.002}})
    results._other_form(of, {"form": "fused", "cases": 120, "differ": 0.05, "mean_change": {"s.ok": -0.0083}})
    results._other_form(of, {"form": "fused", "skipped": "fused, its weights would take 9.00 GB"})
    (subject, claim, order, value), (run, form, other, _), (*_, skipped, _) = found
    assert skipped == (
        "How it answers in the form that is not handed out was not measured: fused, its weights would take 9.00 GB."
    )
    assert (subject, claim) == ("harness:order", "noise")
    assert value["noise_sd"]["s.ok"] == 0.011
    assert "changes 13% of the base's answers, over 4 orders; most in s.ok, by 0.011" in order
    assert (run, form) == ("run:R2", "other_form")
    assert other == "With the adapter fused into one model, 5% of 120 answers differ from those judged: s.ok -0.008."


def test_a_run_that_was_to_go_on_and_began_anew_is_told_so_with_the_reason() -> None:
    told: list[tuple[Any, ...]] = []

    def believe(*args: Any, **how: Any) -> None:
        told.append((*args, how))

    trained = {"iters": 20, "continued_from": None, "begun_anew": "saves/0000010 is gone or damaged"}
    for result in (trained, trained | {"continued_from": 10, "begun_anew": ""}):
        act = Action(key="k", kind="train", decision="D1", inputs={"run": "R2"}, state="done", result=result)
        of: Any = SimpleNamespace(result=result, action=act, believe=believe)
        results._training(of)
    (_, _, _, value, _), (about, claim, anew, _, how), (_, _, _, after, _) = told
    assert (about, claim, how["holds"], how["severity"]) == ("run:R2", "went_on_from_another", False, "warning")
    assert anew == (
        "R2 was to go on from another run and began anew with all of its steps: saves/0000010 is gone or damaged."
    )
    assert (value["continued_from"], value["begun_anew"]) == (None, trained["begun_anew"])
    assert (after["continued_from"], after["begun_anew"]) == (10, "")

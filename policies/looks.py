"""Of several saves of a run the best is judged: compared on a part of the selection cases, counted in the multiplicity.

A run is measured at its end first. Other saves that may be better, those with a lower validation loss or any where none
was measured, are then looked at on a seeded part of the cases that the gate's own metric is of. The run is judged at
the best of them, at a level divided by how many there were. Looks that would cost much beside the training are left
out, and the decision to measure the run says so. What they cost is counted in tokens, never in seconds: a busy machine
looks at the same saves as a quiet one.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from policies.drafts import Draft, draft, is_same
from policies.target import aims
from policies.view import View
from state.goal import Condition
from state.records import Action, Alternative, Guard, Instrument, Json, Run

MOST_SHARE = 0.25
"""Share of a training's cost that looking at its other saves may have."""

READ_COST, ANSWER_COST = 1 / 3, 3.0
"""What a token of a prompt and one of an answer cost beside a trained one. Read, it needs a third of the operations;
decoded, as many, which on two cores take about as long as the others and on an H200 ten times as long as training
(README: 36,700 trained and 3,600 decoded tokens a second of the same model)."""


def may_be_better(saves: Sequence[Json]) -> list[Json]:
    """Return the saves before the last that may be better than it.

    Args:
        saves: With step, and val_loss where it was measured, oldest first; the last is what the training delivered.
    """
    if not saves:
        return []
    last = saves[-1].get("val_loss")
    lower = [save for save in saves[:-1] if last is None or (save.get("val_loss") or float("inf")) < last]
    return [save for save in lower if save["weights"] != saves[-1]["weights"]]


def look_at_save(view: View, run: Run, trained: Action) -> Draft | None:
    """Look at the next save of a run that may be better than its end, unless that is dear or was done."""
    if why_not(view, trained) or _is_opened(view, run):
        return None
    for save in may_be_better(trained.result.get("saves") or ()):
        inputs = _inputs(view, run.id, save)
        if _taken(view, inputs) is None:
            part = inputs["look"]
            sentence = (
                f"Look at the save of {run.id} at step {save['step']} on {part['cases']} selection cases of "
                f"{part['split']}: it may be better than the end, at step {trained.result['saves'][-1]['step']}."
            )
            return draft(view, "evaluate", "run.look", sentence, inputs, run_id=run.id)
    return None


def _is_opened(view: View, run: Run) -> bool:
    """Say whether the confirmation cases were opened for a run: what was confirmed is what it is judged at."""
    asked = {"run": run.id, "harness": view.identity("harness")}
    return any(a.kind == "confirm" and a.state == "done" and is_same(a.inputs, asked) for a in view.actions)


def why_not(view: View, trained: Action) -> str:
    """Return why saves that may be better are not looked at; empty where they are, and where there are none."""
    others = may_be_better(trained.result.get("saves") or ())
    if not others:
        return ""
    if not view.goal.evaluation.look_cases:
        return "evaluation.look_cases is 0"
    return _too_dear(len(others) * _look_tokens(view), float(trained.result.get("padded_tokens") or 0.0))


def _too_dear(cost: float, trained: float) -> str:
    """Return why looks are too dear beside a training, empty where they are not; both in trained tokens."""
    if cost <= MOST_SHARE * trained:
        return ""
    return f"that would cost as much as {cost:,.0f} trained tokens, and the run has {trained:,.0f}"


def skipped(view: View, trained: Action) -> tuple[Alternative, ...]:
    """Say that saves which may be better are not looked at, and why."""
    reason = why_not(view, trained)
    steps = ", ".join(str(save["step"]) for save in may_be_better(trained.result.get("saves") or ()))
    return (Alternative(action="evaluate", reason=f"the saves at step {steps}: {reason}"),) if reason else ()


def _look_tokens(view: View) -> float:
    """Return what one look costs in trained tokens, by the base's prompts and answers; zero before it was measured."""
    (split, _), harness = _metric(view), view.identity("harness")
    each = [
        READ_COST * row.prompt_tokens + ANSWER_COST * row.output_tokens
        for row in view.measurements
        if (row.side, row.split, row.use, row.harness) == ("base", split, "selection", harness)
    ]
    return view.goal.evaluation.look_cases * math.fsum(each) / max(1, len(each))


def _inputs(view: View, run: str, save: Json) -> Json:
    return {
        "side": "candidate",
        "run": run,
        "harness": view.identity("harness"),
        "weights": save["weights"],
        "adapter": save["adapter"],
        "look": {
            "use": "selection",
            "split": _metric(view)[0],
            "cases": view.goal.evaluation.look_cases,
            "step": save["step"],
        },
    }


def _taken(view: View, inputs: Json) -> Action | None:
    """Return the look at a save that was taken, on however many cases: an edit of their number judges nothing anew."""
    asked = {name: value for name, value in inputs.items() if name != "look"}
    place = {name: value for name, value in inputs["look"].items() if name != "cases"}
    found = (a for a in view.actions if a.kind == "evaluate" and a.state == "done" and is_same(a.inputs, asked))
    at_place = (a for a in found if is_same(a.inputs.get("look") or {}, place))
    return next((a for a in at_place if a.key not in view.void.evaluations), None)


FIRST_SHARE = 0.25
"""Share of a run's steps before which nobody looks: what is lost in the first steps may come back."""


def interim(view: View, recipe: Json, instrument: Instrument, tokens: float) -> tuple[Json, str]:
    """Return how a run is looked at while it trains, or nothing and why it is not.

    A run that has lost, at two looks in a row, what its start could do on a part of the selection cases is stopped by a
    guard that is fixed at launch. It can only end a run, so it takes nothing from the level of a verdict.

    Args:
        view: The record.
        recipe: Of the run.
        instrument: Rollouts are held against cases of their own.
        tokens: That it will train on, padding included.
    """
    cases = view.goal.evaluation.look_cases
    if instrument == "grpo" or not cases:
        return {}, ""
    iters, every = int(recipe["iters"]), int(recipe.get("steps_per_eval", 200))
    first = math.ceil(FIRST_SHARE * iters)
    if why := _too_dear((1 + iters // every - (first - 1) // every) * _look_tokens(view), tokens):
        return {}, f"no look at it while it trains: {why}"
    split, metric = _metric(view)
    return {"split": split, "metric": metric, "sign": _aim(view).direction, "cases": cases, "first": first}, ""


HOPELESS = Guard(signal="interim_lost", op=">", threshold=0.5, patience=2, verdict="hopeless")
"""Two looks in a row that found the target lost."""


def at_best_saves(view: View) -> View:
    """Return the view in which each training's result is the best of its saves, where all that may be were looked at.

    `weights` and `adapter` are then of that save, `looks` is how many were compared, and `judged_step` its step, where
    it is not the end.
    """
    return replace(view, actions=tuple(_at_best(view, action) for action in view.actions))


def _at_best(view: View, trained: Action) -> Action:
    saves: list[Json] = list(trained.result.get("saves") or ()) if trained.kind == "train" else []
    others = may_be_better(saves)
    looks = [_taken(view, _inputs(view, str(trained.inputs.get("run")), save)) for save in others]
    if not others or None in looks:
        return trained
    scores = _scores(view, [*others, saves[-1]])
    parts = [scores.get(look.key, {}) for look in looks if look is not None]
    ended = {case: score for name in _of_weights(view, saves[-1]) for case, score in scores.get(name, {}).items()}
    sign = _aim(view).direction
    # Of equals the later: the end is what the recipe meant.
    shared = set(ended).intersection(*parts)
    # Exact sums, rounded: two saves that are equal on paper are equal in every process.
    means = [round(math.fsum(sign * part[case] for case in shared), 9) for part in (*parts, ended)]
    best = max(range(len(means)), key=lambda place: (means[place], place)) if shared else len(others)
    save = [*others, saves[-1]][best]
    told = {"weights": save["weights"], "adapter": save["adapter"], "looks": len(means)}
    told |= {"judged_step": save["step"]} if save is not saves[-1] else {}
    return trained.model_copy(update={"result": {**trained.result, **told}})


def _of_weights(view: View, save: Json) -> list[str]:
    """Return the evaluations that measured a save on all selection cases under today's harness."""
    asked = {"weights": save["weights"], "use": "selection", "harness": view.identity("harness")}
    return [a.key for a in view.actions if a.kind == "evaluate" and a.state == "done" and is_same(a.inputs, asked)]


def _scores(view: View, saves: Sequence[Json]) -> dict[str, dict[str, float]]:
    """Return evaluation -> case -> score of the gate's own metric, of some saves."""
    split, metric = _metric(view)
    found: dict[str, dict[str, float]] = {}
    for row in (row for save in saves for row in view.measured.get(str(save["weights"]), ())):
        score = row.metrics.get(metric) if row.split == split and row.use == "selection" else None
        if score is not None:
            found.setdefault(row.evaluation, {})[row.case] = score
    return found


def _aim(view: View) -> Condition:
    return next(iter(aims(view.goal.gate)), view.goal.gate.conditions[0])


def _metric(view: View) -> tuple[str, str]:
    """Return split and name of the metric that saves are compared by: the gate's own, or what it is read on."""
    gate, aim = view.goal.gate, _aim(view)
    asked = gate.primary if gate.primary in aim.metrics else aim.metrics[0]
    split, _, name = view.goal.evaluation.dense.get(str(asked), str(asked)).partition(".")
    return split, name


def looks_of(view: View, run: Run) -> int:
    """Return how many saves of a run were compared before it was judged at the best of them; one where none were."""
    found = (a.result.get("looks") for a in view.actions if a.inputs.get("recipe_hash") == run.recipe_hash)
    return next((int(count) for count in found if count), 1)


def told_of(trained: Action | None) -> str:
    """Say at which save a run is judged and how many were compared; empty where its end is all there is."""
    looks = trained.result.get("looks") if trained is not None else None
    if trained is None or not looks:
        return ""
    step = trained.result.get("judged_step")
    where = "its end" if step is None else f"its save of step {step}"
    return f" It is judged at {where}, the best of {looks} compared, at a level divided by {looks}."

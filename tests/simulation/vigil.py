"""Vigil in the simulated laboratory: the planner itself, decision by decision, over a record kept in memory."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from policies.checks import base_table, gate_beliefs
from policies.comparison import CaseTable
from policies.cost import rows_together
from policies.history import hard_stops
from policies.next_run import HOPELESS
from policies.significance import sign_p
from state.goal import Goal
from state.records import Belief, Decision, Evidence, Json, Measurement, SplitUse
from tests.policies.rehearsal import START, Rehearsal
from tests.simulation.outcome import Outcome
from tests.simulation.priors import BUDGET_H, INSTRUMENTS, Truth
from tests.simulation.world import CASE_S, FIXED_S, MARGIN, Weights, World

LOST_P = 0.005
"""Chance of so many more losses than wins from which a look says lost, as the workers say it (a test holds them equal).
"""

_TOKENS = 300
"""Padded length of every row, and of every prompt."""

_ANSWER = 60
"""Length of every answer: by tokens a look then costs beside a training what it costs by seconds."""


def goal_of(truth: Truth) -> Goal:
    """Return the campaign file: what is asked, by which metrics, within which budget."""
    files = {"selection": "s.jsonl", "confirmation": "c.jsonl"}
    spec: dict[str, Any] = {
        "campaign": "night",
        "seed": truth.seed,
        "model": {"path": "base"},
        "track": {"grader": "grade.py", "metrics": ["score", "control"]},
        "data": {"train": "train.jsonl", "pairs": "pairs.jsonl"},
        "instruments": list(INSTRUMENTS),
        "evaluation": {
            "max_tokens": 64,
            "control": "main.control",
            "splits": {"main": files, "regular": files},
        },
        "gate": {
            "conditions": [
                {"id": "target", "metric": "main.score", "min": truth.threshold},
                {"id": "regular", "metric": "regular.score", "against": "parent", "min": -MARGIN},
            ]
        },
        "budget": {"hours": BUDGET_H},
        "approvals": {"promotion": {"mode": "auto"}},
    }
    return Goal.model_validate(spec)


@dataclass(kw_only=True)
class Night(Rehearsal):
    """A campaign whose world is a simulated one."""

    world: World
    made: dict[str, Weights] = field(default_factory=dict)
    """Weights hash -> what they are."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.made["weights-1"] = self.world.base

    @property
    def left_s(self) -> float:
        """Seconds until the budget is spent."""
        return START + BUDGET_H * 3600 - self.now

    def _train(self, decision: Decision) -> Json:
        run = next(run for run in self.runs if run.id == decision.run)
        inputs, recipe, parent = decision.action_inputs, run.recipe, self.made[run.parent_hash]
        iters, every = int(recipe["iters"]), int(recipe["save_every"])
        since = int(inputs["continues"]["save"]) if "continues" in inputs else 0
        found = self.world.train(parent, run.instrument, recipe, run.seed, since)
        seconds, verdict = found.seconds, found.stopped
        step = max(1, since + round((iters - since) * found.share))
        shorter = {done: {**recipe, "iters": done} for done in range(every, step, every) if done > since}
        at = {s: self.world.train(parent, run.instrument, each, run.seed).weights for s, each in shorter.items()}
        at[step] = found.weights
        if "interim" in inputs:
            lost, looking_s = self._looked_at(inputs["interim"], parent, at)
            seconds += looking_s
            if lost is not None and lost < step:
                seconds -= self.world.train_s(run.instrument, {**recipe, "iters": step}, lost) - FIXED_S
                step, verdict = lost, "hopeless"
        if seconds > self.left_s:
            self.now += max(0.0, self.left_s)
            return {"exit": {"verdict": "out_of_time"}}
        self.now += seconds
        saves = []
        for done, weights in at.items():
            if done <= step:
                self.made[weights.name] = weights
                # Nothing is validated while rollouts are learned from.
                by_rows = run.instrument != "grpo"
                loss = self.world.val_loss(run.instrument, {**recipe, "iters": done}) if by_rows else None
                saves.append({"step": done, "weights": weights.name, "adapter": f"a-{weights.name}", "val_loss": loss})
        losses = [save["val_loss"] for save in saves if save["val_loss"] is not None]
        return {
            **saves[-1],
            "saves": saves,
            "wall_s": seconds,
            "startup_s": FIXED_S,
            "iters": step,
            "padded_tokens": step * rows_together(recipe, run.instrument) * _TOKENS,
            "steps_s": self.world.train_s(run.instrument, {**recipe, "iters": step}) - FIXED_S,
            "val_losses": [1.0, *losses] if losses else [],
            "verdict": verdict or None,
        }

    def _looked_at(self, look: Json, parent: Weights, at: Mapping[int, Weights]) -> tuple[int | None, float]:
        """Return the step at which looks end a training, None for none, and the seconds that looking took."""
        cases, lost = int(look["cases"]), 0
        before = self.world.scores(parent, "selection")[look["split"]][look["metric"]][:cases]
        taken = 1
        for step, weights in at.items():
            if step < look["first"]:
                continue
            taken += 1
            change = self.world.scores(weights, "selection")[look["split"]][look["metric"]][:cases] - before
            worse, better = int((change < 0).sum()), int((change > 0).sum())
            lost = lost + 1 if sign_p(worse, better) <= LOST_P else 0
            if lost == HOPELESS.patience:
                return step, taken * cases * CASE_S
        return None, taken * cases * CASE_S

    def _census(self, key: str) -> None:
        seen = (Evidence(kind="job", ref=key, summary="counted"),)
        uses: tuple[SplitUse, ...] = ("selection", "confirmation")
        cases = self.world.truth.cases
        for use in uses:
            main = {"score": {"mean": self.world.ceiling(use), "n": cases}, "control": {"mean": 1.0, "n": cases}}
            for split, value in (("main", main), ("regular", {"score": {"mean": 1.0, "n": cases}})):
                place = {"subject": f"harness:{split}.{use}", "claim": "ceiling"}
                self.believe(Belief(**place, statement="c", value=value, tag="confirmed", evidence=seen))
        self.believe(
            Belief(
                subject="data:train",
                claim="fits_sequence",
                statement="fits",
                value={"rows": self.world.truth.rows, "max_tokens": _TOKENS, "p50": _TOKENS, "p95": _TOKENS},
                tag="confirmed",
                evidence=seen,
            )
        )
        self.now += 60
        self._reach()

    def _reach(self, *measured: str) -> None:
        """Hold the gate against the ceiling and the base, as Knowing does at each visit."""
        keys = frozenset((*measured, *(action.key for action in self.actions if action.kind == "evaluate")))
        table = base_table(self.measurements, "weights-1", keys) if keys else CaseTable()
        for belief in gate_beliefs(self.goal, self.beliefs, table):
            self.believe(belief)

    def _measure(self, decision: Decision) -> Json:
        inputs = {**decision.action_inputs, **decision.action_inputs.get("look", {})}
        cases = min(self.world.truth.cases, int(inputs.get("cases", self.world.truth.cases)))
        found = self.world.scores(self.made[inputs["weights"]], inputs["use"])
        if "look" in inputs:
            found = {inputs["split"]: {name: scores[:cases] for name, scores in found[inputs["split"]].items()}}
        seconds = len(found) * cases * CASE_S
        self.now += seconds
        premises = tuple(p.belief for p in decision.premises if p.subject.startswith("harness:"))
        for split, metrics in found.items():
            self.believe(
                Belief(
                    subject=f"score:{inputs['run'] or inputs['side']}.{split}.{inputs['use']}",
                    claim="means",
                    statement="means",
                    value=decision.action_key,
                    tag="confirmed",
                    premises=premises,
                    evidence=(Evidence(kind="job", ref=decision.action_key, summary="measured"),),
                )
            )
            columns = {name: scores.tolist() for name, scores in metrics.items()}
            self.measurements += [
                Measurement.model_construct(
                    evaluation=decision.action_key,
                    run=inputs["run"],
                    side=inputs["side"],
                    split=split,
                    use=inputs["use"],
                    case=f"{inputs['use']}-{number:03d}",
                    metrics={name: column[number] for name, column in columns.items()},
                    finish_reason="stop",
                    prompt_tokens=_TOKENS,
                    output_tokens=_ANSWER,
                    harness=inputs["harness"],
                    weights=inputs["weights"],
                )
                for number in range(cases)
            ]
        if inputs["side"] != "candidate":
            self._reach(decision.action_key)
        return {"wall_s": seconds}


def census(truth: Truth) -> tuple[bool, float]:
    """Return whether a campaign is one that a look at the harness and the base ends, and the seconds it takes."""
    night = Night(goal=goal_of(truth), world=World(truth))
    while not any(action.kind == "evaluate" for action in night.actions) and night.step() != "hard_stop":
        pass
    return bool(hard_stops(night.view())), night.now - START


def play(truth: Truth) -> Outcome:
    """Run one campaign to its end."""
    world = World(truth)
    night = Night(goal=goal_of(truth), world=world, keeps_states=True)
    night.run(most=5000)
    hours = min(BUDGET_H, (night.now - START) / 3600)
    promoted = next((d.run for d in reversed(night.decisions) if d.action == "promote"), "")
    weights = None
    if promoted and night.campaign.state == "promoted":
        adapter = next(run.adapter for run in night.runs if run.id == promoted)
        weights = night.made[adapter.removeprefix("a-")]
    return Outcome.of(world, weights, hours, len(night.runs), night.decisions[-1].rule)

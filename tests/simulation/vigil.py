"""Vigil in the simulated laboratory: the planner itself, decision by decision, over a record kept in memory."""

from dataclasses import dataclass, field
from typing import Any

from policies.cases import CaseTable
from policies.findings import base_table, gate_beliefs
from policies.walltime import rows_at_once
from state.goal import Goal
from state.records import Belief, Decision, Evidence, Json, Measurement, SplitUse
from tests.policies.rehearsal import START, Rehearsal
from tests.simulation.outcome import Outcome
from tests.simulation.priors import BUDGET_H, INSTRUMENTS, Truth
from tests.simulation.world import FIXED_S, MARGIN, Weights, World

_TOKENS = 300
"""Padded length of every row."""


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
        found = self.world.train(self.made[run.parent_hash], run.instrument, run.recipe, run.seed)
        if found.seconds > self.left_s:
            self.now += max(0.0, self.left_s)
            return {"exit": {"verdict": "out_of_time"}}
        self.now += found.seconds
        weights = f"{found.weights.name}:{run.recipe['iters']}"
        self.made[weights] = found.weights
        iters = max(1, round(run.recipe["iters"] * found.share))
        steps_s = (self.world.train_s(run.instrument, run.recipe) - FIXED_S) * found.share
        return {
            "weights": weights,
            "adapter": f"a-{weights}",
            "wall_s": found.seconds,
            "iters": iters,
            "padded_tokens": iters * rows_at_once(run.recipe, run.instrument) * _TOKENS,
            "steps_s": steps_s,
            "val_losses": list(found.val_losses),
            "val_loss": found.val_losses[-1],
            "verdict": found.stopped or None,
        }

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

    def _measure(self, decision: Decision) -> None:
        inputs = decision.action_inputs
        self.now += self.world.evaluation_s
        premises = tuple(p.belief for p in decision.premises if p.subject.startswith("harness:"))
        for split, metrics in self.world.scores(self.made[inputs["weights"]], inputs["use"]).items():
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
                    prompt_tokens=1,
                    output_tokens=1,
                    harness=inputs["harness"],
                    weights=inputs["weights"],
                )
                for number in range(self.world.truth.cases)
            ]
        if inputs["side"] != "candidate":
            self._reach(decision.action_key)


def play(truth: Truth) -> Outcome:
    """Run one campaign to its end."""
    world = World(truth)
    night = Night(goal=goal_of(truth), world=world)
    night.run(most=5000)
    hours = min(BUDGET_H, (night.now - START) / 3600)
    promoted = next((d.run for d in reversed(night.decisions) if d.action == "promote"), "")
    weights = None
    if promoted and night.campaign.state == "promoted":
        adapter = next(run.adapter for run in night.runs if run.id == promoted)
        weights = night.made[adapter.removeprefix("a-")]
    return Outcome.of(world, weights, hours, len(night.runs), night.decisions[-1].rule)

"""A whole campaign rehearsed without a store, a file or a process: drafts applied to a view, results invented."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from policies import plan
from policies.checks import gate_beliefs
from policies.comparison import CaseTable
from policies.drafts import Draft
from policies.history import View, hard_stops
from policies.next_run import at_best_saves
from policies.repairs import is_repair, repaired
from policies.validity import contaminated, contamination
from state.goal import Goal
from state.records import (
    Action,
    Answer,
    Approval,
    ApprovalKind,
    Belief,
    Campaign,
    Commitment,
    Decision,
    Evidence,
    Json,
    Measurement,
    Request,
    Run,
    SplitUse,
)

CASES = 160
START = 1_700_000_000.0

ACT_S = 60.0
"""Seconds that every act takes beside its own."""

Score = Callable[[str, int], float]
"""(weights, case number) -> score in [0, 1]."""


def goal(**changes: Any) -> Goal:
    """Return a small goal: one split, one score, at least 0.75."""
    spec: dict[str, Any] = {
        "campaign": "rehearsal",
        "model": {"path": "base"},
        "track": {"grader": "grade.py", "metrics": ["score", "control"]},
        "data": {"train": "train.jsonl"},
        "evaluation": {
            "max_tokens": 64,
            "control": "main.control",
            "splits": {"main": {"selection": "s.jsonl", "confirmation": "c.jsonl"}},
        },
        "gate": {"max_confirmations": 2, "conditions": [{"id": "score", "metric": "main.score", "min": 0.75}]},
        "recipe": {"batch_size": 4, "iters": 20, "max_seq_length": 128},
        "approvals": {"promotion": {"mode": "auto"}},
        **changes,
    }
    return Goal.model_validate(spec)


def identity(name: str, value: str) -> Belief:
    """Return what Knowing records about an identity."""
    return Belief(id=f"I-{name}", subject=f"identity:{name}", claim="is", statement=name, value=value, tag="confirmed")


@dataclass
class Rehearsal:
    """The record of a campaign, and how the world answers.

    Args:
        goal: What is asked for.
        score: The world: what weights score on a case.
        fails: Kind of action -> how often it fails before it works.
        answers: Kind of question -> answer; left out: nobody answers.
        ceiling: What the references score.
        exit: The exit record of what fails.
        error: What its worker said.
    """

    goal: Goal = field(default_factory=goal)
    score: Score = lambda weights, case: 0.5 + 0.0025 * _iters(weights) + 0.001 * (case % 7 - 3)
    fails: dict[str, int] = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=lambda: {"launch": "yes", "promotion": "yes"})
    ceiling: float = 1.0
    exit: Json = field(default_factory=dict)
    error: Json = field(default_factory=dict)
    curve: tuple[tuple[int, float], ...] = ()
    """(max_tokens, what the references score) pairs; empty: not told."""
    cases: int = CASES
    more_cases: int = 4 * CASES
    """Cases once the measurement was mended with more."""
    missing_fused: frozenset[str] = frozenset()
    """Adapters whose fused model is gone; made again it is there."""
    step_s: float = 0.1
    """Time of a training step that is only timed."""
    signal: dict[str, Json] = field(default_factory=dict)
    """What rollouts start from -> what its answers earn; empty: not told."""
    now: float = START
    previous_session: frozenset[str] = frozenset()
    goal_version: int = 1
    gate_since: int = 1
    taught_since: int = 1
    saved_at: tuple[float, ...] = ()
    """Shares of its steps at which a training leaves a save with a lower validation loss than its end."""
    keeps_states: bool = False
    """Whether trainings leave a save that a longer run can go on from."""
    beliefs: list[Belief] = field(default_factory=list)
    superseded: list[Belief] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    approvals: list[Approval] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    commitments: list[Commitment] = field(default_factory=list)
    campaign: Campaign = field(default_factory=lambda: Campaign(name="rehearsal", started_at=START))

    def __post_init__(self) -> None:
        for name in ("harness", "weights", "data", "tokens"):
            self.beliefs.append(identity(name, f"{name}-1"))

    def view(self) -> View:
        """Return what the planner may look at now."""
        view = View(
            goal=self.goal,
            goal_version=self.goal_version,
            gate_since=self.gate_since,
            taught_since=self.taught_since,
            resumable={
                a.key: f"{a.result['iters']:07d}"
                for a in self.actions
                if self.keeps_states and a.kind == "train" and a.state == "done" and not a.result.get("verdict")
            },
            now=self.now,
            campaign=self.campaign,
            previous_session=self.previous_session,
            utc_offset_s=0.0,
            used_gb=0.0,
            missing_fused=self.missing_fused,
            beliefs=tuple(self.beliefs),
            runs=tuple(self.runs),
            actions=tuple(self.actions),
            decisions=tuple(self.decisions),
            approvals=tuple(self.approvals),
            measurements=tuple(self.measurements),
            requests=tuple(self.requests),
            commitments=tuple(self.commitments),
            invalidated=contamination([*self.beliefs, *self.superseded], self.decisions, self.actions),
        )
        return at_best_saves(view.on_present_weights())

    def believe(self, belief: Belief) -> None:
        """Put a belief in the place of the one that stood for its claim."""
        self.superseded += [b for b in self.beliefs if (b.subject, b.claim) == (belief.subject, belief.claim)]
        kept = [b for b in self.beliefs if (b.subject, b.claim) != (belief.subject, belief.claim)]
        number = len(self.beliefs) + len(self.superseded) + 1
        self.beliefs = [*kept, belief.model_copy(update={"id": belief.id or f"B{number}"})]

    def refute(self, subject: str, claim: str) -> str:
        """Refute what stands of a claim, as a person would, and return its id."""
        [found] = [b for b in self.beliefs if (b.subject, b.claim) == (subject, claim)]
        fallen = set(contaminated(self.beliefs, [found.id]))
        seen = (*found.evidence, Evidence(kind="person", ref="ada", summary="No."))
        denied = {"status": "refuted", "evidence": seen}
        self.beliefs = [
            b.model_copy(update=denied if b.id == found.id else {"status": "stale"} if b.id in fallen else {})
            for b in self.beliefs
        ]
        return found.id

    def step(self) -> str:
        """Decide once and act; return the rule that decided, or `ended`, `asked`."""
        view = self.view()
        if view.has_ended:
            return "ended"
        decision = plan.standing(view)
        if decision is None:
            found = plan.plan(view)
            if found is None:
                return "asked"
            decision = self.record(found)
        if decision.action == "judge" or not self._may(decision):
            return decision.rule
        self.act(decision)
        return decision.rule

    def record(self, found: Draft) -> Decision:
        """Commit a draft as the deciding node does."""
        self.runs = [run.model_copy(update=found.run_updates.get(run.id, {})) for run in self.runs]
        number = f"D{len(self.decisions) + 1}"
        decision = found.decision.model_copy(
            update={"id": number, "made_at": self.now, "goal_version": self.goal_version}
        )
        if found.run is not None:
            self.runs.append(found.run.model_copy(update={"decision": number}))
        self.decisions.append(decision)
        closed = found.closes
        self.commitments = [
            row.model_copy(update={"status": closed.get(row.id, row.status)}) for row in self.commitments
        ]
        for commitment in found.commitments:
            made = {"id": f"C{len(self.commitments) + 1}", "decision": number}
            self.commitments.append(commitment.model_copy(update=made))
        if found.bucket is not None:
            judged = {"bucket": found.bucket, "state": "judged"}
            self.runs = [r.model_copy(update=judged) if r.id == decision.run else r for r in self.runs]
        if is_repair(decision):
            self._mend(decision)
        if decision.needs is not None:
            row = Approval(id=f"Q{number}", kind=decision.needs, decision=number, question=decision.sentence)
            self.approvals.append(row.model_copy(update={"asked_at": self.now}))
            if decision.needs in self.answers:
                self.answer(row.id, self.answers[decision.needs])
        return decision

    def _mend(self, decision: Decision) -> None:
        """Take a repair of the measurement into the goal, as the agent does, and look at the world again."""
        self.goal = repaired(self.goal, self.decisions)
        self.goal_version += 1
        change = decision.verdict["repair"]
        self.ceiling = next((score for tokens, score in self.curve if tokens == change.get("max_tokens")), self.ceiling)
        self.cases = self.more_cases if "cases" in change else self.cases
        if "dense" in change:
            return
        gone = {"harness", "tokens"}
        kept = [b for b in self.beliefs if b.subject.removeprefix("identity:") not in gone]
        self.beliefs = [
            b.model_copy(update={"status": "stale"}) if b.subject.partition(":")[0] in {"gate", "harness"} else b
            for b in kept
        ] + [identity(name, f"{name}-{self.goal_version}") for name in sorted(gone)]

    def answer(self, question: str, said: Answer, by: str = "policy", reason: str = "") -> None:
        """Answer a question; the first answer wins."""
        self.approvals = [
            row.model_copy(update={"answer": said, "answered_by": by, "reason": reason})
            if row.id == question and row.answer is None
            else row
            for row in self.approvals
        ]

    def ask(self, kind: Literal["confirm", "promote"], run: str) -> None:
        """Ask something of a run, as a person does, and accept it."""
        number = f"X{len(self.requests) + 1}"
        self.requests.append(Request(id=number, kind=kind, target=run, by="ada"))
        asked: ApprovalKind = "confirmation" if kind == "confirm" else "promotion"
        row = Approval(id=f"Q{number}", kind=asked, decision=number, question="?", answer="yes", answered_by="ada")
        self.approvals.append(row)

    def _may(self, decision: Decision) -> bool:
        question = self.view().answer_to(decision)
        return decision.needs is None or (question is not None and question.answer == "yes")

    def act(self, decision: Decision) -> None:
        """Do what was decided: fail if told to, else invent the result."""
        self.now += ACT_S
        action = Action(
            key=decision.action_key,
            kind=decision.action,
            decision=decision.id,
            inputs=decision.action_inputs,
            created_at=self.now,
        )
        if self.fails.get(decision.action, 0) > 0:
            self.fails[decision.action] -= 1
            self.actions.append(
                action.model_copy(update={"state": "failed", "result": {"exit": self.exit, "error": self.error}})
            )
            return
        result: Json = {}
        if decision.action == "census":
            self._census(decision.action_key)
        elif decision.action in {"evaluate", "confirm"}:
            result = self._measure(decision) or {}
        elif decision.action == "train":
            result = self._train(decision)
        elif decision.action == "fuse":
            weights = next(
                a.result["weights"]
                for a in self.actions
                if a.result.get("adapter") == decision.action_inputs["adapter"]
            )
            self.missing_fused -= {decision.action_inputs["adapter"]}
            result = {"weights": f"fused-{weights}", "fused": "out/fused"}
        elif decision.action == "pace":
            result = {
                "iters": 3,
                "steps_s": 3 * self.step_s,
                "padded_tokens": 3 * 4 * 80,
                "wall_s": 3 * self.step_s + 5,
                **({"signal": self.signal[decision.action_inputs["parent"]]} if self.signal else {}),
            }
        elif decision.action in {"conclude", "halt"}:
            self.campaign = self.campaign.model_copy(
                update={"state": decision.action_inputs["state"], "sentence": decision.sentence}
            )
        state = "failed" if "exit" in result else "done"
        self.actions.append(action.model_copy(update={"state": state, "result": result, "finished_at": self.now}))

    def _train(self, decision: Decision) -> Json:
        iters = next(run.recipe["iters"] for run in self.runs if run.id == decision.run)
        weights = f"{decision.action_inputs['recipe_hash'][:8]}:{iters}"
        result = {"weights": weights, "adapter": f"a-{weights}", "wall_s": 50.0, "iters": iters}
        if self.saved_at:
            steps = [round(share * iters) for share in self.saved_at]
            names = [f"{decision.action_inputs['recipe_hash'][:8]}:{step}" for step in steps]
            saves = [
                {"step": step, "weights": name, "adapter": f"a-{name}", "val_loss": 0.8}
                for step, name in zip(steps, names, strict=True)
            ]
            end = {"step": iters, "weights": weights, "adapter": f"a-{weights}", "val_loss": 0.9}
            result["saves"] = [*saves, end]
        losses = [1.0, *(0.8 for _ in self.saved_at), 0.9]
        return result | {"padded_tokens": iters * 332, "steps_s": 40.0, "val_losses": losses, "val_loss": 0.9}

    def _census(self, key: str) -> None:
        seen = (Evidence(kind="job", ref=key, summary="counted"),)
        uses: tuple[SplitUse, ...] = ("selection", "confirmation")
        for use in uses:
            value = {name: {"mean": self.ceiling, "n": self.cases} for name in ("score", "control")}
            place = {"subject": f"harness:main.{use}", "claim": "ceiling"}
            self.believe(Belief(**place, statement="c", value=value, tag="confirmed", evidence=seen))
            told = {name: [list(pair) for pair in self.curve] for name in value if self.curve}
            place = {"subject": f"harness:main.{use}", "claim": "decode_curve"}
            self.believe(Belief(**place, statement="d", value=told, tag="confirmed", evidence=seen))
        self.believe(
            Belief(
                subject="data:train",
                claim="fits_sequence",
                statement="fits",
                value={"rows": 400, "max_tokens": 100, "p50": 60, "p95": 90},
                tag="confirmed",
                evidence=seen,
            )
        )
        for belief in gate_beliefs(self.goal, self.beliefs, CaseTable()):
            self.believe(belief)

    def _measure(self, decision: Decision) -> Json | None:
        """Invent what is measured; what is returned becomes the result of the act."""
        inputs = {**decision.action_inputs, **decision.action_inputs.get("look", {})}
        self.believe(
            Belief(
                subject=f"score:{inputs['run'] or inputs['side']}.main.{inputs['use']}",
                claim="means",
                statement="means",
                value=decision.action_key,
                tag="confirmed",
                premises=tuple(p.belief for p in decision.premises if p.subject.startswith("harness:")),
                evidence=(Evidence(kind="job", ref=decision.action_key, summary="measured"),),
            )
        )
        for number in range(min(self.cases, inputs.get("cases", self.cases))):
            offset = number if inputs["use"] == "selection" else number + 1
            score = min(1.0, max(0.0, self.score(inputs["weights"], offset)))
            self.measurements.append(
                Measurement(
                    evaluation=decision.action_key,
                    run=inputs["run"],
                    side=inputs["side"],
                    split="main",
                    use=inputs["use"],
                    case=f"{inputs['use']}-{number}",
                    metrics={"score": score, "control": score, "full": 1.0},
                    finish_reason="stop",
                    prompt_tokens=1,
                    output_tokens=1,
                    harness=inputs["harness"],
                    weights=inputs["weights"],
                )
            )
        return None

    def run(self, most: int = 400) -> list[str]:
        """Step until the campaign has ended or only an answer can go on; return the rules in order."""
        rules: list[str] = []
        for _ in range(most):
            rule = self.step()
            if rule in {"ended", "asked"}:
                return [*rules, rule]
            rules.append(rule)
        raise AssertionError(f"no end after {most} steps: {rules[-10:]}")

    def kinds(self) -> list[str]:
        """Return what was done, in order."""
        return [action.kind for action in self.actions]

    def later(self) -> "Rehearsal":
        """Return the same campaign in another sitting, a minute later, taken up again."""
        self.now += 60
        running = self.campaign.model_copy(update={"state": "running", "sentence": ""})
        previous_session = frozenset(d.id for d in self.decisions) | {a.key for a in self.actions}
        return replace(self, previous_session=previous_session, campaign=running, beliefs=list(self.beliefs))


def _iters(weights: str) -> int:
    return int(weights.rpartition(":")[2]) if ":" in weights else 0


def stops(rehearsal: Rehearsal) -> list[str]:
    """Return the claims that forbid spending now."""
    return [belief.claim for belief in hard_stops(rehearsal.view())]

"""What a finished action is worth knowing: exit records and results become beliefs and measurements.

Digesting twice changes nothing: one outcome belief per action, measurements unique by (evaluation, split, use, case).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from agent.fingerprints import World, chosen, part_print
from agent.inputs import paid_signs
from agent.session import Session
from policies.pace import advice
from state.files import read_jsonl
from state.recipe import setting
from state.records import (
    Action,
    ActionKind,
    Belief,
    Evidence,
    Fingerprint,
    Json,
    Measurement,
    Severity,
    Tag,
    runbook_of,
)
from tools.probes.golds import check_all_or_nothing
from tools.probes.outputs import judge_adversarial
from tools.probes.stock import stock_findings


def record_results(session: Session, world: World) -> None:
    """Turn every action that ended since the last visit into beliefs and measurements.

    An action whose beliefs went stale and whose ground is as it was again is read once more, instead of done again.
    """
    standing = session.standing()
    known = {belief.subject for belief in standing}
    stale = {(belief.subject, belief.claim) for belief in standing if belief.status == "stale"}
    revived = _revived(session, stale) if stale else frozenset()
    for action in session.store.read.actions():
        is_new = f"action:{action.key}" not in known
        if action.state == "intent" or not (is_new or action.key in revived):
            continue
        details = _DIGEST.get(action.kind)
        if action.state == "done" and details is not None:
            details(_Results(session, action, world))
        # Written last: a kill before this line digests again, and finds everything already there.
        if is_new:
            _Results(session, action, world).believe(f"action:{action.key}", "outcome", _outcome(action), action.state)


def _revived(session: Session, stale: set[tuple[str, str]]) -> frozenset[str]:
    """Return the actions that measured what is stale now, under the very harness, tokens and data of today."""
    identity = {b.subject.removeprefix("identity:"): b.value for b in session.standing() if b.claim == "is"}
    keys = {
        each.ref
        for belief in session.store.read.beliefs()
        for each in belief.evidence
        if each.kind == "job" and (belief.subject, belief.claim) in stale
    }
    return frozenset(
        action.key
        for action in session.store.read.actions(state="done")
        if action.key in keys
        and all(action.inputs[name] == identity.get(name) for name in _GROUND if name in action.inputs)
    )


_GROUND = ("harness", "tokens", "data")
"""Identities that an action's inputs name; its weights are its own."""


def _outcome(action: Action) -> str:
    """Say how an action ended."""
    ended = action.exit
    if action.state == "failed":
        return f"{action.kind} {f'was stopped by {ended.by}' if ended.state == 'stopped' else 'failed'}: {ended.why}."
    took = f" in {ended.wall_s:.0f} s" if ended.wall_s else ""
    again = f", restarted {ended.restarts} times" if ended.restarts else ""
    return f"{action.kind} done{took}{again}."


_MEASURED_ON = ("harness:", "model:")
"""Beliefs that a score falls with."""


@dataclass(frozen=True)
class _Results:
    """One ended action, and the world that its beliefs are formed in."""

    session: Session
    action: Action
    world: World

    @property
    def result(self) -> Json:
        """What the job left."""
        return self.action.result

    def believe(
        self,
        subject: str,
        claim: str,
        statement: str,
        value: Any = None,
        *,
        stands_on: Iterable[str] = (),
        holds: bool = True,
        severity: Severity = "note",
        tag: Tag = "confirmed",
        mode: str = "",
        fix: str = "",
    ) -> None:
        """Record one belief whose evidence is the action's job; `stands_on` are names of the world."""
        decision = self.session.store.read.decision(self.action.decision)
        self.session.store.knowing.believe(
            Belief(
                subject=subject,
                claim=claim,
                statement=statement,
                value=value,
                tag=tag,
                status="fresh" if holds else "refuted",
                severity=severity,
                evidence=(Evidence(kind="job", ref=self.action.key, summary=_outcome(self.action)),),
                stands_on=self._fingerprints(stands_on),
                premises=tuple(p.belief for p in decision.premises if p.subject.startswith(_MEASURED_ON))
                if claim == "means"
                else (),
                mode=mode,
                fix=fix,
                runbook="" if severity == "note" else runbook_of(mode),
                formed_at=self.action.finished_at or self.session.clock.now(),
            )
        )

    def _fingerprints(self, names: Iterable[str]) -> tuple[Fingerprint, ...]:
        """Return what the job itself hashed, where it did; the world of now elsewhere."""
        hashed = {name: part_print(name, value) for name, value in self.action.measured.harness_parts.items()}
        return chosen({**self.world, **hashed}, names)


_GRADES = ("code", "grader", "decode", "prompt", "tokenizer", "package:*")
_TOKENS = ("code", "decode", "prompt", "tokenizer", "package:*")


def _census(of: _Results) -> None:
    """Ceilings, floors, decode budgets, token census, prompt parity and the grader's own behaviour."""
    result = of.action.counted
    for claim, splits in {"ceiling": result.ceiling, "floor": result.floor, "echo": result.echo}.items():
        for where, metrics in splits.items():
            numbers = ", ".join(
                f"{name} {row['mean']:.3f}" for name, row in sorted(metrics.items()) if row.get("mean") is not None
            )
            of.believe(
                f"harness:{where}",
                claim,
                f"{claim.capitalize()} of {where}: {numbers}.",
                metrics,
                stands_on=(*_GRADES, f"split:{where}"),
            )
    for where, row in result.budget.items():
        of.believe(
            f"harness:{where}",
            "decode_budget",
            f"{row['whole']} of {row['n']} reference answers of {where} fit whole into "
            f"{of.session.goal.evaluation.max_tokens} tokens; all fit into {row['smallest_sufficient']}, and they have "
            f"{sum(row['gold_tokens']) / row['n']:.3g} on average.",
            row,
            stands_on=(*_TOKENS, f"split:{where}"),
            mode="P1",
        )
    for where, curve in result.budget_for.items():
        of.believe(
            f"harness:{where}",
            "decode_curve",
            f"What the reference answers of {where} would score under larger decode budgets, for {len(curve)} metrics.",
            curve,
            stands_on=(*_GRADES, f"split:{where}"),
            mode="P1",
        )
    for where in result.no_reference:
        of.believe(
            f"harness:{where}",
            "ceiling",
            f"Ceiling of {where} is not checked: its cases have no reference answers.",
            stands_on=(*_GRADES, f"split:{where}"),
            tag="assumed",
            mode="P1",
            fix="Give its cases a `reference`; the census then grades them in seconds.",
        )
    for where, row in result.bad_outputs.items():
        _bad_outputs(of, where, row)
    _token_census(of, result.train)
    _rendered(of, result.rendered)
    _pair_census(of, result.pairs)
    _rollout_census(of, result.rollouts)
    if result.grader is not None:
        _grader(of, result.grader)
    if parity := result.prompt_parity:
        same = bool(parity.get("ok"))
        of.believe(
            "data:prompts",
            "match_evaluation",
            "Training and evaluation render their prompts the same way."
            if same
            else f"Training prompts begin {parity.get('train_prefix')!r}, "
            f"evaluation prompts {parity.get('eval_prefix')!r}.",
            parity,
            stands_on=("code", "prompt", "tokenizer", "data:train", "split:*"),
            holds=same,
            severity="hard_stop",
            mode="P7",
            fix="Give both the same system text, see track.system in the campaign file, and the same form: rows of the "
            "text form hold the model's template themselves.",
        )


def _bad_outputs(of: _Results, where: str, row: Json) -> None:
    """Say whether a metric pays for an output that no reward may pay for (P10).

    Where the grader becomes a reward, what rollouts earn and are charged is looked at, and it is a hard stop;
    elsewhere the gate's metrics of the split, with a warning, since a score can be gamed unseen too.
    """
    split = where.rpartition(".")[0]
    goal = of.session.goal
    signs = paid_signs(goal)[split]
    is_reward = goal.instrument_of("rollout") is not None
    wanted = "Nothing that rollouts earn" if is_reward else f"No metric that the gate asks of {split}"
    if not signs or not row["gold"]:
        return
    judged = judge_adversarial(row["scores"], row["gold"], signs)
    paid = [finding for finding in judged if finding.severity == "hard_stop"]
    of.believe(
        f"harness:{where}",
        "pays_for_the_right_thing",
        " ".join(finding.sentence for finding in paid)
        or f"{wanted} pays for a bad output what it pays for the reference, unpunished "
        f"({row['cases']} cases, {len(row['scores'])} kinds of bad outputs).",
        {finding.value.get("metric", finding.claim): finding.value for finding in judged},
        stands_on=("code", "grader", f"split:{where}", "paid"),
        holds=not paid,
        severity="hard_stop" if is_reward else "warning",
        mode="P10",
        fix=paid[0].fix if paid else "",
    )


def _token_census(of: _Results, row: Json) -> None:
    if not row:
        return
    cut, lost = int(row.get("truncated") or 0), int(row.get("prompt_longer_than_max") or 0)
    lines = ", ".join(str(line) for line in (row.get("lines") or [])[:5])
    limit = int(setting(of.session.goal.first_recipe, "max_seq_length"))
    sentence = (
        f"{cut} of {row['rows']:,} training rows are longer than max_seq_length {limit} "
        f"(longest {row['max_tokens']} tokens; lines {lines}), {lost} of them already in the prompt."
        if cut
        else f"All {row['rows']:,} training rows fit into max_seq_length {limit} (longest {row['max_tokens']} tokens)."
    )
    _believe_fits(of, "data:train", sentence, row, holds=not cut, key="recipe.max_seq_length")


def _rendered(of: _Results, told: Json | None) -> None:
    """Believe what the template drops or changes of training rows, where it does; nothing where rows stand whole."""
    found = stock_findings("the training data", told, is_ours=True) if told else []
    if found:
        of.believe(
            "data:train",
            "is_shown_whole",
            " ".join(one.sentence for one in found),
            {one.claim: one.value for one in found},
            stands_on=("code", "prompt", "tokenizer", "package:*", "data:train"),
            holds=False,
            severity="warning",
            mode=found[0].mode,
            fix=found[0].fix,
        )


def _pair_census(of: _Results, row: Json) -> None:
    if not row:
        return
    cut, limit = int(row["truncated"]), of.session.goal.recipe_of_class("preference").get("max_seq_length")
    lines = ", ".join(str(line) for line in row["lines"][:5])
    sentence = (
        f"{cut} of {row['rows']:,} pairs have a side longer than max_seq_length {limit} of the runs on pairs "
        f"(longest {row['max_tokens']} tokens; lines {lines})."
        if cut
        else f"Both sides of all {row['rows']:,} pairs fit (longest {row['max_tokens']} tokens)."
    )
    _believe_fits(of, "data:pairs", sentence, row, holds=not cut, key="max_seq_length of the recipe for dpo")


def _believe_fits(of: _Results, subject: str, sentence: str, row: Json, *, holds: bool, key: str) -> None:
    """Believe whether data fit into the sequence length that a key of the campaign file sets."""
    of.believe(
        subject,
        "fits_sequence",
        sentence,
        row,
        stands_on=("code", "prompt", "tokenizer", "package:*", subject, "sequence"),
        holds=holds,
        severity="hard_stop",
        mode="P8",
        fix=f"Set {key} to {row['max_tokens']} or more, or remove these lines.",
    )


def _rollout_census(of: _Results, row: Json) -> None:
    if row:
        sentence = f"{row['rows']:,} cases are answered while rollouts train."
        of.believe("data:rollouts", "cases", sentence, row, stands_on=("data:rollouts",))


def _grader(of: _Results, row: Json) -> None:
    errors, varies = list(row.get("errors") or ()), list(row.get("varies") or ())
    of.believe(
        "harness:grader",
        "answers",
        "The grader answered every reference answer with numbers."
        if not errors
        else f"The grader failed on {len(errors)} reference answers, first: {errors[0]}.",
        {"errors": errors[:20]},
        stands_on=("code", "grader", "split:*"),
        holds=not errors,
        severity="hard_stop",
        mode="P10",
        fix="Repair the grader; a case it cannot grade has no score, which is not a score of zero.",
    )
    of.believe(
        "harness:grader",
        "is_repeatable",
        "Grading the same answers twice gave the same numbers."
        if not varies
        else f"Grading twice gave different numbers for {len(varies)} answers, first: {varies[0]}.",
        {"varies": varies[:20]},
        stands_on=("code", "grader", "split:*"),
        holds=not varies,
        severity="hard_stop",
        mode="P12",
        fix="Take randomness and time out of the grader.",
    )


def _evaluation(of: _Results) -> None:
    """Store each case as a measurement and the means as a belief."""
    session, inputs, result = of.session, of.action.inputs, of.action.measured
    run = str(inputs.get("run") or "")
    if "look" in inputs:
        # Of a part of the cases, to compare saves: no word on the run as it is judged.
        run = f"{run}@{inputs['look']['step']}"
    path = session.paths.artifact(result.cases) / "cases.jsonl"
    rows = [
        Measurement(
            evaluation=of.action.key,
            run=run,
            side=inputs["side"],
            split=row["split"],
            use=row["use"],
            case=str(row["case"]),
            metrics=row.get("metrics") or {},
            finish_reason=row["finish_reason"],
            prompt_tokens=row["prompt_tokens"],
            output_tokens=row["output_tokens"],
            grader_error=row.get("grader_error") or "",
            harness=result.harness,
            weights=result.weights,
            output_ref=f"{result.cases[:16]}#{row['case']}",
        )
        for row in read_jsonl(path)
    ]
    session.store.knowing.measure(rows)
    if inputs["side"] == "base" and inputs.get("use") == "selection":
        _density(of, rows)
    if result.noise:
        _noise(of, result.noise)
    if result.other_form:
        _other_form(of, result.other_form)
    who = run or inputs["side"]
    # Of a save that the run is judged at, beside what its end scored: another thing, so no contradiction.
    save = f"@{inputs['save']}" if "save" in inputs else ""
    weights = {"base": ("model:base",), "parent": ("model:start",)}.get(inputs["side"], ("model:base",))
    for where, means in result.means.items():
        here = [row for row in rows if f"{row.split}.{row.use}" == where]
        cut = sum(row.finish_reason == "length" for row in here)
        ungraded = sum(bool(row.grader_error) for row in here)
        tokens = sum(row.output_tokens for row in here) / max(1, len(here))
        numbers = ", ".join(f"{name} {value:.3f}" for name, value in sorted(means.items()) if value is not None)
        of.believe(
            f"score:{who}.{where}{save}",
            "means",
            f"{who}{save} on {where}, {len(here)} cases: {numbers}; {tokens:.3g} tokens on average, "
            f"{cut} cut by the decode budget" + (f", {ungraded} not graded" if ungraded else "") + ".",
            {"means": means, "n": len(here), "cut": cut, "ungraded": ungraded, "tokens": tokens},
            stands_on=(*_GRADES, f"split:{where}", *weights),
        )


def _noise(of: _Results, row: Json) -> None:
    """Say what half precision makes of the same weights where the cases are asked in other orders."""
    largest = max(row["noise_sd"], key=lambda metric: float(row["noise_sd"][metric]), default="")
    most = f"; most in {largest}, by {row['noise_sd'][largest]:.3g} (standard deviation)" if largest else ""
    of.believe(
        "harness:order",
        "noise",
        f"In half precision the order of the cases alone changes {row['differ']:.0%} of the base's answers, over "
        f"{row['orders']} orders{most}. A difference counts beyond twice that.",
        row,
        stands_on=(*_GRADES, "split:*", "model:base"),
    )


def _other_form(of: _Results, row: Json) -> None:
    """Say how a confirmed run answers in the form that is not handed out, or why that was not measured."""
    if "skipped" in row:
        of.believe(
            f"run:{of.action.inputs.get('run') or of.action.key}",
            "other_form",
            f"How it answers in the form that is not handed out was not measured: {row['skipped']}.",
            row,
            severity="warning",
        )
        return
    changes = ", ".join(f"{metric} {change:+.3f}" for metric, change in sorted(row["mean_change"].items()))
    form = "fused into one model" if row["form"] == "fused" else "beside its base"
    of.believe(
        f"run:{of.action.inputs.get('run') or of.action.key}",
        "other_form",
        f"With the adapter {form}, {row['differ']:.0%} of {row['cases']} answers differ from those judged: {changes}.",
        row,
    )


def _density(of: _Results, rows: list[Measurement]) -> None:
    """Say whether a gate metric of the base only knows all or nothing, with no denser one beside it (P9)."""
    wanted = of.session.goal.gate.metrics
    for split in sorted({row.split for row in rows}):
        cases = [row.metrics for row in rows if row.split == split]
        values = {name: [case.get(name) for case in cases] for name in sorted({n for case in cases for n in case})}
        findings = {str(finding.value["metric"]): finding for finding in check_all_or_nothing(values)}
        of_gate = {metric: finding for metric, finding in findings.items() if f"{split}.{metric}" in wanted}
        warned = [finding for finding in of_gate.values() if finding.severity == "warning"]
        of.believe(
            f"harness:{split}",
            "shows_progress",
            " ".join(finding.sentence for finding in warned)
            or f"Each metric that the gate asks of {split} shows progress, or has a denser one beside it.",
            {metric: finding.value for metric, finding in of_gate.items()},
            stands_on=(*_GRADES, f"split:{split}.*", "model:base"),
            holds=not warned,
            severity="warning",
            mode="P9",
            fix=warned[0].fix if warned else "",
        )


def _training(of: _Results) -> None:
    """Record what a training left behind; it is history, which no later change of the world makes untrue."""
    made, verdict = of.action.made, of.action.guard_word
    run = str(of.action.inputs.get("run") or "")
    damaged = ", ".join(map(str, made.damaged_saves))
    of.believe(
        f"run:{run or of.action.key}",
        "trained",
        f"Trained {made.iters} iterations on {made.trained_tokens:,} tokens at {made.tokens_per_s:,.0f} tokens/s; "
        f"train loss {made.train_loss}, validation loss {made.val_loss}"
        + (f"; stopped: {verdict}" if verdict else "")
        + (f"; its saves at step {damaged} were damaged, and the ones before were used" if damaged else "")
        + ".",
        {name: of.result.get(name) for name in _TRAINED},
    )
    if made.begun_anew:
        of.believe(
            f"run:{run or of.action.key}",
            "went_on_from_another",
            f"{run} was to go on from another run and began anew with all of its steps: {made.begun_anew}.",
            made.iters,
            holds=False,
            severity="warning",
            fix="Nothing to do: its result is that of a run of its own; it only took longer.",
        )
    if changed := list(made.changed_inputs):
        of.believe(
            f"run:{run or of.action.key}",
            "trained_on_what_was_decided",
            f"{', '.join(changed)} changed while {run} was trained, so its record does not say what it learned from.",
            changed,
            holds=False,
        )


def _pace(of: _Results) -> None:
    """Record what the start's answers to a few prompts earned, before rollouts learn from them."""
    row: Json = of.result.get("signal") or {}
    if not row:
        return
    inputs = of.action.inputs
    who = inputs["parent"]
    ground = (*_GRADES, "data:rollouts", "paid", "model:start" if who == "start" else "model:base")
    trial = f"{who} answers {row['prompts']} prompts {row['samples']} times each"
    cut = f"; {row['cut']} were cut by the budget" if row["cut"] else ""
    for claim, name, share in (
        ("pass_at_1", "pass@1", "of the answers"),
        ("pass_at_k", f"pass@{row['samples']}", "of the prompts at least once"),
    ):
        sentence = f"{trial}: the full reward in {row[claim]:.3f} {share} ({name}){cut}."
        of.believe(f"reward:{who}", claim, sentence, row[claim], stands_on=ground)
    differing = int(row["groups_that_differ"])
    spread = f", by {row['reward_spread']:.3f} on average" if row.get("reward_spread") is not None else ""
    of.believe(
        f"reward:{who}",
        "tells_answers_apart",
        f"{trial}: to {differing} of the prompts one answer earns more than another{spread}{cut}.",
        row,
        stands_on=ground,
        holds=differing > 0,
        severity="warning",
        mode="P10",
        fix="" if differing else advice(row),
    )


_TRAINED = (
    "iters",
    "trained_tokens",
    "padded_tokens",
    "steps_s",
    "tokens_per_s",
    "train_loss",
    "val_loss",
    "peak_memory_gb",
    "padding_share",
    "wall_s",
    "verdict",
    "continued_from",
    "begun_anew",
    "damaged_saves",
)

_DIGEST: dict[ActionKind, Callable[[_Results], None]] = {
    "census": _census,
    "evaluate": _evaluation,
    "confirm": _evaluation,
    "train": _training,
    "pace": _pace,
}

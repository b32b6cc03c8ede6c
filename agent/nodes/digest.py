"""What a finished action is worth knowing: exit records and results become beliefs and measurements.

Digesting twice changes nothing: one outcome belief per action, measurements unique by (evaluation, split, use, case).
"""

from collections.abc import Callable
from typing import Any

from agent.session import Session
from state.files import read_jsonl
from state.records import Action, Belief, Evidence, Fingerprint, Json, Measurement, Severity


def digest(session: Session) -> None:
    """Turn every action that ended since the last visit into beliefs and measurements."""
    known = {belief.subject for belief in session.standing()}
    for action in session.store.read.actions():
        if action.state == "intent" or f"action:{action.key}" in known:
            continue
        details = _DIGEST.get(action.kind)
        if action.state == "done" and details is not None:
            details(session, action)
        # Written last: a kill before this line digests again, and finds everything already there.
        _believe(session, action, f"action:{action.key}", "outcome", _outcome(action), value=action.state)


def _outcome(action: Action) -> str:
    """Say how an action ended."""
    exit_record: Json = action.result.get("exit") or {}
    if action.state == "failed":
        lines = exit_record.get("last_lines") or [""]
        how = f"was stopped by {exit_record['by']}" if exit_record.get("state") == "stopped" else "failed"
        return f"{action.kind} {how}: {exit_record.get('reason') or lines[-1] or 'no reason was left'}."
    wall_s = exit_record.get("wall_s")
    restarts = exit_record.get("restarts") or 0
    took = f" in {float(wall_s):.0f} s" if wall_s is not None else ""
    again = f", restarted {restarts} times" if restarts else ""
    return f"{action.kind} done{took}{again}."


def _believe(
    session: Session,
    action: Action,
    subject: str,
    claim: str,
    statement: str,
    *,
    value: Any = None,
    holds: bool = True,
    severity: Severity = "note",
    mode: str = "",
    fix: str = "",
) -> None:
    """Record one belief whose evidence is the action's job."""
    session.store.knowing.believe(
        Belief(
            subject=subject,
            claim=claim,
            statement=statement,
            value=value,
            tag="confirmed",
            status="fresh" if holds else "refuted",
            severity=severity,
            evidence=(Evidence(kind="job", ref=action.key, summary=_outcome(action)),),
            stands_on=tuple(
                Fingerprint(kind="settings", name=name, value=str(action.inputs[name]))
                for name in ("harness", "census", "weights", "data")
                if name in action.inputs
            ),
            mode=mode,
            fix=fix,
            runbook="runbooks/hard_stops.md" if severity == "hard_stop" else "",
            formed_at=action.finished_at or session.clock.now(),
        )
    )


def _census(session: Session, action: Action) -> None:
    """Ceilings, floors, decode budgets, token census, prompt parity and the grader's own behaviour."""
    result = action.result
    for claim in ("ceiling", "floor", "echo"):
        for where, metrics in (result.get(claim) or {}).items():
            numbers = ", ".join(
                f"{name} {row['mean']:.3f}" for name, row in sorted(metrics.items()) if row.get("mean") is not None
            )
            _believe(
                session,
                action,
                f"harness:{where}",
                claim,
                f"{claim.capitalize()} of {where}: {numbers}.",
                value=metrics,
            )
    for where, row in (result.get("budget") or {}).items():
        _believe(
            session,
            action,
            f"harness:{where}",
            "decode_budget",
            f"{row['whole']} of {row['n']} gold answers of {where} fit whole into "
            f"{session.goal.evaluation.max_tokens} tokens; all fit into {row['smallest_sufficient']}.",
            value={**row, "curve": (result.get("budget_for") or {}).get(where, {})},
            mode="P1",
        )
    for where in result.get("no_reference") or ():
        _believe(
            session,
            action,
            f"harness:{where}",
            "ceiling",
            f"Ceiling of {where} is not checked: its cases have no reference answers.",
            mode="P1",
        )
    _token_census(session, action, result.get("train") or {})
    _grader(session, action, result.get("grader") or {})
    parity: Json = result.get("prompt_parity") or {}
    if parity:
        same = bool(parity.get("ok"))
        _believe(
            session,
            action,
            "data:prompts",
            "match_evaluation",
            "Training and evaluation render their prompts the same way."
            if same
            else f"Training prompts begin {parity.get('train_prefix')!r}, "
            f"evaluation prompts {parity.get('eval_prefix')!r}.",
            value=parity,
            holds=same,
            severity="hard_stop",
            mode="P7",
            fix="Give both the same system text and the same form; see track.system in the campaign file.",
        )


def _token_census(session: Session, action: Action, row: Json) -> None:
    if not row:
        return
    cut, lost = int(row.get("truncated") or 0), int(row.get("prompt_longer_than_max") or 0)
    lines = ", ".join(str(line) for line in (row.get("lines") or [])[:5])
    limit = int(session.goal.recipe.get("max_seq_length", 2048))
    _believe(
        session,
        action,
        "data:train",
        "fits_sequence",
        f"All {row['rows']:,} training rows fit into max_seq_length {limit} (longest {row['max_tokens']} tokens)."
        if not cut
        else f"{cut} of {row['rows']:,} training rows are longer than max_seq_length {limit} "
        f"(longest {row['max_tokens']} tokens; lines {lines}), {lost} of them already in the prompt.",
        value=row,
        holds=not cut,
        severity="hard_stop",
        mode="P8",
        fix=f"Set recipe.max_seq_length to {row['max_tokens']} or more, or remove these lines.",
    )


def _grader(session: Session, action: Action, row: Json) -> None:
    errors, varies = list(row.get("errors") or ()), list(row.get("varies") or ())
    _believe(
        session,
        action,
        "harness:grader",
        "answers",
        "The grader answered every gold answer with numbers."
        if not errors
        else f"The grader failed on {len(errors)} gold answers, first: {errors[0]}.",
        value={"errors": errors[:20]},
        holds=not errors,
        severity="hard_stop",
        mode="P10",
        fix="Repair the grader; a case it cannot grade has no score, which is not a score of zero.",
    )
    _believe(
        session,
        action,
        "harness:grader",
        "is_repeatable",
        "Grading the same answers twice gave the same numbers."
        if not varies
        else f"Grading twice gave different numbers for {len(varies)} answers, first: {varies[0]}.",
        value={"varies": varies[:20]},
        holds=not varies,
        severity="hard_stop",
        mode="P12",
        fix="Take randomness and time out of the grader.",
    )


def _evaluation(session: Session, action: Action) -> None:
    """Store each case as a measurement and the means as a belief."""
    inputs, result = action.inputs, action.result
    reference = str(result.get("cases") or "")
    path = session.paths.artifact(reference) / "cases.jsonl"
    rows = [
        Measurement(
            evaluation=action.key,
            run=str(inputs.get("run") or ""),
            side=inputs["side"],
            split=row["split"],
            use=row["use"],
            case=str(row["case"]),
            metrics=row.get("metrics") or {},
            finish_reason=row["finish_reason"],
            prompt_tokens=row["prompt_tokens"],
            output_tokens=row["output_tokens"],
            grader_error=row.get("grader_error") or "",
            harness=str(result.get("harness") or ""),
            weights=str(result.get("weights") or ""),
            output_ref=f"{reference[:16]}#{row['case']}",
        )
        for row in read_jsonl(path)
    ]
    session.store.knowing.measure(rows)
    who = str(inputs.get("run") or inputs["side"])
    for where, means in (result.get("means") or {}).items():
        here = [row for row in rows if f"{row.split}.{row.use}" == where]
        cut = sum(row.finish_reason == "length" for row in here)
        ungraded = sum(bool(row.grader_error) for row in here)
        numbers = ", ".join(f"{name} {value:.3f}" for name, value in sorted(means.items()) if value is not None)
        _believe(
            session,
            action,
            f"score:{who}.{where}",
            "means",
            f"{who} on {where}, {len(here)} cases: {numbers}; {cut} cut by the decode budget"
            + (f", {ungraded} not graded" if ungraded else "")
            + ".",
            value={"means": means, "n": len(here), "cut": cut, "ungraded": ungraded},
        )


def _training(session: Session, action: Action) -> None:
    """Record what a training left behind."""
    result = action.result
    run = str(action.inputs.get("run") or "")
    verdict = str(result.get("verdict") or (result.get("exit") or {}).get("verdict") or "")
    _believe(
        session,
        action,
        f"run:{run or action.key}",
        "trained",
        f"Trained {result.get('iters')} iterations on {int(result.get('trained_tokens') or 0):,} tokens at "
        f"{float(result.get('tokens_per_s') or 0):,.0f} tokens/s; train loss {result.get('train_loss')}, "
        f"validation loss {result.get('val_loss')}" + (f"; stopped: {verdict}" if verdict else "") + ".",
        value={
            name: result.get(name)
            for name in (
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
            )
        },
    )


_DIGEST: dict[str, Callable[[Session, Action], None]] = {
    "census": _census,
    "evaluate": _evaluation,
    "confirm": _evaluation,
    "train": _training,
}

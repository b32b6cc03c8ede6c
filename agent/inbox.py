"""What comes from outside while a campaign runs: requests, deadlines, edits of its file, and what people know.

Other processes leave it as requests; the holder applies them here, in the transaction that notes what became of them.

Other processes only insert requests; the holder applies them here, between two acts and while a job is watched.
"""

from dataclasses import replace
from datetime import UTC, datetime

from agent.campaign import LoadedCampaign, difference, load_campaign
from agent.checks import check_campaign
from agent.imports import beliefs_of
from agent.render.summary import DOMAINS, NOTES
from agent.render.words import clock
from agent.session import Session
from agent.view import OF_RUNS, view_of
from policies.confirmation import why_not
from policies.drafts import at_deadline, easier, leave_for, rule_of, rule_of_edit, why_not_allowed
from policies.history import WITHDRAWN
from policies.repairs import repaired
from state.errors import ConfigError, NotFoundError
from state.goal import ApprovalRule
from state.hashing import hash_file, hash_json
from state.log import log_info, log_privately
from state.records import Answer, Approval, ApprovalKind, Belief, Evidence, GoalVersion, Json, Request
from tools.models.hub import resolve

_NEW = "N"
"""First letter of the modes that a campaign adds to the catalogue."""


def refute(session: Session, request: Request) -> str:
    """Record a person's evidence that a belief is false."""
    try:
        belief = session.store.read.belief(request.target)
    except NotFoundError:
        return f"refused: there is no belief {request.target}"
    if belief.status == "refuted":
        return f"refused: {belief.id} is refuted already"
    stood = session.store.knowing.refute(
        belief.id, Evidence(kind="person", ref=request.by, summary=request.reason or "It is false.")
    )
    return f"refuted {belief.id}; {len(stood)} things stood on it" + (f": {', '.join(stood[:8])}" if stood else "")


def note(session: Session, request: Request) -> str:
    """Add a failure that a person saw to the campaign's own catalogue."""
    known = [row for row in session.standing() if row.subject.startswith(NOTES)]
    mode, domain = _mode(request.payload, known)
    number = 1 + max((int(row.subject.removeprefix(NOTES)) for row in known), default=0)
    day = datetime.fromtimestamp(request.made_at, UTC).date().isoformat()
    grounds = [Evidence(kind="person", ref=request.by, summary=request.reason)]
    file: Json = request.payload.get("file") or {}
    if file:
        summary = f"{int(file['size']):,} bytes."
        grounds.append(Evidence(kind="file", ref=file["path"], summary=summary, detail={"sha256": file["sha256"]}))
    belief = session.store.knowing.believe(
        Belief(
            subject=f"{NOTES}{number}",
            claim="failure_mode",
            statement=f"{request.reason.rstrip('.')} (mode {mode}, noted by {request.by} on {day}).",
            value={"mode": mode, "name": request.payload.get("mode") or "", "domain": domain, "day": day},
            tag="confirmed" if file else "assumed",
            severity="warning",
            evidence=tuple(grounds),
            mode=mode,
            fix="" if file else "Add what shows it: vigil note with --evidence FILE.",
            formed_at=request.made_at,
        )
    )
    return f"noted as {belief.subject}, mode {mode} ({belief.id})"


def _mode(payload: Json, known: list[Belief]) -> tuple[str, str]:
    """Return the mode's id and domain: a row of the table, one that this campaign added, or a new one."""
    given = str(payload.get("mode") or "").strip()
    domain = str(payload.get("domain") or "")
    if given.upper() in DOMAINS:
        return given.upper(), domain or DOMAINS[given.upper()]
    same = [row for row in known if given and given.lower() in {row.mode.lower(), str(row.value["name"]).lower()}]
    if same:
        return same[0].mode, domain or str(same[0].value["domain"])
    own = [int(row.mode.removeprefix(_NEW)) for row in known if row.mode.startswith(_NEW)]
    return f"{_NEW}{1 + max(own, default=0)}", domain or "knowing"


def take_in(session: Session, request: Request) -> str:
    """Believe what a person says of runs made elsewhere, as assumed."""
    beliefs = beliefs_of(request.payload, request.made_at)
    before = {belief.id for belief in session.standing()}
    kept = [session.store.knowing.believe(belief) for belief in beliefs]
    new = sum(belief.id not in before for belief in kept)
    return f"imported {len(kept)} beliefs as assumed, {new} of them new"


def _keep(_session: Session, request: Request) -> str:
    """Let what was done outside the campaign stand as it was told."""
    return f"on record: {request.reason}"


APPLY = {"refute": refute, "note": note, "import": take_in, "export": _keep}
"""Kind of request -> how the holder applies it."""


_ABOUT = 16
"""Digits of a goal's hash that tell one edit from another."""


def apply_requests(session: Session) -> None:
    """Apply what people asked for since the last look, oldest first, each exactly once."""
    for request in session.store.agent.pending_requests():
        # What was done and that it was done are kept together: a request is never applied twice.
        with session.store.transaction():
            session.store.agent.apply_request(request.id, _apply(session, request))
            if request.kind == "allow":
                use_leaves(session)
        log_info("request", request=request.id, kind=request.kind, target=request.target)


def _apply(session: Session, request: Request) -> str:
    """Carry out one request and say what was done with it."""
    agent = session.store.agent
    if request.kind == "stop":
        # A stop asked for before this sitting began was meant for the sitting that is gone. By number, since the wall
        # clock may have been set back since.
        if int(request.id[1:]) <= session.requests_before:
            return "lapsed: asked before this start of the agent"
        session.is_stopping = True
        return "stopping"
    if request.kind in {"approve", "reject"}:
        # What came after the deadline came second, whether or not an agent was there to see the deadline pass.
        apply_deadlines(session, request.made_at)
        answer: Answer = "yes" if request.kind == "approve" else "no"
        try:
            approval = agent.answer(request.target, answer, by=request.by, reason=request.reason)
        except NotFoundError:
            return f"refused: there is no question {request.target}"
        if approval.answer == answer and approval.answered_by == request.by:
            return f"answered {answer}"
        return f"too late: already answered {approval.answer} by {approval.answered_by}"
    if request.kind == "cancel_commitment":
        try:
            session.store.deciding.close_commitment(request.target, status="cancelled", closed_by=request.by)
        except NotFoundError:
            return f"refused: there is no commitment {request.target}"
        return "cancelled"
    if request.kind == "allow":
        return _allow(session, request)
    if request.kind in OF_RUNS:
        return _ask_of_run(session, request)
    if request.kind in APPLY:
        return APPLY[request.kind](session, request)
    return _override(session, request)


def _allow(session: Session, request: Request) -> str:
    """Accept a leave for questions of a kind, or refuse it; accepted it answers those that wait, the oldest first."""
    until, runs = float(request.payload["until"]), int(request.payload["runs"])
    apply_deadlines(session, request.made_at)
    if refused := why_not_allowed(request.target, until, runs, session.clock.now()):
        return f"refused: {refused}"
    return f"accepted: {runs} until {clock(until)}" if runs else "accepted: nothing more is answered beforehand"


def use_leaves(session: Session) -> None:
    """Answer the questions that wait and that a person's leave answers, the oldest first."""
    for approval in session.store.read.approvals():
        if approval.answer is None:
            _by_leave(session, approval)


def _by_leave(session: Session, question: Approval) -> Approval:
    """Answer a question by the leave that a person gave for its kind, where one lasts."""
    read, now = session.store.read, session.clock.now()
    leave = leave_for(question.kind, read.requests(), read.approvals(), now)
    if leave is None:
        return question
    reason = f"{leave.by} allowed {leave.runs} until {clock(leave.until)}; {leave.left - 1} left"
    return session.store.agent.answer(question.id, "yes", by=leave.request, reason=reason)


def _ask_of_run(session: Session, request: Request) -> str:
    """Accept what a person asks of a run, or refuse it; accepted it is a question that the person has answered."""
    agent, view = session.store.agent, view_of(session)
    if refused := why_not(view, request.kind, request.target):
        return f"refused: {refused}"
    runs = {d.id for d in view.decisions if d.action == "promote" and d.run == request.target}
    question = next(
        (q for q in view.approvals if q.kind == "promotion" and q.answer is None and q.decision in runs), None
    )
    if question is None or request.kind == "confirm":
        what = "Open the confirmation cases for" if request.kind == "confirm" else "Promote"
        question = agent.ask(
            Approval(
                kind="confirmation" if request.kind == "confirm" else "promotion",
                decision=request.id,
                question=f"{what} {request.target}? Asked by {request.by}.",
                asked_at=session.clock.now(),
            )
        )
    agent.answer(question.id, "yes", by=request.by, reason=request.reason)
    return f"accepted as {question.id}; it is done once the job that runs now has ended"


def ask(session: Session, kind: ApprovalKind, about: str, question: str, rule: ApprovalRule | None = None) -> Approval:
    """Put a question, and answer it at once where the campaign file already has.

    Args:
        session: This sitting.
        kind: What is asked.
        about: The decision, belief or edit that it is about.
        question: As a person reads it.
        rule: How it is answered; as the campaign file says for its kind when left out.
    """
    rule = rule or rule_of(kind, session.goal.approvals)
    now = session.clock.now()
    agent = session.store.agent
    with session.store.transaction():
        row = agent.ask(
            Approval(
                kind=kind,
                decision=about,
                question=question,
                asked_at=now,
                deadline_at=now + rule.deadline_h * 3600 if rule.deadline_h else None,
                unanswered=rule.unanswered,
            )
        )
        log_info("question", question=row.id, kind=kind, about=about, mode=rule.mode)
        if rule.mode == "wait":
            return _by_leave(session, row)
        answer: Answer = "yes" if rule.mode == "auto" else "no"
        return agent.answer(row.id, answer, by="policy", reason=f"approvals.{kind}: {rule.mode} in the campaign file")


def _override(session: Session, request: Request) -> str:
    """Put a person's override of a hard stop on record; the planner reads it as an answered question."""
    agent = session.store.agent
    target = next((belief for belief in session.standing() if belief.id == request.target), None)
    if target is None:
        return f"refused: there is no belief {request.target}"
    if target.status == "contradicted":
        sentence = f"{request.by} let {target.id} stand{f': {request.reason}' if request.reason else ''}."
        session.store.knowing.settle(target.id, Evidence(kind="person", ref=request.by, summary=sentence))
        return f"settled by {request.by}"
    if rule_of("override", session.goal.approvals).mode == "reject":
        return "refused: approvals.override is reject in the campaign file"
    question = agent.ask(
        Approval(
            kind="override",
            decision=request.target,
            question=f"Go on although belief {request.target} is refuted?",
            asked_at=session.clock.now(),
        )
    )
    answered = agent.answer(question.id, "yes", by=request.by, reason=request.reason)
    if answered.answer == "no":
        return f"too late: {answered.id} was already answered no by {answered.answered_by}"
    return f"overridden by {request.by}"


def apply_deadlines(session: Session, at: float | None = None) -> None:
    """Answer questions whose deadline has passed with what the campaign file says.

    Args:
        session: This sitting.
        at: Unix seconds to judge at; now by default.
    """
    now = session.clock.now() if at is None else at
    for approval in session.store.read.approvals():
        if approval.answer is None and (answer := at_deadline(approval, now)) is not None:
            log_info("question.deadline", question=approval.id, answer=answer)
            session.store.agent.answer(
                approval.id,
                answer,
                by="deadline",
                reason="no answer before the deadline; see approvals in the campaign file",
            )


def absorb_edit(session: Session) -> tuple[str, ...]:
    """Record an edit of the campaign file as a new version of the goal and say what changed.

    A file that would not be started with changes nothing: the campaign goes on under the version it has, and says so.
    An edit that only touches comments or layout is no new version.

    Returns:
        Sentences of the difference; empty when nothing changed.
    """
    path = session.loaded.path
    try:
        file_hash = hash_file(path)
    except OSError:
        return ()
    if file_hash == session.last_file_hash:
        return take_up(session, session.proposed) if session.proposed is not None else ()
    session.last_file_hash = file_hash
    try:
        loaded = _admitted(session, load_campaign(path))
    except ConfigError as error:
        session.say(f"The edit of {path.name} changes nothing, version {session.goal_version} stands: {error.sentence}")
        return ()
    return take_up(session, loaded)


def take_up(session: Session, loaded: LoadedCampaign) -> tuple[str, ...]:
    """Make a campaign file that has passed the check the goal, where its edit is accepted, and say what is new in it.

    What is asked about an edit is asked by the rules of the version that stands, so that no edit gives itself leave.

    Returns:
        Sentences of the difference; empty where nothing changed, or not yet.
    """
    goal = repaired(loaded.goal, session.store.read.decisions())
    before, after = session.goal.model_dump(mode="json"), goal.model_dump(mode="json")
    about, row = _question_about_edit(session, f"{session.goal_version}:{hash_json(after)[:_ABOUT]}")
    session.proposed = None
    defaults = {name: after[name] for name in ("approvals", "notify")}
    if loaded.file_hash == session.loaded.file_hash and before | defaults == after:
        # The file is as it was, and an older Vigil wrote down other defaults.
        session.loaded = replace(loaded, goal=goal)
        return ()
    if before == after:
        return ()
    lowered = easier(session.goal, goal)
    rule = rule_of_edit(session.goal.approvals, is_easier=bool(lowered))
    is_edit = loaded.file_hash != session.loaded.file_hash
    if is_edit and (lowered or rule.mode != "auto"):
        row = row or ask(session, "edit", about, _question(loaded, lowered, difference(before, after)), rule)
        if row.answer is None:
            session.proposed = loaded
            return ()
        if row.answer == "no":
            why = row.reason or f"{row.answered_by} said no"
            session.say(
                f"The edit of {loaded.path.name} is not followed ({row.id}: {why}); version {session.goal_version}"
                f" stands. It asked: {' '.join([*lowered, *difference(before, after)])}"
            )
            return ()
    changed = _take(session, loaded)
    session.say(f"Version {session.goal_version} of {loaded.path.name}: {' '.join(changed)}")
    return changed


def _question_about_edit(session: Session, edit: str) -> tuple[str, Approval | None]:
    """Return what a question about an edit is filed under, and the question where it was put already.

    Side effects: withdraws the open questions about other edits: the file is another now.

    Args:
        session: This sitting.
        edit: The version that it edits, and what it makes of it.
    """
    questions = [row for row in session.store.read.approvals() if row.kind == "edit"]
    # One that was edited away and came back is asked anew.
    gone = sum(row.answered_by == WITHDRAWN and row.decision.startswith(edit) for row in questions)
    about = f"{edit}:{gone}" if gone else edit
    for row in questions:
        if row.answer is None and row.decision != about:
            session.store.agent.answer(row.id, "no", by=WITHDRAWN, reason="the campaign file was edited again")
    return about, next((row for row in questions if row.decision == about), None)


def _question(loaded: LoadedCampaign, lowered: list[str], changed: list[str]) -> str:
    what = f"It makes the gate easier: {' '.join(lowered)} " if lowered else ""
    return f"Follow the edited {loaded.path.name}? {what}What changes: {' '.join(changed)}"


def _admitted(session: Session, loaded: LoadedCampaign) -> LoadedCampaign:
    """Return a file read anew if a run could be started with it.

    Raises:
        ConfigError: It is another campaign's, or something that it names cannot be used.
    """
    if loaded.goal.campaign != session.goal.campaign:
        raise ConfigError(
            f"{loaded.where('campaign')}: it is the file of another campaign, {loaded.goal.campaign}, now; write"
            f" `campaign: {session.goal.campaign}`, or start the other one from a file of its own."
        )
    check_campaign(loaded, session.paths)
    return loaded


def find_model(session: Session, loaded: LoadedCampaign) -> None:
    """Look up the base model of a version, and go on with it.

    Raises:
        ConfigError: It is not on this disk, or not wholly.
    """
    spec = loaded.goal.model
    model = resolve(spec.path, online=False, revision=spec.revision, base=loaded.folder, campaign=str(loaded.path))
    session.model, session.revision = model.folder, model.revision


def absorb_repairs(session: Session) -> tuple[str, ...]:
    """Record the goal as it is with the repairs that were decided; killed before, the next sitting does it."""
    return _take(session, session.loaded)


def _take(session: Session, loaded: LoadedCampaign) -> tuple[str, ...]:
    """Make a campaign file, with the repairs of the measurement on record, the goal; return what changed."""
    goal = repaired(loaded.goal, session.store.read.decisions())
    loaded = replace(loaded, goal=goal)
    before = session.loaded.goal.model_dump(mode="json")
    after = goal.model_dump(mode="json")
    changed = tuple(difference(before, after))
    if not changed:
        return ()
    find_model(session, loaded)
    log_privately(is_private=goal.privacy == "redact")
    session.goal_version += 1
    session.store.agent.record_goal(
        GoalVersion(
            version=session.goal_version,
            campaign=goal.campaign,
            file_hash=loaded.file_hash,
            spec=after,
            difference=changed,
            recorded_at=session.clock.now(),
        )
    )
    session.store.agent.set_campaign(goal_version=session.goal_version)
    log_info("goal.version", version=session.goal_version, changes=len(changed))
    session.loaded = loaded
    return changed

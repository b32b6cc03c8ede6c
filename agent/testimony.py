"""What people know and say on record: a belief is false, a failure was seen, runs were made elsewhere.

Other processes leave it as requests; the holder applies them here, in the transaction that notes what became of them.
"""

from datetime import UTC, datetime

from agent.imports import beliefs_of
from agent.reading.tally import DOMAINS, NOTES
from agent.session import Session
from state.errors import NotFoundError
from state.records import Belief, Evidence, Json, Request

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
    seen = [Evidence(kind="person", ref=request.by, summary=request.reason)]
    file: Json = request.payload.get("file") or {}
    if file:
        summary = f"{int(file['size']):,} bytes."
        seen.append(Evidence(kind="file", ref=file["path"], summary=summary, detail={"sha256": file["sha256"]}))
    belief = session.store.knowing.believe(
        Belief(
            subject=f"{NOTES}{number}",
            claim="failure_mode",
            statement=f"{request.reason.rstrip('.')} (mode {mode}, noted by {request.by} on {day}).",
            value={"mode": mode, "name": request.payload.get("mode") or "", "domain": domain, "day": day},
            tag="confirmed" if file else "assumed",
            severity="warning",
            evidence=tuple(seen),
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


APPLY = {"refute": refute, "note": note, "import": take_in}
"""Kind of request -> how the holder applies it."""

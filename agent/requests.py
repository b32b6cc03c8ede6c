"""What other processes ask of a campaign's holder: an answer, a stop, a commitment cancelled.

Each inserts one request and says what will come of it; only the holder applies it. An answer is compared with what
stands before it is inserted, so that a second answer is told what the first one was.
"""

import getpass
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.render import typed
from agent.render.places import campaigns_in, find_campaign
from agent.render.record import gather
from agent.render.words import clock, count, listed
from state.errors import ConfigError, NotFoundError, VigilError
from state.lease import holder
from state.log import passed_over
from state.paths import CampaignPaths
from state.reading import open_reader

View = dict[str, Any]


def _insert(
    paths: CampaignPaths, kind: str, *, target: str = "", reason: str = "", payload: View | None = None
) -> None:
    """Leave a request; the record's types are imported here, since most commands need none of them."""
    from state.records import Request
    from state.store import insert_request

    given = {"kind": kind, "target": target, "by": me(), "reason": reason, "made_at": time.time()}
    insert_request(paths, Request.model_validate({**given, "payload": payload or {}}))


def me() -> str:
    """Return who asks: the login name, or `unknown`."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def _campaign_and_row(home: Path, campaign: str | None, given: str) -> tuple[CampaignPaths, str]:
    """Return the campaign and the row's id.

    Raises:
        ConfigError: The id names one campaign and the command another.
        NotFoundError: There is no such campaign.
    """
    named, _, row = given.rpartition(":")
    if named and campaign:
        meant = find_campaign(home, campaign).name
        if meant != named:
            raise ConfigError(
                f"{given} belongs to the campaign {named}, not to {meant}; nothing was done.", what="id", value=given
            )
    return find_campaign(home, named or campaign or _owner_of(home, row.upper())), row.upper()


def _owner_of(home: Path, question: str) -> str | None:
    """Return the one campaign of several in which a question of this id waits; None where there is no such one.

    An answer must not go to another campaign's question because that campaign wrote last.
    """
    names = campaigns_in(home) if question.startswith("Q") else []
    waiting = []
    for name in names if len(names) > 1 else ():
        with passed_over("campaign.not_read", VigilError), open_reader(CampaignPaths(home, name)) as reader:
            waiting += [name for row in reader.approvals(pending=True) if row["id"] == question]
    return waiting[0] if len(waiting) == 1 else None


def answer(home: Path, campaign: str | None, given: str, *, is_yes: bool, reason: str, is_page: bool = False) -> str:
    """Answer a question, or, with yes and a belief's id, go on against a refuted belief.

    Returns:
        A sentence on what was done, or on the answer that stands already.

    Raises:
        NotFoundError: There is no such campaign, question or refuted belief.
        ConfigError: The id belongs to another campaign; an override gives no reason.
    """
    paths, row = _campaign_and_row(home, campaign, given)
    view = gather(paths)
    if row.startswith("B") and is_yes:
        return _override(paths, row, reason)
    question = _one(view["approvals"], row, "question", paths.name, _listing(paths, "inbox"))
    word = "yes" if is_yes else "no"
    if question["answer"] is not None:
        return (
            f"{paths.name}:{row} was already answered {question['answer']} by {question['answered_by']}; "
            "the first answer stands."
        )
    pending = _pending(paths, row)
    if pending is not None:
        standing = "yes" if pending["kind"] == "approve" else "no"
        return f"{paths.name}:{row} was already answered {standing} by {pending['by']}; the first answer stands."
    if late := _by_deadline(question):
        return (
            f"{paths.name}:{row} was already answered {late} by its deadline, {clock(question['deadline_at'])};"
            " the first answer stands."
        )
    if question["kind"] == "override" and is_yes and not reason.strip():
        needed = "its reason" if is_page else "--reason WHY"
        raise ConfigError(f"Going on against belief {question['decision']} needs {needed}.", what="reason")
    _insert(paths, "approve" if is_yes else "reject", target=row, reason=reason)
    return f"Answered {word} to {paths.name}:{row} ({question['kind']}). {_applied(paths, is_page=is_page)}"


def _by_deadline(question: View) -> str:
    """Return what a deadline that has passed answered, though no agent was there to see it; empty while it has not."""
    from policies.drafts import at_deadline
    from state.records import Approval

    asked = {key: value for key, value in question.items() if key in Approval.model_fields}
    return at_deadline(Approval.model_validate(asked), time.time()) or ""


def _pending(paths: CampaignPaths, target: str) -> View | None:
    """Return the first answer to a question that the holder has not applied yet."""
    with open_reader(paths) as reader:
        rows = reader.requests()
    waiting = (row for row in rows if row["target"] == target and row["applied_at"] is None)
    return next((row for row in waiting if row["kind"] in {"approve", "reject"}), None)


def _override(paths: CampaignPaths, row: str, reason: str) -> str:
    with open_reader(paths) as reader:
        named = reader.table("belief", id=row)
        rule = (reader.goal()["spec"].get("approvals") or {}).get("override") or {}
        questions = [each for each in reader.approvals() if (each["kind"], each["decision"]) == ("override", row)]
    belief = _one(named, row, "belief", paths.name, _listing(paths, "beliefs", "--stale"))
    if belief["status"] == "contradicted":
        _insert(paths, "override", target=row, reason=reason)
        return f"On record: {row} stands, and what contradicts it is refuted. {_applied(paths)}"
    if belief["status"] != "refuted":
        raise NotFoundError(
            f"Belief {row} of {paths.name} is {belief['status']}; only a refuted one can be gone against.",
            what="belief",
            value=row,
        )
    if any(each["answer"] == "no" for each in questions):
        sentence = f"{paths.name}:{questions[0]['id']} was already answered no by {questions[0]['answered_by']}"
        raise ConfigError(f"{sentence}; the first answer stands. Mend what refutes {row}.", what="override", value=row)
    if rule.get("mode") == "reject":
        raise ConfigError(
            f"approvals.override is `reject` in the campaign file, so {paths.name} does not go on although {row} is"
            " refuted; mend what refutes it.",
            what="approvals.override",
        )
    if not reason.strip():
        raise ConfigError(f"Going on against belief {row} needs --reason WHY, for the record.", what="reason")
    _insert(paths, "override", target=row, reason=reason)
    return f"On record: going on although {row} is refuted. {_applied(paths)}"


def _one(rows: list[View], wanted: str, noun: str, campaign: str, advice: str) -> View:
    match = next((row for row in rows if row["id"].upper() == wanted), None)
    if match is None:
        raise NotFoundError(f"{campaign} has no {noun} {wanted}; {advice}", what=noun, value=wanted)
    return match


def _applied(paths: CampaignPaths, *, is_page: bool = False) -> str:
    if holder(paths) is not None:
        return "The running agent applies it within seconds."
    here = typed.place(paths)
    shown = typed.from_anywhere(here, paths.home) if is_page else here
    return f"No agent is running; this applies it: {typed.run(shown)}"


def _listing(paths: CampaignPaths, *words: str) -> str:
    """Return which command shows what there is."""
    return f"those there are: {typed.of_campaign(typed.place(paths), *words)}"


def cancel_commitment(home: Path, campaign: str | None, given: str, reason: str) -> str:
    """Ask for a commitment to be cancelled.

    Raises:
        NotFoundError: There is no such campaign or commitment.
        ConfigError: The id belongs to another campaign.
    """
    paths, row = _campaign_and_row(home, campaign, given)
    commitment = _one(gather(paths)["commitments"], row, "commitment", paths.name, _listing(paths, "status"))
    if commitment["status"] != "open":
        return f"{paths.name}:{row} is already {commitment['status']}; nothing was done."
    _insert(paths, "cancel_commitment", target=row, reason=reason)
    return f"Asked to cancel {paths.name}:{row}: {commitment['will'].rstrip('.')}. {_applied(paths)}"


def ask_of_run(home: Path, campaign: str | None, given: str, kind: str, reason: str) -> str:
    """Ask for the confirmation cases to be opened for a run (`confirm`), or for its promotion (`promote`).

    Raises:
        NotFoundError: There is no such campaign.
        ConfigError: The id belongs to another campaign, or the rules refuse it: nothing was done.
    """
    from agent.view import recorded_view
    from policies.confirmation import why_not

    paths, run = _campaign_and_row(home, campaign, given)
    if refused := why_not(recorded_view(paths, time.time()), kind, run):
        raise ConfigError(f"{paths.name}: {refused}", what="run", value=run)
    _insert(paths, kind, target=run, reason=reason)
    what = "open the confirmation cases for" if kind == "confirm" else "promote"
    when = "once the job that runs now has ended" if holder(paths) is not None else "at the next vigil run"
    return f"Asked {paths.name} to {what} {run}; it is done {when}."


def allow(
    home: Path, campaign: str | None, kind: str, until: str, *, runs: int, reason: str, is_page: bool = False
) -> str:
    """Answer the next questions of a kind beforehand, on record; the newest leave counts, one of 0 runs ends it.

    Args:
        home: Folder of all campaigns.
        campaign: As `find_campaign` takes it.
        kind: `launch`; what moves the gate or switches a model is asked each time.
        until: `HH:MM`, the next time that clocks here show it.
        runs: How many questions are answered yes.
        reason: Why, for the record.
        is_page: Whether it was said in a browser.

    Raises:
        NotFoundError: There is no such campaign.
        ConfigError: The time is none, or the rules refuse it: nothing was done.
    """
    from policies.cost import deadline_at
    from policies.drafts import why_not_allowed

    paths, now = find_campaign(home, campaign), time.time()
    if not _HOUR.match(until):
        raise ConfigError(
            f"{until or 'nothing'} is no time; write it as HH:MM, such as 07:00.", what="until", value=until
        )
    ends = deadline_at(until, now, time.localtime(now).tm_gmtoff)
    if refused := why_not_allowed(kind, ends or now, runs, now):
        raise ConfigError(f"{refused}; nothing was done.", what="kind", value=kind)
    _insert(paths, "allow", target=kind, reason=reason, payload={"until": ends, "runs": runs})
    what = f"Answered yes beforehand: {count(runs, kind, f'{kind}es')} of {paths.name} until {clock(ends)}."
    ended = f"No {kind} of {paths.name} is answered beforehand any more."
    return f"{what if runs else ended} {_applied(paths, is_page=is_page)}"


_HOUR = re.compile(r"^([01]?[0-9]|2[0-3]):[0-5][0-9]$")


def refute_belief(home: Path, campaign: str | None, given: str, reason: str) -> str:
    """Say on record that a belief is false.

    Raises:
        NotFoundError: There is no such campaign or belief.
        ConfigError: No reason is given, or the id belongs to another campaign.
    """
    from agent.render.why import gather_standing, impact

    if not reason.strip():
        raise ConfigError("Refuting a belief needs --reason WHY, for the record.", what="reason")
    paths, row = _campaign_and_row(home, campaign, given)
    affected = impact(gather_standing(paths), row)
    if affected["belief"]["status"] == "refuted":
        return f"{paths.name}:{row} is refuted already; nothing was done."
    _insert(paths, "refute", target=row, reason=reason)
    return f"Asked to refute {paths.name}:{row}. {affected['sentence']} {_applied(paths)}"


def note_failure(  # noqa: PLR0917 - one parameter per option
    home: Path, campaign: str | None, text: str, mode: str, domain: str, evidence: Path | None
) -> str:
    """Add a failure to the campaign's own catalogue.

    Raises:
        NotFoundError: There is no such campaign.
        ConfigError: There is no text, the catalogue has no such row, or the evidence cannot be read.
    """
    from agent.render.summary import DOMAINS
    from state.hashing import hash_file

    words = " ".join(text.split())
    if not words:
        raise ConfigError("A note needs a text: what was seen, in a sentence.", what="text")
    row = mode.strip().upper()
    if row.removeprefix("P").isdecimal() and row not in DOMAINS:
        raise ConfigError(
            f"The failure catalogue has no row {row}; it has {', '.join(DOMAINS)}. Any other word names a mode of your"
            " own.",
            what="mode",
            value=row,
        )
    paths = find_campaign(home, campaign)
    payload: View = {"mode": mode.strip(), "domain": domain}
    if evidence is not None:
        path = evidence.expanduser().absolute()
        if not path.is_file():
            raise ConfigError(
                f"There is no file {path}; name the file that shows it.", what="evidence", value=str(path)
            )
        payload["file"] = {"path": str(path), "sha256": hash_file(path), "size": path.stat().st_size}
    _insert(paths, "note", reason=words, payload=payload)
    return f"Asked {paths.name} to note it{f' as mode {mode}' if mode else ''}. {_applied(paths)}"


def import_runs(home: Path, campaign: str, table: Path | None, adapters: tuple[Path, ...], name: str) -> Iterator[str]:
    """Ask for runs made elsewhere to be recorded as assumed, and say what was read.

    Raises:
        NotFoundError: There is no such campaign.
        ConfigError: Nothing is named, or the table or an adapter cannot be read; nothing was imported.
    """
    from agent import imports

    if table is None and not adapters:
        raise ConfigError("Name a table of runs, or --adapter PATH.", what="table")
    if name and len(adapters) != 1:
        raise ConfigError("--name goes with exactly one --adapter; several are called by their folders.", what="name")
    paths = find_campaign(home, campaign)
    with open_reader(paths) as reader:
        splits = tuple(reader.goal()["spec"]["evaluation"]["splits"])
    # All are read before any is asked for, so that a mistake in one imports nothing.
    adapters_read = [imports.read_adapter(path, name) for path in adapters]
    if table is not None:
        read = imports.read_table(table, splits)
        with_adapter = sum(bool(row["adapter"].get("files")) for row in read["rows"])
        yield f"{table}: {count(len(read['rows']), 'run')}, {with_adapter} with an adapter on this disk."
        if read["kept"]:
            yield f"Kept as they are, neither recipe nor score: {listed(read['kept'])}."
        adapters_read.append(read)
    for payload in adapters_read:
        what = payload.get("file") or payload["adapter"]["path"]
        _insert(paths, "import", reason=f"runs made elsewhere: {what}", payload=payload)
    yield f"Asked {paths.name} to record them as assumed; none counts before it is measured here. {_applied(paths)}"


def ask_to_stop(paths: CampaignPaths, reason: str) -> str:
    """Ask the agent to stop; without an agent, stop the jobs that it left behind.

    Side effects: inserts a request; without an agent, writes stop.json into the folders of running jobs.
    """
    if holder(paths) is not None:
        _insert(paths, "stop", reason=reason)
        later = typed.run(typed.place(paths))
        return f"Asked {paths.name} to stop; the running job saves first. To go on later: {later}"
    alive = {"starting", "running", "orphaned"}
    left = [job for job in gather(paths)["jobs"] if job["state"] in alive or job.get("waits_for")]
    if not left:
        return f"No agent is running on {paths.name}, and no job; nothing to stop."
    from tools.jobs.backend import LocalBackend

    for job in left:
        LocalBackend().stop(paths.root / job["folder"], by=me(), reason=reason or "vigil stop")
    return f"No agent is running on {paths.name}; asked its job {left[0]['id']} to save and end."

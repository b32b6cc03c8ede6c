"""Notices to the addresses of `notify.to`: `python -m agent.notices FOLDER` is the courier of a campaign's outbox.

The agent leaves each notice as a file and goes on; the courier, a process of its own that no signal to the agent
reaches, sends it to each address: at its stage, outside quiet hours, at most once, since a mark is on disk before an
address is tried. The agent's last word comes through a pipe; one that closes without a word was a crash. What could not
be sent is put on record by a request, as any other process does it. An address itself stands in the campaign file
alone, and is read there when it is used.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from agent.campaign import load_campaign, read_yaml
from agent.session import Session
from state.errors import ConfigError, VigilError
from state.files import fsync_path, read_object, write_atomic, write_json
from state.goal import Notify
from state.hashing import hash_json
from state.lease import holder
from state.log import passed_over
from state.paths import CampaignPaths
from state.reading import open_reader
from state.records import Action, Json, Request
from state.store import insert_request
from tools.jobs.notice import SENT

_POLL_S = 0.5
_END, _PAUSE = "end", "pause"
"""Last words of an agent; without one it crashed."""


def leave(session: Session, action: Action) -> Json:
    """Leave a notice that was decided for the courier, once; return what came of it."""
    notify, told = session.goal.notify, action.inputs
    if notify is None or not notify.to:
        return {"sent": "no"}
    given = {name: told[name] for name in ("event", "about", "title")}
    body = [
        told["sentence"],
        told.get("figures", ""),
        _place(notify.link, session.paths.name, told["event"], told["type"]),
    ]
    about = {**given, "body": "\n".join(filter(None, body)), "at": session.clock.now()}
    _put(session.paths, action.key, {**_stages(notify, session.loaded.path), **about})
    if session.courier is None or session.courier.poll() is not None:
        # An edit named the first address, or the courier died: how this agent ends was told to it at its start alone.
        _have_courier(session, {})
    return {"sent": f"left for {', '.join(each.label for each in notify.to)}"}


def _place(link: str | None, name: str, event: str, typed: str) -> str:
    return f"{link.rstrip('/')}/{'inbox' if event == 'question' else f'c/{name}'}" if link else typed


def _stages(notify: Notify, file: Path) -> Json:
    given: list[str] = []
    with passed_over("notice.file_not_read", VigilError):
        given = _given(file)
    of = [_hidden(file, each) for each in given] if len(given) == len(notify.to) else [""] * len(notify.to)
    to = [
        {"label": each.label, "after_s": 60 * each.after_min, "of": one}
        for each, one in zip(notify.to, of, strict=True)
    ]
    return {"to": to, "quiet": notify.quiet, "file": str(file), "timeout_s": notify.timeout_s}


def _put(paths: CampaignPaths, key: str, notice: Json) -> None:
    paths.notices.mkdir(exist_ok=True)
    if not (path := paths.notices / f"{key}.json").exists():
        write_json(path, notice)


@contextlib.contextmanager
def courier(session: Session, epoch: int) -> Iterator[None]:
    """Have a courier beside the agent; at the end tell it how the agent ended, and wait for what is due by then.

    Args:
        session: This sitting.
        epoch: Its number, by which what is told of its end is told once.
    """
    notify = session.goal.notify
    if notify is not None and notify.to:
        known = {"epoch": epoch, "link": notify.link, "on": list(notify.on)}
        _have_courier(session, {**known, **_stages(notify, session.loaded.path)})
    word = ""
    try:
        yield
        word = _PAUSE if session.store.read.campaign().state == "stopped" else _END
    except KeyboardInterrupt:
        # Whoever pressed the key knows.
        word = _END
        raise
    finally:
        if session.courier is not None:
            standing = session.goal.notify or notify
            _let_go(session.courier, word, standing.timeout_s if standing else 0.0)


def _have_courier(session: Session, known: Json) -> None:
    """Start a courier beside the agent; who cannot be told is no reason to end a night."""
    if session.courier is not None:
        with passed_over("courier.gone", OSError):
            cast("Any", session.courier.stdin).close()
        cast("Any", session.courier.stdout).close()
    with passed_over("courier.not_started", OSError):
        session.courier = _start(session.paths, known)


def _start(paths: CampaignPaths, known: Json) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "agent.notices", str(paths.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )
    with passed_over("courier.gone", OSError):
        cast("Any", process.stdin).write(json.dumps(known) + "\n")
        cast("Any", process.stdin).flush()
    return process


def _let_go(process: "subprocess.Popen[str]", word: str, limit_s: float) -> None:
    """Say the last word, and wait until the courier has sent what is due; what is due later it sends alone."""
    with passed_over("courier.gone", OSError):
        cast("Any", process.stdin).write(word)
        cast("Any", process.stdin).close()
    select.select([cast("Any", process.stdout)], [], [], limit_s)


def main() -> None:
    """Be the courier of one campaign until its agent is gone and nothing is left to send."""
    root = Path(sys.argv[1])
    paths = CampaignPaths(root.parent, root.name)
    known, word, is_alone = json.loads(sys.stdin.readline()), "", False
    while True:
        for key, notice, index in list(_due(paths)):
            _deliver(paths, key, notice, index)
        if is_alone:
            with passed_over("courier.alone", OSError):
                sys.stdout.close()
            if not any(_open(paths)):
                return
            time.sleep(_POLL_S)
        elif select.select([sys.stdin], [], [], _POLL_S)[0]:
            word, is_alone = sys.stdin.read(), True
            _tell_end(paths, known, word)


def _tell_end(paths: CampaignPaths, known: Json, word: str) -> None:
    """Put a notice that the agent was stopped by a person, or is gone without a word, where it is asked for."""
    event = "paused" if word == _PAUSE else "" if word == _END else "crashed"
    if event not in known.get("on", ()):
        return
    said = _GONE[event].format(name=paths.name)
    body = f"{said}\n{_place(known['link'], paths.name, event, f'vigil status {paths.name}')}"
    given = {
        "event": event,
        "about": f"start {known['epoch']}",
        "title": f"{paths.name}: {_TITLES[event]}",
        "body": body,
    }
    stages = {name: known[name] for name in ("to", "quiet", "file", "timeout_s")}
    _put(paths, f"{event}-{known['epoch']}", {**stages, **given, "at": time.time()})


_TITLES = {"paused": "stopped by a person", "crashed": "the agent is gone"}
_GONE = {
    "paused": "Its agent has saved and ended, as vigil stop asked; the same vigil run goes on.",
    "crashed": "Its agent ended without a verdict: it was killed, failed, or the machine stopped it. A job that it had "
    "begun goes on to its end; the same vigil run takes it up again.",
}


def _open(paths: CampaignPaths) -> Iterator[tuple[str, Json, int]]:
    """Yield what was not tried yet: key, notice, number of the address."""
    for path in sorted(paths.notices.glob("*.json")):
        notice: Json = {}
        with passed_over("notice.not_read", VigilError):
            notice = read_object(path)
        for index in range(len(notice.get("to") or ())):
            if not _mark(paths, path.stem, index).exists():
                yield path.stem, notice, index


def _mark(paths: CampaignPaths, key: str, index: int) -> Path:
    return paths.notices / f"{key}.{index}.sent"


def _due(paths: CampaignPaths) -> Iterator[tuple[str, Json, int]]:
    now = time.time()
    for key, notice, index in _open(paths):
        if now >= notice["at"] + notice["to"][index]["after_s"] and not _is_quiet(notice["quiet"], now):
            yield key, notice, index


def _is_quiet(hours: str | None, now: float) -> bool:
    """Say whether clocks here are within hours such as `22:30-07:00`, the first included and the last not."""
    if hours is None:
        return False
    begin, _, end = hours.partition("-")
    at = time.strftime("%H:%M", time.localtime(now))
    return begin <= at < end if begin <= end else at >= begin or at < end


def _deliver(paths: CampaignPaths, key: str, notice: Json, index: int) -> None:
    """Send a notice to one address, unless it was tried; what came of it stands in the mark, nothing of a kill."""
    mark = _mark(paths, key, index)
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return
    fsync_path(mark.parent)
    if not _stands(paths, notice):
        write_atomic(mark, "not sent: it was over by then")
        return
    said = _send(notice, index)
    write_atomic(mark, said or "sent")
    if said:
        what = f"The notice of {notice['about']} ({notice['event']}) to {notice['to'][index]['label']}: {said}"
        with passed_over("notice.not_noted", VigilError):
            payload = {"mode": "notices", "domain": "doing"}
            insert_request(paths, Request(kind="note", by="vigil", reason=what, made_at=time.time(), payload=payload))


def _stands(paths: CampaignPaths, notice: Json) -> bool:
    """Say whether what a notice tells is still so; what has just happened is told in any case."""
    if notice["event"] == "question":
        with passed_over("notice.not_checked", VigilError), open_reader(paths) as reader:
            return any(row["id"] == notice["about"] for row in reader.approvals(pending=True))
    is_late = time.time() - notice["at"] > _JUST_NOW_S
    return not (is_late and notice["event"] in _GONE and holder(paths) is not None)


_JUST_NOW_S = 5.0


def _send(notice: Json, index: int) -> str:
    """Send a notice in a process of its own; return what went wrong, without a word of the address, or nothing."""
    try:
        # The file may have been edited since: an address is known by what it was, not by where it stood.
        file, of = Path(notice["file"]), notice["to"][index].get("of")
        there = _given(file) if of else [_given(file)[index]]
        address = next(_resolved(file, each) for each in there if not of or _hidden(file, each) == of)
    except (VigilError, KeyError, IndexError, TypeError, StopIteration):
        return "the campaign file does not name it any more, or what it names is not there"
    kind = {"question": "info", "ended": "success"}.get(notice["event"], "warning")
    return send(
        {"address": address, "title": notice["title"], "body": notice["body"], "kind": kind}, notice["timeout_s"]
    )


def send(given: Json, limit_s: float) -> str:
    """Hand a message to apprise in a process of its own; return what went wrong, without a word of the address."""
    words = [sys.executable, "-P", "-m", "tools.jobs.notice", "--send"]
    nothing = subprocess.DEVNULL
    try:
        code = subprocess.run(
            words, input=json.dumps(given).encode(), stdout=nothing, stderr=nothing, timeout=limit_s, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        return f"it took more than {limit_s:g} s; whether it arrived is not known"
    return SENT.get(code, "it was not taken; the address is wrong, or it cannot be reached")


def try_out(file: Path) -> Iterator[str]:
    """Send a test notice to every address of a campaign file; say what came of each.

    Raises:
        ConfigError: The file is none, names no address, or one did not take the notice.
    """
    loaded, failed = load_campaign(file), 0
    told = loaded.goal.notify
    if told is None or not told.to:
        raise ConfigError(f"{file} names no address under `notify.to`.", what="notify.to", where=str(file))
    for each, address in zip(told.to, addresses(file), strict=True):
        text = {"title": f"{loaded.goal.campaign}: a test", "body": "This is how Vigil reaches you.", "kind": "info"}
        wrong = send({"address": address, **text}, told.timeout_s)
        failed += bool(wrong)
        yield f"{each.label}: {wrong or 'sent'}."
    if failed:
        raise ConfigError(f"{failed} of {len(told.to)} addresses did not take the notice.", what="notify.to")


def addresses(file: Path) -> list[str]:
    """Return the addresses of a campaign file, as secret as they are.

    Raises:
        ConfigError: The file cannot be read, or what an address is taken from is not there.
    """
    return [_resolved(file, each) for each in _given(file)]


def _given(file: Path) -> list[str]:
    """Return the addresses as a campaign file writes them."""
    given = (read_yaml(file).get("notify") or {}).get("to") or ()
    rows = [given] if isinstance(given, str | dict) else given
    return [each if isinstance(each, str) else str(each["address"]) for each in rows]


def _hidden(file: Path, given: str) -> str:
    """Return what stands for an address on disk; its file salts it, so that nobody reads one off a table."""
    return hash_json([str(file), given])[:16]


def _resolved(file: Path, given: str) -> str:
    name = given[1:]
    if given.startswith("$"):
        if name not in os.environ:
            raise ConfigError(f"`notify.to` takes an address from {given}, and no such variable is set.", what="notify")
        return os.environ[name]
    if given.startswith("@"):
        try:
            return (file.parent / name).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            said = f"`notify.to` takes an address from the file {name}, which cannot be read."
            raise ConfigError(said, what="notify") from error
    return given


if __name__ == "__main__":
    main()

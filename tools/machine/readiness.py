"""Lines of `vigil doctor` on a night to come: power, sleep, heat, restarts, clock, models, logins, tokens."""

import datetime as dt
import netrc
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from state.clock import Clock
from state.records import Belief, Evidence, Severity
from tools.machine import facts, linux, mac
from tools.machine.facts import System

Outcome = Literal["good", "warn", "bad", "not_told"]
"""bad: a night would fail. not_told: the system does not say, which is never good."""

_SEVERITY: dict[Outcome, Severity] = {"good": "note", "warn": "warning", "bad": "hard_stop", "not_told": "note"}


@dataclass(frozen=True)
class Line:
    """What was seen about one subject.

    Args:
        subject: `family:name`.
        claim: Short stable name of what a night needs.
        statement: What was seen, as an English sentence with numbers.
        outcome: What it means for a night.
        value: JSON value.
        asked: Program, file or function that told.
        seen: What it told, where the statement does not say it all.
        fix: What to do; empty where there is nothing to do.
        is_inferred: The claim was reasoned from what was told, not told.
    """

    subject: str
    claim: str
    statement: str
    outcome: Outcome
    value: Any = None
    asked: str = ""
    seen: str = ""
    fix: str = ""
    is_inferred: bool = False
    detail: dict[str, Any] = field(default_factory=dict)

    def belief(self, number: int, now: float) -> Belief:
        """Return the line as a belief; one that nobody told stays assumed, and one that does not hold is refuted.

        Args:
            number: Place in the list, from 1.
            now: When it was formed, Unix seconds.
        """
        is_told = self.outcome != "not_told"
        evidence = Evidence(kind="probe", ref=self.asked, summary=self.seen or self.statement, detail=self.detail)
        return Belief(
            id=f"M{number}",
            subject=self.subject,
            claim=self.claim,
            statement=self.statement,
            value=self.value,
            tag="assumed" if not is_told else "inferred" if self.is_inferred else "confirmed",
            status="refuted" if self.outcome in {"warn", "bad"} else "fresh",
            severity=_SEVERITY[self.outcome],
            evidence=(evidence,) if self.asked else (),
            fix=self.fix,
            runbook="runbooks/night.md",
            formed_at=now,
        )


def not_told(subject: str, claim: str, why: str, *, fix: str = "", asked: str = "") -> Line:
    """Return a line about which the system does not say anything."""
    return Line(subject, claim, f"Not told: {why}", "not_told", asked=asked, fix=fix)


_LOGINS = {
    "wandb": (("WANDB_API_KEY",), "WANDB_MODE", "api.wandb.ai", "Run wandb login, or set WANDB_MODE=offline."),
    "swanlab": (("SWANLAB_API_KEY",), "SWANLAB_MODE", "", "Set SWANLAB_API_KEY, or SWANLAB_MODE=local."),
}
"""Exporter -> variables of its key, variable of its mode, host in .netrc, fix."""

_OFFLINE = frozenset({"offline", "disabled", "dryrun", "local"})
_TRUE = frozenset({"1", "true", "yes", "on"})


def hub_cache(env: Mapping[str, str]) -> Path:
    """Return where the hub's client keeps models, by the variables it documents."""
    if written := env.get("HF_HUB_CACHE"):
        return Path(written).expanduser()
    home = env.get("HF_HOME") or Path(env.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(home).expanduser() / "hub"


def cache(folder: Path, env: Mapping[str, str]) -> Line:
    """Return what the model cache holds, without a campaign.

    Args:
        folder: The hub's cache.
        env: Our environment; a worker of ours is offline whatever it says.
    """
    folders = sorted(folder.glob("models--*")) if folder.is_dir() else []
    partial = [path for model in folders for path in model.glob("blobs/*.incomplete")]
    is_offline = env.get("HF_HUB_OFFLINE", "").lower() in _TRUE
    names = [path.name.removeprefix("models--").replace("--", "/") for path in folders]
    value = {"models": names, "incomplete": len(partial), "HF_HUB_OFFLINE": is_offline, "folder": str(folder)}
    models = "1 model is" if len(names) == 1 else f"{len(names)} models are"
    broken = "1 download was" if len(partial) == 1 else f"{len(partial)} downloads were"
    sentence = f"{models} in the hub's cache ({folder}); workers ask nothing of the network."
    if partial:
        return Line(
            "model:cache",
            "is_local",
            f"{sentence} {broken} broken off.",
            "warn",
            value,
            str(folder),
            fix="Complete them: vigil run --check --online CAMPAIGN.yaml",
        )
    if not names:
        return Line(
            "model:cache",
            "is_local",
            f"No model is in the hub's cache ({folder}); a campaign with a hub id would stop.",
            "warn",
            value,
            str(folder),
            fix="Name a local folder as model.path, or download: vigil run --check --online CAMPAIGN.yaml",
        )
    return Line("model:cache", "is_local", sentence, "good", value, str(folder))


def _has_netrc(host: str, home: Path) -> bool:
    try:
        return bool(host) and netrc.netrc(home / ".netrc").authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def exporters(
    asked: Mapping[str, Iterable[str]], env: Mapping[str, str], home: Path, *, is_tonight: bool = True
) -> list[Line]:
    """Return a line for each exporter that is asked for; without a terminal a login that is asked for ends the run.

    Args:
        asked: Exporter -> places that ask for it.
        env: Our environment; only whether a key is set is looked at.
        home: The user's folder, where .netrc is.
        is_tonight: Those who ask are what runs tonight, not configurations that lie beside it.
    """
    lines = []
    for name, places in sorted(asked.items()):
        where = ", ".join(places)
        subject, claim = f"exporter:{name}", "asks_no_login"
        if name not in _LOGINS:
            sentence = f"{where} reports to {name}; whether it asks for a login is not known."
            lines.append(Line(subject, claim, sentence, "not_told", asked="report_to", fix=f"Try {name} once by hand."))
            continue
        keys, mode, host, fix = _LOGINS[name]
        if env.get(mode, "").lower() in _OFFLINE:
            how = f"{mode} is {env[mode]}"
        elif key := next((key for key in keys if env.get(key)), None):
            how = f"{key} is set"
        elif _has_netrc(host, home):
            how = f".netrc has {host}"
        else:
            sentence = (
                f"{where} reports to {name}, and no key is set: it would ask for a login at night and end the run."
            )
            outcome: Outcome = "bad" if is_tonight else "warn"
            lines.append(Line(subject, claim, sentence, outcome, {"asked_by": where}, "environment, .netrc", fix=fix))
            continue
        sentence = f"{where} reports to {name}; {how}."
        lines.append(Line(subject, claim, sentence, "good", {"asked_by": where}, "environment, .netrc"))
    if not asked:
        sentence = "Nothing reports to an exporter, so none asks for a login."
        lines.append(Line("exporter:none", "asks_no_login", sentence, "good", asked="report_to"))
    return lines


def token(env: Mapping[str, str], *, is_needed: bool) -> Line:
    """Return whether the hub's token is there.

    Args:
        env: Our environment; only whether a token is set is looked at.
        is_needed: A model has still to be downloaded.
    """
    home = Path(env.get("HF_HOME") or Path(env.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface").expanduser()
    file = Path(env.get("HF_TOKEN_PATH") or home / "token").expanduser()
    is_set = bool(env.get("HF_TOKEN")) or os.access(file, os.R_OK)
    source = "HF_TOKEN, the hub's token file"
    if is_set:
        return Line("hub:token", "asks_no_login", "A token of the hub is set.", "good", {"is_set": True}, source)
    if not is_needed:
        sentence = "No token of the hub is set, and a night needs none: workers are offline."
        return Line("hub:token", "asks_no_login", sentence, "good", {"is_set": False}, source)
    return Line(
        "hub:token",
        "asks_no_login",
        "No token of the hub is set, and a model has still to be downloaded; gated ones need it.",
        "warn",
        {"is_set": False},
        source,
        fix="Run hf auth login before the download, if the model is gated.",
    )


_NIGHT_H = 24
_NEAR_C = 5.0
"""A sensor this near to its limit, degrees Celsius, before the work begins, throttles under it."""

_STEP_S = 1.0
"""A clock that a time service slews moves less in the seconds of a look."""


def power(system: System) -> Line:
    """Return where the current comes from."""
    known = facts.power_of(system)
    charge = "" if known.percent is None else f", battery at {known.percent:.0f} %"
    lid = {"open": " The lid is open.", "closed": " The lid is closed.", "": ""}[known.lid]
    value = known.to_json()
    if known.source == "battery":
        return Line(
            "machine:power",
            "is_on_mains",
            f"It runs from its battery{charge}; training empties it long before morning.{lid}",
            "bad",
            value,
            known.asked,
            fix="Plug it in.",
        )
    if known.source == "mains":
        how = "It has no battery, so it runs from mains" if known.is_inferred else f"It runs from mains{charge}"
        sentence = f"{how}.{lid}"
        return Line("machine:power", "is_on_mains", sentence, "good", value, known.asked, is_inferred=known.is_inferred)
    return not_told(
        "machine:power", "is_on_mains", f"no source of power is named.{lid}", fix="Look at the plug.", asked=known.asked
    )


def sleep(system: System) -> Line:
    """Return whether the machine would fall asleep while a job runs."""
    known = facts.sleep_of(system)
    if not known.asked:
        return not_told("machine:sleep", "stays_awake", f"nothing is known of sleep on {system.platform}.")
    value = {
        "can_sleep": known.can_sleep,
        "after_min": known.after_min,
        "blocker": known.blocker,
        "closing_sleeps": known.closing_sleeps,
    }
    if not known.can_sleep:
        return Line("machine:sleep", "stays_awake", "It cannot fall asleep.", "good", value, known.asked)
    idle = {None: "When it falls asleep by itself is not told", 0: "It does not fall asleep by itself"}.get(
        known.after_min, f"It falls asleep after {known.after_min} min without input"
    )
    lid = " Closing the lid still sends it to sleep." if known.closing_sleeps else ""
    if known.blocker:
        sentence = f"{idle}; {known.blocker} keeps it awake while a job runs, and was tried.{lid}"
        fix = "Leave the lid open." if known.closing_sleeps else ""
        return Line("machine:sleep", "stays_awake", sentence, "good", value, known.asked, fix=fix)
    outcome: Outcome = "good" if known.after_min == 0 else "bad" if known.after_min else "not_told"
    return Line(
        "machine:sleep",
        "stays_awake",
        f"{idle}, and nothing of ours can keep it awake: {known.why_not}.{lid}",
        outcome,
        value,
        known.asked,
        fix="" if outcome == "good" else "Switch sleep off in the system's settings for this night.",
    )


def heat(system: System) -> Line:
    """Return temperature and throttling."""
    known = facts.heat_of(system)
    value = known.to_json()
    parts = []
    if known.margin_c is not None:
        parts.append(f"{known.hottest_c:.0f} of {known.limit_c:.0f} degrees Celsius")
    if known.speed_share is not None:
        parts.append(f"{100 * known.speed_share:.0f} % of the full clock allowed")
    if known.pressure is not None:
        parts.append(f"thermal pressure {known.pressure} of 4")
    sentence = f"{', '.join(parts)}." if parts else ""
    subject, claim = "machine:heat", "runs_at_full_speed"
    if known.is_saving:
        slow = f"A low-power mode is on: training is slower than on full power. {sentence}".strip()
        fix = "Switch the low-power mode off in the system's settings."
        return Line(subject, claim, slow, "warn", value, known.asked, fix=fix)
    if not known.is_told:
        return not_told(subject, claim, "no temperature and no throttling.", asked=known.asked)
    is_hot = known.margin_c is not None and known.margin_c < _NEAR_C
    if is_hot or known.is_held_back:
        held = f"It is hot or held back before the work begins: {sentence}"
        fix = "Let it cool, keep its vents free, and look at its power settings; a held-back clock trains slowly."
        return Line(subject, claim, held, "warn", value, known.asked, fix=fix)
    return Line(subject, claim, f"{sentence[0].upper()}{sentence[1:]}", "good", value, known.asked)


def restart(system: System) -> Line:
    """Return whether a restart, a shutdown or a sleep at a fixed hour is planned."""
    plans = {"darwin": mac.plans, "linux": linux.plans}.get(system.platform)
    if plans is None:
        return not_told("machine:restart", "none_is_planned", f"nothing is known of {system.platform}.")
    certain, possible, source = plans(system)
    value = {"certain": certain, "possible": possible}
    fix = "Call it off for this night, or let vigil install-service CAMPAIGN.yaml take the campaign up again."
    if certain:
        return Line(
            "machine:restart", "none_is_planned", f"Planned: {'; '.join(certain)}.", "bad", value, source, fix=fix
        )
    if possible:
        sentence = f"It may restart by itself: {'; '.join(possible)}."
        return Line("machine:restart", "none_is_planned", sentence, "warn", value, source, fix=fix)
    if not source:
        return not_told("machine:restart", "none_is_planned", "no plans of the system can be read.")
    return Line("machine:restart", "none_is_planned", "No restart or shutdown is planned.", "good", value, source)


def logout(system: System) -> Line:
    """Return whether jobs outlive the login they were started from."""
    subject, claim = "machine:logout", "jobs_outlive_it"
    if system.platform != "linux":
        return not_told(subject, claim, "what a logout ends.", fix="Lock the screen instead of logging out.")
    if not (system.root / "run/systemd/system").is_dir():
        return Line(
            subject, claim, "No systemd manages logins here, so a logout ends no job.", "good", asked="/run/systemd"
        )
    setting = linux.logind(system).get("KillUserProcesses", "")
    if setting.lower() in {"yes", "true", "on", "1"}:
        return Line(
            subject,
            claim,
            "logind ends all processes of a user at logout (KillUserProcesses).",
            "bad",
            setting,
            "logind.conf",
            fix="Stay logged in, or run: loginctl enable-linger, and start it under systemd-run --user --scope",
        )
    if setting:
        return Line(subject, claim, "logind leaves processes alive at logout.", "good", setting, "logind.conf")
    return not_told(
        subject,
        claim,
        "logind.conf does not set KillUserProcesses, and its default differs between distributions.",
        fix="Stay logged in.",
        asked="logind.conf",
    )


def _offset_here(at: float) -> int:
    return time.localtime(at).tm_gmtoff


def clock(system: System, clock: Clock, drift_s: float, offset: Callable[[float], int] = _offset_here) -> Line:
    """Return whether the clock is right and stays so through the night.

    Args:
        system: The machine.
        clock: Time.
        drift_s: Seconds that the wall clock moved further than the monotonic one while the doctor looked.
        offset: Seconds that local time is ahead of UTC at a moment.
    """
    now = clock.now()
    is_held = linux.is_synchronized(system) if system.platform == "linux" else None
    zone = _local(now, offset)
    change = change_of_time(now, offset)
    value = {
        "synchronized": is_held,
        "zone": zone.tzname(),
        "utc_offset_h": offset(now) / 3600,
        "change": change and {"at": change[0], "seconds": change[1]},
        "stepped_s": round(drift_s, 3),
    }
    subject, claim = "machine:clock", "is_right"
    source = "time.time(), time.localtime(), time.monotonic()" + (", timedatectl" if system.platform == "linux" else "")
    place = f"Time zone {zone:%Z}, {zone:%H:%M} now"
    written = Path(__file__).stat().st_mtime
    if now < written - 86_400:
        return Line(
            subject,
            claim,
            f"The clock says {zone:%Y-%m-%d %H:%M}, which is before this program was installed.",
            "bad",
            value,
            source,
            fix="Set the clock; deadlines and records go by it.",
        )
    if abs(drift_s) > _STEP_S:
        sentence = (
            f"The wall clock moved by {drift_s:+.1f} s against the monotonic one while it was looked at. {place}."
        )
        return Line(
            subject, claim, sentence, "warn", value, source, fix="Look at the time service: something sets the clock."
        )
    if change is not None:
        at = _local(change[0], lambda _: offset(now))
        sentence = (
            f"{place}. The clock is put {'forward' if change[1] > 0 else 'back'} by {abs(change[1]) // 60:.0f} min at"
        )
        fix = "Deadlines such as `until` go by local time: check that the hour is still the one meant."
        return Line(subject, claim, f"{sentence} {at:%Y-%m-%d %H:%M}.", "warn", value, source, fix=fix)
    if is_held is False:
        sentence = f"{place}. No time service holds the clock."
        return Line(subject, claim, sentence, "warn", value, source, fix="Switch it on: timedatectl set-ntp true")
    if is_held is None:
        return Line(subject, claim, f"{place}. Not told: whether a time service holds it.", "not_told", value, source)
    return Line(subject, claim, f"{place}, held by a time service.", "good", value, source)


def _local(at: float, offset: Callable[[float], int]) -> dt.datetime:
    zone = dt.timezone(dt.timedelta(seconds=offset(at)), time.strftime("%Z", time.localtime(at)))
    return dt.datetime.fromtimestamp(at, tz=zone)


def change_of_time(now: float, offset: Callable[[float], int]) -> tuple[float, int] | None:
    """Return when in the next day the local clock is put forward or back and by how many seconds, None if it is not.

    Args:
        now: Unix seconds.
        offset: Seconds that local time is ahead of UTC at a moment.
    """
    before = offset(now)
    for hour in range(1, _NIGHT_H + 1):
        after = offset(now + 3600 * hour)
        if after != before:
            low, high = now + 3600 * (hour - 1), now + 3600 * hour
            while high - low > 1:
                middle = (low + high) / 2
                low, high = (middle, high) if offset(middle) == before else (low, middle)
            return float(round(high)), after - before
    return None

"""Lines about what can end or hold up a night: power, sleep, heat, restarts, the end of a login, the clock."""

import datetime as dt
import time
from collections.abc import Callable
from pathlib import Path

from state.clock import Clock
from tools.machine import facts, linux, mac
from tools.machine.line import Line, Outcome, not_told
from tools.machine.system import System

_NIGHT_H = 24
_NEAR_C = 5.0
"""A sensor this near to its limit, degrees Celsius, before the work begins, throttles under it."""

_STEP_S = 1.0
"""A clock that a time service slews moves less in the seconds of a look."""


def power(system: System) -> Line:
    """Return where the current comes from."""
    found = facts.power_of(system)
    charge = "" if found.percent is None else f", battery at {found.percent:.0f} %"
    lid = {"open": " The lid is open.", "closed": " The lid is closed.", "": ""}[found.lid]
    value = found.to_json()
    if found.source == "battery":
        return Line(
            "machine:power",
            "is_on_mains",
            f"It runs from its battery{charge}; training empties it long before morning.{lid}",
            "bad",
            value,
            found.asked,
            fix="Plug it in.",
        )
    if found.source == "mains":
        how = "It has no battery, so it runs from mains" if found.is_inferred else f"It runs from mains{charge}"
        said = f"{how}.{lid}"
        return Line("machine:power", "is_on_mains", said, "good", value, found.asked, is_inferred=found.is_inferred)
    return not_told(
        "machine:power", "is_on_mains", f"no source of power is named.{lid}", fix="Look at the plug.", asked=found.asked
    )


def sleep(system: System) -> Line:
    """Return whether the machine would fall asleep while a job runs."""
    found = facts.sleep_of(system)
    if not found.asked:
        return not_told("machine:sleep", "stays_awake", f"nothing is known of sleep on {system.platform}.")
    value = {
        "can_sleep": found.can_sleep,
        "after_min": found.after_min,
        "blocker": found.blocker,
        "closing_sleeps": found.closing_sleeps,
    }
    if not found.can_sleep:
        return Line("machine:sleep", "stays_awake", "It cannot fall asleep.", "good", value, found.asked)
    idle = {None: "When it falls asleep by itself is not told", 0: "It does not fall asleep by itself"}.get(
        found.after_min, f"It falls asleep after {found.after_min} min without input"
    )
    lid = " Closing the lid still sends it to sleep." if found.closing_sleeps else ""
    if found.blocker:
        said = f"{idle}; {found.blocker} keeps it awake while a job runs, and was tried.{lid}"
        fix = "Leave the lid open." if found.closing_sleeps else ""
        return Line("machine:sleep", "stays_awake", said, "good", value, found.asked, fix=fix)
    outcome: Outcome = "good" if found.after_min == 0 else "bad" if found.after_min else "not_told"
    return Line(
        "machine:sleep",
        "stays_awake",
        f"{idle}, and nothing of ours can keep it awake: {found.why_not}.{lid}",
        outcome,
        value,
        found.asked,
        fix="" if outcome == "good" else "Switch sleep off in the system's settings for this night.",
    )


def heat(system: System) -> Line:
    """Return temperature and throttling."""
    found = facts.heat_of(system)
    value = found.to_json()
    told = []
    if found.margin_c is not None:
        told.append(f"{found.hottest_c:.0f} of {found.limit_c:.0f} degrees Celsius")
    if found.speed_share is not None:
        told.append(f"{100 * found.speed_share:.0f} % of the full clock allowed")
    if found.pressure is not None:
        told.append(f"thermal pressure {found.pressure} of 4")
    said = f"{', '.join(told)}." if told else ""
    subject, claim = "machine:heat", "runs_at_full_speed"
    if found.is_saving:
        slow = f"A low-power mode is on: training is slower than on full power. {said}".strip()
        fix = "Switch the low-power mode off in the system's settings."
        return Line(subject, claim, slow, "warn", value, found.asked, fix=fix)
    if not found.is_told:
        return not_told(subject, claim, "no temperature and no throttling.", asked=found.asked)
    is_hot = found.margin_c is not None and found.margin_c < _NEAR_C
    if is_hot or found.is_held_back:
        held = f"It is hot or held back before the work begins: {said}"
        fix = "Let it cool, keep its vents free, and look at its power settings; a held-back clock trains slowly."
        return Line(subject, claim, held, "warn", value, found.asked, fix=fix)
    return Line(subject, claim, f"{said[0].upper()}{said[1:]}", "good", value, found.asked)


def restart(system: System) -> Line:
    """Return whether a restart, a shutdown or a sleep at a fixed hour is planned."""
    plans = {"darwin": mac.plans, "linux": linux.plans}.get(system.platform)
    if plans is None:
        return not_told("machine:restart", "none_is_planned", f"nothing is known of {system.platform}.")
    certain, possible, asked = plans(system)
    value = {"certain": certain, "possible": possible}
    fix = "Call it off for this night, or let vigil install-service CAMPAIGN.yaml take the campaign up again."
    if certain:
        return Line(
            "machine:restart", "none_is_planned", f"Planned: {'; '.join(certain)}.", "bad", value, asked, fix=fix
        )
    if possible:
        said = f"It may restart by itself: {'; '.join(possible)}."
        return Line("machine:restart", "none_is_planned", said, "warn", value, asked, fix=fix)
    if not asked:
        return not_told("machine:restart", "none_is_planned", "no plans of the system can be read.")
    return Line("machine:restart", "none_is_planned", "No restart or shutdown is planned.", "good", value, asked)


def logout(system: System) -> Line:
    """Return whether jobs outlive the login they were started from."""
    subject, claim = "machine:logout", "jobs_outlive_it"
    if system.platform != "linux":
        return not_told(subject, claim, "what a logout ends.", fix="Lock the screen instead of logging out.")
    if not (system.root / "run/systemd/system").is_dir():
        return Line(
            subject, claim, "No systemd manages logins here, so a logout ends no job.", "good", asked="/run/systemd"
        )
    said = linux.logind(system).get("KillUserProcesses", "")
    if said.lower() in {"yes", "true", "on", "1"}:
        return Line(
            subject,
            claim,
            "logind ends all processes of a user at logout (KillUserProcesses).",
            "bad",
            said,
            "logind.conf",
            fix="Stay logged in, or run: loginctl enable-linger, and start it under systemd-run --user --scope",
        )
    if said:
        return Line(subject, claim, "logind leaves processes alive at logout.", "good", said, "logind.conf")
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
    asked = "time.time(), time.localtime(), time.monotonic()" + (", timedatectl" if system.platform == "linux" else "")
    place = f"Time zone {zone:%Z}, {zone:%H:%M} now"
    written = Path(__file__).stat().st_mtime
    if now < written - 86_400:
        return Line(
            subject,
            claim,
            f"The clock says {zone:%Y-%m-%d %H:%M}, which is before this program was installed.",
            "bad",
            value,
            asked,
            fix="Set the clock; deadlines and records go by it.",
        )
    if abs(drift_s) > _STEP_S:
        said = f"The wall clock moved by {drift_s:+.1f} s against the monotonic one while it was looked at. {place}."
        return Line(
            subject, claim, said, "warn", value, asked, fix="Look at the time service: something sets the clock."
        )
    if change is not None:
        at = _local(change[0], lambda _: offset(now))
        said = (
            f"{place}. The clock is put {'forward' if change[1] > 0 else 'back'} by {abs(change[1]) // 60:.0f} min at"
        )
        fix = "Deadlines such as `until` go by local time: check that the hour is still the one meant."
        return Line(subject, claim, f"{said} {at:%Y-%m-%d %H:%M}.", "warn", value, asked, fix=fix)
    if is_held is False:
        said = f"{place}. No time service holds the clock."
        return Line(subject, claim, said, "warn", value, asked, fix="Switch it on: timedatectl set-ntp true")
    if is_held is None:
        return Line(subject, claim, f"{place}. Not told: whether a time service holds it.", "not_told", value, asked)
    return Line(subject, claim, f"{place}, held by a time service.", "good", value, asked)


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

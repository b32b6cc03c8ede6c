"""`vigil install-service`: the campaign goes on by itself after a reboot, by launchd or by systemd's user manager.

What is installed restarts the agent, never a job: the agent finds each job by its files, adopts what lives and resumes
what does not from its last saved step. Written by manuals; the LaunchAgent was not tried on a Mac.

`python -m agent.service HOME FILE` is what the service runs.
"""

import getpass
import os
import plistlib
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.campaign import LoadedCampaign, load_campaign
from agent.checks import check_campaign
from state.errors import ConfigError, NotFoundError, VigilError
from state.files import ensure_local_disk, file_system_type, fsync_path, write_atomic
from state.goal import Goal
from state.hashing import hash_bytes
from state.log import log_debug
from state.paths import CampaignPaths
from state.records import CAMPAIGN_ENDED
from tools.machine.facts import System

RUNBOOK = "runbooks/night.md"
AGAIN = 4
"""Exit status after which the service is started again; every other end is an end."""

_RETRY_S = 60
_MARK = "X-Vigil"
_KEPT = ("PATH", "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "LD_LIBRARY_PATH", "CONDA_PREFIX", "LANG", "TZ")
"""Variables of the shell that the service gets; never a key or a token, since the file is readable."""

_ALWAYS = frozenset({*_KEPT, "HOME", "USER", "LOGNAME", "SHELL"})
_READ_BY = {
    "trackio": ("TRACKIO_DIR",),
    "tensorboard": (),
    "wandb": ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE", "WANDB_DIR"),
    "mlflow": ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"),
}
"""Tracker -> variables by which it finds its place."""

_FLEETING = frozenset({"tmpfs", "ramfs"})
_GUARDED = ("Desktop", "Documents", "Downloads", "Library/Mobile Documents")


@dataclass(frozen=True)
class Service:
    """What is installed for one campaign.

    Args:
        name: Name of the unit without its ending, or label of the LaunchAgent.
        file: The campaign file.
        home: Folder of all campaigns.
        path: Where the unit or property list goes.
        content: Its bytes.
        link: Link that lets systemd start it at boot; None on macOS, where the folder does that.
    """

    name: str
    file: Path
    home: Path
    path: Path
    content: bytes
    link: Path | None

    @property
    def is_installed(self) -> bool:
        """Whether exactly this lies there."""
        is_same = self.path.is_file() and self.path.read_bytes() == self.content
        return is_same and (self.link is None or self.link.is_symlink())


@dataclass(frozen=True)
class Place:
    """Whose services, on which machine.

    Args:
        system: The machine.
        user_home: The user's folder.
        env: The environment of the shell.
    """

    system: System
    user_home: Path
    env: Mapping[str, str]

    @property
    def folder(self) -> Path:
        """Where services of this user lie."""
        if self.system.platform == "darwin":
            return self.user_home / "Library" / "LaunchAgents"
        # The user manager does not see what a shell has in XDG_CONFIG_HOME.
        return self.user_home / ".config" / "systemd" / "user"

    @property
    def is_mac(self) -> bool:
        """Whether launchd is asked, not systemd."""
        return self.system.platform == "darwin"


def here() -> Place:
    """Return this user's place on this machine."""
    return Place(System(), Path.home(), os.environ)


def planned(loaded: LoadedCampaign, home: Path, place: Place) -> Service:
    """Return the service of a campaign.

    Args:
        loaded: The campaign file.
        home: Folder of all campaigns, absolute.
        place: Where it is installed.
    """
    # Two homes may hold campaigns of one name.
    digest = hash_bytes(f"{home}\0{loaded.path}".encode())[:8]
    name = f"vigil-{loaded.goal.campaign}-{digest}"
    command = [sys.executable, "-P", "-m", "agent.service", str(home), str(loaded.path)]
    env = {key: place.env[key] for key in _KEPT if place.env.get(key)}
    if place.is_mac:
        content = _property_list(name, command, loaded, home, env)
        return Service(name, loaded.path, home, place.folder / f"{name}.plist", content, None)
    content = _unit(command, loaded, home, env).encode()
    link = place.folder / "default.target.wants" / f"{name}.service"
    return Service(name, loaded.path, home, place.folder / f"{name}.service", content, link)


def _property_list(name: str, command: list[str], loaded: LoadedCampaign, home: Path, env: Mapping[str, str]) -> bytes:
    log = str(home / f"{loaded.goal.campaign}.service.log")
    return plistlib.dumps(
        {
            "Label": name,
            "ProgramArguments": command,
            "WorkingDirectory": str(loaded.folder),
            "EnvironmentVariables": dict(env),
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": _RETRY_S,
            # A background process gets less of the machine, and so would the jobs it starts.
            "ProcessType": "Interactive",
            "AbandonProcessGroup": True,
            "StandardOutPath": log,
            "StandardErrorPath": log,
            _MARK: {"Campaign": str(loaded.path), "Home": str(home)},
        }
    )


def _unit(command: list[str], loaded: LoadedCampaign, home: Path, env: Mapping[str, str]) -> str:
    lines = [
        "# Written by vigil install-service; the same command with --remove takes it away.",
        "[Unit]",
        f"Description=Vigil campaign {loaded.goal.campaign}",
        "StartLimitIntervalSec=3600",
        "StartLimitBurst=10",
        "",
        "[Service]",
        "Type=simple",
        f"WorkingDirectory={_percent(str(loaded.folder))}",
        *(f"Environment={_quoted(f'{key}={value}')}" for key, value in env.items()),
        f"ExecStart={' '.join(_quoted(word).replace('$', '$$') for word in command)}",
        # Jobs have supervisors of their own: ending the agent must not end them, nor must a job that ran out of memory.
        "KillMode=process",
        "OOMPolicy=continue",
        "Restart=on-failure",
        f"RestartSec={_RETRY_S}",
        "",
        "[Install]",
        "WantedBy=default.target",
        "",
        f"[{_MARK}]",
        f"Campaign={loaded.path}",
        f"Home={home}",
    ]
    return "\n".join(lines) + "\n"


def _percent(text: str) -> str:
    return text.replace("%", "%%")


def _quoted(text: str) -> str:
    escaped = _percent(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


# -- installing -------------------------------------------------------------------------------------------------


def install(loaded: LoadedCampaign, home: Path, place: Place) -> list[str]:
    """Write the service of a campaign; a second time changes nothing.

    Args:
        loaded: The campaign file.
        home: Folder of all campaigns, absolute.
        place: Where it is installed.

    Returns:
        What was done, and what to type, as sentences.

    Raises:
        ConfigError: It would not work; nothing was written.

    Side effects: writes the unit or property list, and the link that starts it at boot.
    """
    _refuse_what_would_not_work(loaded, home, place)
    service = planned(loaded, home, place)
    if service.path.exists() and _marked(service.path) is None:
        raise _refusal(f"{service.path} is there and is not Vigil's; move it away.", str(service.path))
    was_installed = service.is_installed
    if not was_installed:
        _verify(service, place)
        home.mkdir(parents=True, exist_ok=True)
        write_atomic(service.path, service.content)
        if service.link is not None:
            _link(service.link, service.path)
    done = f"{service.path} is {'there already' if was_installed else 'written'}."
    started = _on_mac(service, place) if place.is_mac else _on_linux(service, place)
    return [done, *started, *_without(loaded.goal, place)]


def _without(goal: Goal, place: Place) -> Iterator[str]:
    """Yield a sentence on the variables that the campaign takes from this shell, and will not find in the service."""
    taken: list[str] = []
    if goal.notify:
        taken += [each.label[1:] for each in goal.notify.to if each.label.startswith("$")] + list(goal.notify.env)
    taken += [name for each in goal.trackers for name in _READ_BY[each] if place.env.get(name)]
    names = [name for name in dict.fromkeys(taken) if name not in _ALWAYS]
    if names:
        yield (
            f"The service does not have {', '.join(names)} of this shell, since its file is readable: write an address"
            " as @FILE, and let a command or tracker read a file of its own (runbooks/notify.md, runbooks/trackers.md)."
        )


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(Path("..") / target.name)
    fsync_path(link.parent)


def _refusal(sentence: str, where: str) -> ConfigError:
    return ConfigError(sentence, what="service", where=where, runbook=RUNBOOK)


def _refuse_what_would_not_work(loaded: LoadedCampaign, home: Path, place: Place) -> None:
    """Raise ConfigError for what could not run after a reboot."""
    from tools.models.hub import resolve

    system = place.system
    if system.platform not in {"darwin", "linux"}:
        raise _refusal(f"Services of {system.platform} are not known; type vigil run {loaded.path} at its start.", "")
    if place.env.get("SUDO_USER"):
        raise _refusal("Run this without sudo: it would be installed for root, not for you.", "SUDO_USER")
    if system.platform == "linux" and not (system.root / "run/systemd/system").is_dir():
        again = shlex.join([sys.executable, "-P", "-m", "agent.service", str(home), str(loaded.path)])
        raise _refusal(f"No systemd runs here; put this line into crontab -e instead: @reboot {again}", "/run/systemd")
    for path in (loaded.path, home, Path(sys.executable)):
        if any(not character.isprintable() for character in str(path)):
            raise _refusal(
                f"The path {str(path)!r} has a character that no service file can hold; rename it.", str(path)
            )
        if (kind := file_system_type(path)) in _FLEETING:
            raise _refusal(f"{path} is on a disk in memory ({kind}), which a reboot empties; move it.", str(path))
    ensure_local_disk(home)
    check_campaign(loaded, CampaignPaths(home, loaded.goal.campaign), is_rehearsal=True)
    model = loaded.goal.model
    resolve(model.path, online=False, revision=model.revision, base=loaded.folder, campaign=str(loaded.path))


def _verify(service: Service, place: Place) -> None:
    """Let the system's own program read the file first, where there is one.

    Raises:
        ConfigError: It refuses the file.
    """
    with tempfile.TemporaryDirectory() as folder:
        side = Path(folder) / service.path.name
        side.write_bytes(service.content)
        command = ("plutil", "-lint", str(side)) if place.is_mac else ("systemd-analyze", "verify", "--user", str(side))
        answer = place.system.ask(*command)
    if answer is None or answer.status == 0:
        return
    # It also complains of other units, and of a manager that does not run.
    complaints = [line for line in (answer.error + answer.out).splitlines() if service.path.name in line]
    if complaints:
        raise _refusal(f"{command[0]} refuses the service: {complaints[0]}", str(service.path))


def _on_mac(service: Service, place: Place) -> Iterator[str]:
    yield "It starts at your next login. Start it now with:"
    yield f"  launchctl bootstrap gui/$(id -u) {shlex.quote(str(service.path))}"
    yield "Stop it with:"
    yield f"  launchctl bootout gui/$(id -u)/{service.name}"
    yield f"What it says is in {service.home / _log_name(service)}."
    yield "A Mac with FileVault waits for your password after a restart, and starts nothing before."
    for path in (service.file, service.home):
        for name in _GUARDED:
            if path.is_relative_to(place.user_home / name):
                yield (
                    f"macOS may keep it out of {place.user_home / name}, where {path} is: move it, or allow"
                    f" {sys.executable} full disk access in the privacy settings."
                )


def _log_name(service: Service) -> str:
    return Path(plistlib.loads(service.content)["StandardOutPath"]).name


def _on_linux(service: Service, place: Place) -> Iterator[str]:
    yield "It starts when your user manager does. Start it now with:"
    yield f"  systemctl --user daemon-reload && systemctl --user start {service.name}"
    yield "Stop it with (jobs go on under their supervisors):"
    yield f"  systemctl --user stop {service.name}"
    yield f"What it says: journalctl --user -u {service.name}"
    user = place.env.get("USER") or getpass.getuser()
    if (place.system.root / "var/lib/systemd/linger" / user).exists():
        yield f"Linger is on for {user}: the user manager starts at boot, and outlives your logout."
    else:
        yield "Your user manager starts at your login and ends at your logout. To let it start at boot and stay, type:"
        yield f"  loginctl enable-linger {shlex.quote(user)}"


# -- removing ---------------------------------------------------------------------------------------------------


def remove(file: Path, home: Path | None, place: Place) -> list[str]:
    """Remove the services of a campaign file, and nothing that Vigil did not write.

    Args:
        file: The campaign file; it need not be there any more.
        home: Only the service of this home; of any when None.
        place: Where they are installed.

    Returns:
        What was done, and what to type, as sentences.

    Side effects: deletes units or property lists, and their links.
    """
    file = file.expanduser().absolute()
    said = []
    for path in sorted(place.folder.glob("vigil-*")) if place.folder.is_dir() else []:
        mark = _marked(path)
        if mark is None or mark[0] != str(file) or (home is not None and mark[1] != str(home)):
            continue
        if not place.is_mac:
            link = place.folder / "default.target.wants" / path.name
            if link.is_symlink() and Path(os.readlink(link)).name == path.name:  # noqa: PTH115 - the text, as written
                link.unlink()
        path.unlink()
        fsync_path(path.parent)
        stop = (
            f"launchctl bootout gui/$(id -u)/{path.stem}"
            if place.is_mac
            else f"systemctl --user stop {path.stem}; systemctl --user daemon-reload"
        )
        said += [f"{path} is removed. If it runs, end it with:", f"  {stop}"]
    return said or [f"No service of {file} is installed; nothing was changed."]


def _marked(path: Path) -> tuple[str, str] | None:
    """Return campaign file and home that a service of ours was written for, None for a file that is not ours."""
    try:
        raw = path.read_bytes()
        if path.suffix == ".plist":
            mark = plistlib.loads(raw).get(_MARK) or {}
        else:
            _, _, tail = raw.decode().partition(f"[{_MARK}]\n")
            mark = dict(line.split("=", 1) for line in tail.splitlines())
        return str(mark["Campaign"]), str(mark["Home"])
    except (OSError, ValueError, KeyError, AttributeError, plistlib.InvalidFileException):
        return None


# -- running ----------------------------------------------------------------------------------------------------


def take_up(home: Path, file: Path) -> int:
    """Run a campaign as `vigil run` does, unless it has ended or a person has stopped it.

    Args:
        home: Folder of all campaigns.
        file: The campaign file.

    Returns:
        `AGAIN` where another try may help; 0 where there is nothing to repeat, whatever the verdict.
    """
    from state.reading import open_reader

    if not file.is_file():
        print(f"{file} is not there (yet).", flush=True)  # noqa: T201 - the service's log
        return AGAIN
    try:
        with open_reader(CampaignPaths(home, load_campaign(file).goal.campaign)) as reader:
            campaign = reader.campaign()
        if campaign["state"] in CAMPAIGN_ENDED:
            said = f"{campaign['name']} has ended ({campaign['state']}); vigil run {file} takes it up by hand."
            print(said, flush=True)  # noqa: T201 - the service's log
            return 0
    except NotFoundError:
        # The run begins it.
        log_debug("service.nothing_on_record")
    except VigilError as error:
        print(error.sentence, flush=True)  # noqa: T201 - the service's log
        return 0
    return AGAIN if _run(home, file) == AGAIN else 0


def _run(home: Path, file: Path) -> int:
    from agent.cli import vigil

    try:
        vigil(["run", str(file), "--home", str(home)], prog_name="vigil")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    return 0


if __name__ == "__main__":
    sys.exit(take_up(Path(sys.argv[1]), Path(sys.argv[2])))

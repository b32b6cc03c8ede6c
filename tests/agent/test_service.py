"""`vigil install-service`: what it writes, what it refuses, what it takes away, and what the service does."""

import os
import plistlib
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from agent import service
from agent.campaign import load_campaign
from agent.cli import vigil
from agent.service import Place, take_up
from state.errors import ConfigError
from tests.agent import folders
from tests.agent.recorded import record
from tests.tools.machine import machines
from tools.machine.facts import System

HAS_SYSTEMD_ANALYZE = shutil.which("systemd-analyze") is not None


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "files").mkdir()
    return folders.make(tmp_path / "files")


@pytest.fixture
def linux(tmp_path: Path) -> Place:
    """A user of a Linux machine that systemd manages; nothing of this machine is asked."""
    system = System("linux", tmp_path / "root", str(tmp_path / "bin"))
    machines.put(tmp_path / "root", {"run/systemd/system/x": ""})
    return Place(system, tmp_path / "user", {"PATH": "/usr/bin:/opt/b", "USER": "anna", "HF_TOKEN": "secret"})


@pytest.fixture
def mac(tmp_path: Path) -> Place:
    system = System("darwin", tmp_path / "root", str(tmp_path / "bin"))
    return Place(system, tmp_path / "user", {"PATH": "/opt/homebrew/bin", "WANDB_API_KEY": "secret"})


def install(file: Path, home: Path, place: Place) -> list[str]:
    return service.install(load_campaign(file), home, place)


def below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def says(place: Place, monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> Result:
    monkeypatch.setattr(service, "here", lambda: place)
    return CliRunner().invoke(vigil, ["install-service", *map(str, arguments)])


def test_on_linux_a_unit_and_the_link_that_starts_it_are_written_once(
    file: Path, tmp_path: Path, linux: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = says(linux, monkeypatch, file, "--home", tmp_path / "home")
    assert first.exit_code == 0, first.output
    unit, link = below(tmp_path / "user")[::-1]
    assert link.startswith(".config/systemd/user/default.target.wants/vigil-small-")
    assert (tmp_path / "user" / link).read_text() == (tmp_path / "user" / unit).read_text()
    name = Path(unit).stem
    assert f"systemctl --user daemon-reload && systemctl --user start {name}" in first.stdout
    assert "loginctl enable-linger anna" in first.stdout
    before = (tmp_path / "user" / unit).stat()
    again = says(linux, monkeypatch, file, "--home", tmp_path / "home")
    assert "is there already" in again.stdout
    assert (tmp_path / "user" / unit).stat().st_mtime_ns == before.st_mtime_ns
    assert len(below(tmp_path / "user")) == 2


def test_the_unit_leaves_jobs_alone_and_holds_no_secret(file: Path, tmp_path: Path, linux: Place) -> None:
    text = service.planned(load_campaign(file), tmp_path / "home", linux).content.decode()
    assert f'ExecStart="{sys.executable}" "-P" "-m" "agent.service" "{tmp_path / "home"}" "{file}"' in text
    for line in ("KillMode=process", "OOMPolicy=continue", "Restart=on-failure", "WantedBy=default.target"):
        assert f"\n{line}\n" in text
    assert 'Environment="PATH=/usr/bin:/opt/b"' in text
    assert "secret" not in text


def test_what_systemd_would_expand_is_escaped(tmp_path: Path, linux: Place) -> None:
    folder = tmp_path / 'odd %h $HOME "x"'
    folder.mkdir()
    text = service.planned(load_campaign(folders.make(folder)), tmp_path / "home", linux).content.decode()
    (command,) = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    assert command.endswith(r'odd %%h $$HOME \"x\"/campaign.yaml"')
    assert f"WorkingDirectory={tmp_path}/odd %%h $HOME" in text


@pytest.mark.skipif(not HAS_SYSTEMD_ANALYZE, reason="systemd's own reader is asked where there is one")
def test_systemds_own_reader_accepts_the_unit_and_refuses_a_bad_one(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    machines.put(tmp_path / "root", {"run/systemd/system/x": ""})
    place = Place(System("linux", tmp_path / "root"), tmp_path / "user", {"PATH": os.environ["PATH"], "USER": "anna"})
    assert "is written" in install(file, tmp_path / "home", place)[0]
    monkeypatch.setattr("agent.service.sys", SimpleNamespace(executable="/no-such-python"))
    with pytest.raises(ConfigError, match=r"systemd-analyze refuses the service: .*no-such-python is not executable"):
        install(file, tmp_path / "other", place)
    assert len(below(tmp_path / "user")) == 2


def test_a_reader_that_complains_of_other_things_does_not_stop_it(file: Path, tmp_path: Path, linux: Place) -> None:
    machines.program(tmp_path / "bin", "systemd-analyze", status=1, error="Failed to initialize manager")
    assert "is written" in install(file, tmp_path / "home", linux)[0]


@pytest.mark.parametrize(
    ("added", "names"),
    [
        ("", ""),
        ('notify: {to: ["@mail.txt", "json://127.0.0.1/x"]}\n', ""),
        ("notify: {to: [$PHONE], command: [cat], env: [NTFY_TOKEN, HOME]}\n", "PHONE, NTFY_TOKEN"),
        ("trackers: [wandb, tensorboard]\n", "WANDB_API_KEY"),
        ("trackers: [mlflow]\n", ""),
    ],
)
def test_variables_that_the_service_will_not_have_are_named_with_what_serves_instead(
    file: Path, mac: Place, added: str, names: str
) -> None:
    file.write_text(file.read_text() + added)
    said = " ".join(service._without(load_campaign(file).goal, mac))
    assert said.startswith(f"The service does not have {names} of this shell") if names else not said
    assert ("@FILE" in said, "secret" in said) == (bool(names), False)


def test_linger_that_is_on_is_said(file: Path, tmp_path: Path, linux: Place) -> None:
    machines.put(tmp_path / "root", {"var/lib/systemd/linger/anna": ""})
    said = " ".join(install(file, tmp_path / "home", linux))
    assert "Linger is on for anna" in said
    assert "enable-linger" not in said


def test_on_a_mac_a_launch_agent_is_written(
    file: Path, tmp_path: Path, mac: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines.program(tmp_path / "bin", "plutil")
    result = says(mac, monkeypatch, file, "--home", tmp_path / "home")
    assert result.exit_code == 0, result.output
    (name,) = below(tmp_path / "user")
    assert name.startswith("Library/LaunchAgents/vigil-small-")
    with (tmp_path / "user" / name).open("rb") as stream:
        written = plistlib.load(stream)
    label = Path(name).stem
    assert written["Label"] == label
    assert written["ProgramArguments"][1:] == ["-P", "-m", "agent.service", str(tmp_path / "home"), str(file)]
    assert written["EnvironmentVariables"] == {"PATH": "/opt/homebrew/bin"}
    assert (written["RunAtLoad"], written["KeepAlive"]) == (True, {"SuccessfulExit": False})
    assert (written["ProcessType"], written["AbandonProcessGroup"]) == ("Interactive", True)
    assert f"launchctl bootstrap gui/$(id -u) {tmp_path / 'user' / name}" in result.stdout
    assert str(tmp_path / "home" / "small.service.log") in result.stdout
    assert "FileVault" in result.stdout
    assert "is there already" in says(mac, monkeypatch, file, "--home", tmp_path / "home").stdout


def test_a_property_list_that_macos_refuses_is_not_written(file: Path, tmp_path: Path, mac: Place) -> None:
    machines.script(tmp_path / "bin", "plutil", 'echo "$2: Unexpected character" >&2; exit 1')
    with pytest.raises(ConfigError, match="plutil refuses the service"):
        install(file, tmp_path / "home", mac)
    assert below(tmp_path / "user") == []


def test_a_folder_that_macos_guards_is_warned_about(tmp_path: Path, mac: Place) -> None:
    (tmp_path / "user" / "Documents").mkdir(parents=True)
    file = folders.make(tmp_path / "user" / "Documents")
    said = " ".join(install(file, tmp_path / "home", mac))
    assert f"macOS may keep it out of {tmp_path / 'user' / 'Documents'}" in said


@pytest.mark.parametrize(
    ("platform", "env", "words"),
    [
        ("sunos5", {}, "Services of sunos5 are not known"),
        ("linux", {"SUDO_USER": "anna"}, "without sudo"),
    ],
)
def test_machines_and_users_it_would_not_work_for_are_refused(
    file: Path, tmp_path: Path, platform: str, env: dict[str, str], words: str
) -> None:
    place = Place(System(platform, tmp_path / "root", ""), tmp_path / "user", env)
    with pytest.raises(ConfigError, match=words):
        install(file, tmp_path / "home", place)
    assert not (tmp_path / "user").exists()


def test_a_linux_without_systemd_is_refused_and_told_the_line_for_cron(file: Path, tmp_path: Path) -> None:
    place = Place(System("linux", tmp_path / "root", ""), tmp_path / "user", {})
    with pytest.raises(ConfigError, match=r"crontab -e instead: @reboot .*-m agent.service"):
        install(file, tmp_path / "home", place)


def test_a_disk_that_a_reboot_empties_is_refused(
    file: Path, tmp_path: Path, linux: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "file_system_type", lambda path: "tmpfs" if path.name == "home" else "ext4")
    with pytest.raises(ConfigError, match="a disk in memory"):
        install(file, tmp_path / "home", linux)


def test_a_path_that_no_service_file_can_hold_is_refused(file: Path, tmp_path: Path, linux: Place) -> None:
    with pytest.raises(ConfigError, match="a character that no service file can hold"):
        install(file, tmp_path / "ho\nme", linux)


def test_a_campaign_that_would_stop_at_once_is_refused(file: Path, tmp_path: Path, linux: Place) -> None:
    text = file.read_text()
    file.write_text(text.replace(str(folders.BASE), "nobody/no-such-model"))
    with pytest.raises(ConfigError, match="nobody/no-such-model"):
        install(file, tmp_path / "home", linux)
    file.write_text(text)
    (file.parent / "train.jsonl").unlink()
    with pytest.raises(ConfigError, match="not a file"):
        install(file, tmp_path / "home", linux)
    assert not (tmp_path / "user").exists()


def test_a_file_of_another_that_has_its_name_is_left_alone(file: Path, tmp_path: Path, linux: Place) -> None:
    path = service.planned(load_campaign(file), tmp_path / "home", linux).path
    machines.put(path.parent, {path.name: "[Service]\nExecStart=/bin/true\n"})
    with pytest.raises(ConfigError, match=r"is not Vigil's; move it away"):
        install(file, tmp_path / "home", linux)
    assert service.remove(file, None, linux)[0].startswith("No service of")
    assert path.exists()


def test_a_campaign_that_changed_its_place_is_written_anew(file: Path, tmp_path: Path, linux: Place) -> None:
    install(file, tmp_path / "home", linux)
    moved = Place(linux.system, linux.user_home, {**linux.env, "PATH": "/elsewhere"})
    assert "is written" in install(file, tmp_path / "home", moved)[0]
    assert len(below(tmp_path / "user")) == 2


@pytest.mark.parametrize("kind", ["linux", "mac"])
def test_removal_takes_away_exactly_what_was_written(
    file: Path, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    place: Place = request.getfixturevalue(kind)
    (tmp_path / "more").mkdir()
    other = folders.make(tmp_path / "more")
    install(other, tmp_path / "home", place)
    kept = below(tmp_path / "user")
    machines.put(place.folder, {"vigil-strange.service": "\0", "vigil-strange.plist": "<", "vigil-dict.plist": ""})
    (place.folder / "vigil-dict.plist").write_bytes(plistlib.dumps({"Label": "x"}))
    strange = {name for name in below(tmp_path / "user") if "strange" in name or "dict" in name}
    install(file, tmp_path / "home", place)
    install(file, tmp_path / "home2", place)

    # The campaign file need not be there any more.
    file.unlink()
    result = says(place, monkeypatch, file, "--remove", "--home", tmp_path / "home2")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("is removed") == 1
    assert ("launchctl bootout" if kind == "mac" else "systemctl --user stop") in result.stdout
    result = says(place, monkeypatch, file, "--remove")
    assert result.stdout.count("is removed") == 1
    assert set(below(tmp_path / "user")) == {*kept, *strange}
    assert says(place, monkeypatch, file, "--remove").stdout.startswith("No service of")


def test_a_link_that_points_elsewhere_is_not_ours_to_remove(file: Path, tmp_path: Path, linux: Place) -> None:
    install(file, tmp_path / "home", linux)
    (link,) = (linux.folder / "default.target.wants").iterdir()
    link.unlink()
    link.symlink_to("/elsewhere/another.service")
    service.remove(file, None, linux)
    assert link.is_symlink()


def test_without_any_service_removal_changes_nothing(file: Path, linux: Place) -> None:
    assert service.remove(file, None, linux) == [f"No service of {file} is installed; nothing was changed."]


def test_the_place_is_this_users_on_this_machine() -> None:
    assert service.here().system.platform == sys.platform
    assert service.here().user_home == Path.home()


# -- what the service does ----------------------------------------------------------------------------------------


def runs(monkeypatch: pytest.MonkeyPatch, code: int) -> list[Path]:
    """Let `vigil run` end with a code; return the files it is asked to run."""
    asked: list[Path] = []

    def run(home: Path, file: Path) -> int:
        asked.append(file)
        return code

    monkeypatch.setattr(service, "_run", run)
    return asked


@pytest.mark.parametrize(("code", "status"), [(0, 0), (1, 0), (2, 0), (3, 0), (4, 4), (5, 0), (6, 0)])
def test_only_a_failed_tool_is_worth_another_try(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, status: int
) -> None:
    asked = runs(monkeypatch, code)
    assert take_up(tmp_path / "home", file) == status
    assert asked == [file]


def test_a_campaign_that_a_person_stopped_stays_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = runs(monkeypatch, 0)
    file = folders.make(tmp_path)
    file.write_text(file.read_text().replace("campaign: small", "campaign: quick"))
    record(tmp_path / "home", "stopped")
    assert take_up(tmp_path / "home", file) == 0
    assert asked == []
    assert "quick has ended (stopped)" in capsys.readouterr().out


def test_a_campaign_under_way_is_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = runs(monkeypatch, 0)
    file = folders.make(tmp_path)
    file.write_text(file.read_text().replace("campaign: small", "campaign: quick"))
    record(tmp_path / "home", "running")
    assert take_up(tmp_path / "home", file) == 0
    assert asked == [file]


def test_a_file_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    assert take_up(tmp_path, tmp_path / "absent.yaml") == service.AGAIN


def test_a_file_that_is_wrong_ends_the_service_with_the_sentence_in_its_log(tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("campaign: [\n")
    told = subprocess.run(
        [sys.executable, "-P", "-m", "agent.service", str(tmp_path / "home"), str(tmp_path / "wrong.yaml")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert (told.returncode, told.stderr) == (0, "")
    assert "wrong.yaml:" in told.stdout


def test_the_service_runs_the_campaign_as_the_command_line_does(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file.parent / "train.jsonl").unlink()
    assert take_up(tmp_path / "home", file) == 0
    assert "train.jsonl, which is not a file" in capsys.readouterr().err

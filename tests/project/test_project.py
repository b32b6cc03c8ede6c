"""What must hold for the repository as a whole."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("agent", "policies", "state", "tools")


def tracked() -> list[Path]:
    """Return the files git tracks; in an export without git, every file outside hidden folders."""
    command = [shutil.which("git") or "git", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    return [path for path in ROOT.rglob("*") if path.is_file() and "/." not in path.as_posix()]


def texts() -> list[tuple[Path, str]]:
    """Return tracked text files with their content."""
    found = []
    for path in tracked():
        try:
            found.append((path, path.read_text(encoding="utf-8")))
        except UnicodeDecodeError:
            continue
    return found


def test_every_locked_package_is_pinned_with_hashes_and_no_index_address() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    assert "--index-url" not in lock
    entries = [entry for entry in re.split(r"\n(?=[A-Za-z0-9])", lock) if entry.strip()]
    assert len(entries) > 50
    assert [entry.split()[0] for entry in entries if "==" not in entry or "--hash=sha256:" not in entry] == []


def test_every_dependency_is_in_the_lock_and_mlx_is_pinned_exactly() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    named = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    names = [re.split(r"[\[<>=; ]", requirement)[0].replace(".", "-").replace("_", "-") for requirement in named]
    assert [name for name in names if not re.search(rf"^{re.escape(name)}==", lock, re.MULTILINE | re.IGNORECASE)] == []
    assert all("==" in requirement for requirement in named if requirement.startswith("mlx"))


def test_no_tracked_text_names_a_machine_path_or_a_registry() -> None:
    suspects = ("/wo" + "rk/", "/ro" + "ot/", "/opt/" + "pypi", "pypi" + ".org", "files.python" + "hosted")
    found = [(path.name, word) for path, text in texts() for word in suspects if word in text]
    assert found == []


def test_no_tracked_file_is_large_or_pickled() -> None:
    assert [path.name for path in tracked() if path.stat().st_size > 4_000_000] == []
    assert [path.name for path in tracked() if path.suffix in {".pkl", ".pickle", ".pt", ".bin"}] == []


def test_every_runbook_that_the_code_names_exists() -> None:
    named = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            named |= set(re.findall(r"[\"'](?:runbooks/)?([\w/]+\.md)[\"']", path.read_text()))
    assert named
    # A model card has this name in a folder of its own.
    assert sorted(name for name in named - {"README.md"} if not (ROOT / "runbooks" / name).is_file()) == []


def test_every_relative_link_in_markdown_leads_somewhere() -> None:
    broken: list[str] = []
    for path, text in texts():
        if path.suffix != ".md":
            continue
        targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text)
        gone = [target for target in targets if "://" not in target and not (path.parent / target).exists()]
        broken += [f"{path.relative_to(ROOT)}: {target}" for target in gone]
    assert broken == []


def test_the_readme_names_the_two_commands_and_every_command_of_the_line() -> None:
    from agent.cli import vigil

    readme = (ROOT / "README.md").read_text()
    assert "make quickstart" in readme
    assert "make test" in readme
    assert [name for name in vigil.commands if name not in readme] == []


def test_the_layers_hold() -> None:
    linted = subprocess.run(
        [Path(sys.executable).parent / "lint-imports"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert linted.returncode == 0, linted.stdout


@pytest.mark.parametrize("module", ["agent.cli", "agent.runner", "agent.render.report", "policies.plan", "state.store"])
def test_mlx_is_imported_in_worker_processes_only(module: str) -> None:
    code = (
        f"import sys, {module}\n"
        "found = {name.partition('.')[0] for name in sys.modules} & {'mlx', 'mlx_lm', 'transformers', 'torch'}\n"
        "sys.exit(f'{sorted(found)}' if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_package_folder_says_what_it_is_and_every_test_folder_is_a_package() -> None:
    for package in PACKAGES:
        for folder in {path.parent for path in (ROOT / package).rglob("*.py")}:
            marker = folder / "__init__.py"
            assert marker.is_file(), folder
            assert marker.read_text().startswith('"""'), marker
        assert (ROOT / package / "py.typed").is_file()
    for folder in {path.parent for path in (ROOT / "tests").rglob("*.py")}:
        assert (folder / "__init__.py").is_file(), folder


@pytest.mark.parametrize(
    "campaign", ["quickstart/campaign.yaml", "phantom_ceiling/campaign.yaml", "spreadsheet_qwen2.5_3b.yaml"]
)
def test_every_shipped_campaign_is_valid_and_checking_it_creates_nothing(campaign: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "agent.cli", "run", "--check", str(ROOT / "runbooks" / campaign)]
    done = subprocess.run([*command, "--home", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []

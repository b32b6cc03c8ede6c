"""Every campaign file of the runbooks passes `vigil run --check`, and the check leaves nothing behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.campaign import load_campaign

ROOT = Path(__file__).resolve().parents[2]
RUNBOOKS = ROOT / "runbooks"
EXAMPLE = RUNBOOKS / "your_task"
BY_HAND = frozenset({".vigil", "__pycache__"})
"""Folders that runs of a reader leave in a clone."""
MAC = RUNBOOKS / "spreadsheet_qwen2.5_3b.yaml"
REAL = RUNBOOKS / "smollm2"
_WITHOUT_ITS_MODEL = pytest.mark.skipif(not (REAL / "model" / "config.json").is_file(), reason="needs make smollm2")
LONGEST_GOLD = 762
"""Tokens of the longest reference answer that the lab's stress split holds."""


def campaigns() -> list[Path]:
    """Return the shipped campaign files; in the example's folder the campaign is the reader's own to write."""
    return sorted(
        path for path in RUNBOOKS.rglob("*.yaml") if EXAMPLE not in path.parents and not BY_HAND & set(path.parts)
    )


def names_the_real_model(path: Path) -> bool:
    return REAL in path.parents or "smollm2/model" in path.read_text()


def vigil(*arguments: str, cwd: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line as a reader does, in a child process with an empty home."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "VIGIL_HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "agent.cli", *arguments],
        cwd=cwd, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def files(folder: Path) -> dict[Path, int]:
    """Return each file below a folder with the time of its last change, ns."""
    return {
        path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and not BY_HAND & set(path.parts)
    }


def copied_example(folder: Path) -> Path:
    """Copy what the repository ships of the example, beside the base that it names; return its folder."""
    copy = folder / "your_task"
    (copy / "data").mkdir(parents=True)
    for name in ("lora.yaml", "grade.py", *(f"data/{name}.jsonl" for name in ("train", "valid", "test"))):
        (copy / name).write_bytes((EXAMPLE / name).read_bytes())
    (folder / "quickstart").symlink_to(RUNBOOKS / "quickstart")
    return copy


def test_the_campaigns_that_are_checked_here_are_all_that_are_shipped() -> None:
    names = {path.relative_to(RUNBOOKS).as_posix() for path in campaigns()}
    assert {"quickstart/campaign.yaml", "phantom_ceiling/campaign.yaml", MAC.name} <= names


@pytest.mark.parametrize(
    "campaign",
    [pytest.param(path, marks=_WITHOUT_ITS_MODEL if names_the_real_model(path) else ()) for path in campaigns()],
    ids=lambda path: path.relative_to(RUNBOOKS).as_posix(),
)
def test_a_shipped_campaign_passes_the_check_and_nothing_is_created(campaign: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    before = files(campaign.parent)
    checked = vigil("run", "--check", str(campaign), "--home", str(home), cwd=tmp_path, home=home)
    assert checked.returncode == 0, checked.stderr
    assert "is a valid campaign" in checked.stdout
    assert list(tmp_path.iterdir()) == [], "the check left something in the reader's folder or home"
    assert files(campaign.parent) == before


def test_the_example_of_ones_own_task_passes_from_init_to_check_as_its_page_says(tmp_path: Path) -> None:
    folder, home = copied_example(tmp_path), tmp_path / "home"
    page = (EXAMPLE / "README.md").read_text()
    for line in ("vigil init --from lora.yaml --grader grade.py", "vigil run --check campaign.yaml"):
        assert f"    {line}\n" in page, "the page and this test must name the same commands"
        said = vigil(*line.split()[1:], cwd=folder, home=home)
        assert said.returncode == 0, said.stderr
    assert not home.exists()
    goal = load_campaign(folder / "campaign.yaml").goal
    assert goal.track.metrics == ("numbers", "exact")
    assert goal.approvals.promotion.mode == "wait"


def test_the_lab_s_campaign_decodes_enough_and_never_promotes_without_a_person() -> None:
    goal = load_campaign(MAC).goal
    assert goal.evaluation.max_tokens > LONGEST_GOLD
    assert len(goal.gate.conditions) == 5
    promotion = goal.approvals.promotion
    assert (promotion.mode, promotion.deadline_h, promotion.unanswered) == ("wait", 12, "no")
    recipe = goal.recipe
    assert recipe["lora_parameters"] == {"rank": 4, "scale": 8.0, "dropout": 0.05}
    assert (recipe["learning_rate"], recipe["iters"], recipe["batch_size"]) == (5e-5, 300, 4)
    assert (recipe["num_layers"], recipe["max_seq_length"], recipe["mask_prompt"]) == (16, 2048, True)

"""What a folder of saves tells without MLX: which is newest, which was healthy, which are kept."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from state.files import write_json
from tools.training.progress import (
    Progress,
    damaged_steps,
    drop_old,
    is_sound,
    newest,
    newest_healthy_folder,
    seal,
    set_damaged_aside,
    take_over,
)


def save(saves: Path, step: int, *, is_healthy: bool = True) -> Path:
    folder = saves / f"{step:07d}"
    folder.mkdir(parents=True)
    for name in ("adapters", "optimizer"):
        save_file({"a": np.zeros(2, np.float32)}, folder / f"{name}.safetensors")
    seal(folder, Progress(step=step, is_healthy=is_healthy))
    return folder


def steps(saves: Path) -> list[int]:
    return sorted(int(path.name) for path in saves.iterdir())


@pytest.mark.parametrize("healthy", [2, 6, 10])
def test_the_newest_healthy_save_stays_however_many_follow(tmp_path: Path, healthy: int) -> None:
    for step in range(2, 13, 2):
        save(tmp_path, step, is_healthy=step <= healthy)
        drop_old(tmp_path, Progress(step=step))
    assert steps(tmp_path) == sorted({healthy, 10, 12})
    assert newest_healthy_folder(tmp_path) == tmp_path / f"{healthy:07d}"
    found = newest(tmp_path)
    assert found is not None
    assert found[1].step == 12


def test_without_a_healthy_save_there_is_none_to_judge_by(tmp_path: Path) -> None:
    assert newest_healthy_folder(tmp_path / "no such folder") is None
    save(tmp_path, 2, is_healthy=False)
    assert newest_healthy_folder(tmp_path) is None


def test_a_save_of_a_run_without_samples_counts_as_healthy_and_a_garbled_one_is_passed_over(tmp_path: Path) -> None:
    folder = save(tmp_path, 2)
    write_json(folder / "state.json", {"step": 2})
    (save(tmp_path, 4) / "state.json").write_text('{"step": 4')
    assert newest_healthy_folder(tmp_path) == folder


def test_a_torn_save_goes_when_the_next_is_written(tmp_path: Path) -> None:
    (save(tmp_path, 2) / "adapters.safetensors").write_bytes(b"\0")
    save(tmp_path, 4)
    drop_old(tmp_path, Progress(step=4))
    assert steps(tmp_path) == [4]


@pytest.mark.parametrize(
    ("step", "losses", "is_learning"),
    [
        (40, [(0, 2.9), (40, 1.4)], True),
        (50, [(0, 2.9), (25, 1.6), (50, 1.4)], True),
        (51, [(0, 2.9), (51, 1.4)], False),
        (40, [(0, 2.9), (40, 2.88)], False),
        (40, [(0, 2.9), (20, 1.0), (40, 1.2)], False),
        (40, [(0, 2.9), (20, 1.0)], False),
        (40, [(0, 2.9)], False),
        (40, [], False),
    ],
)
def test_a_run_still_learns_while_it_is_early_and_its_newest_loss_is_clearly_its_lowest(
    step: int, losses: list[tuple[int, float]], *, is_learning: bool
) -> None:
    assert Progress(step=step, val_losses=losses).is_still_learning(100) is is_learning


@pytest.mark.parametrize("name", ["adapters.safetensors", "optimizer.safetensors", "state.json", "adapter_config.json"])
def test_any_flipped_bit_of_a_save_is_noticed_and_the_one_before_is_gone_on_with(tmp_path: Path, name: str) -> None:
    save(tmp_path, 2)
    folder = save(tmp_path, 4)
    (folder / "adapter_config.json").write_text('{"rank": 4}')
    seal(folder, Progress(step=4, train_loss=float("nan"), val_losses=[(2, 0.5)]))
    whole = (folder / name).read_bytes()
    assert is_sound(folder)
    for place in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        (folder / name).write_bytes(bytes(changed))
        assert not is_sound(folder), f"byte {place}"
    assert newest_healthy_folder(tmp_path) == tmp_path / "0000002"
    for _ in range(2):
        set_damaged_aside(tmp_path)
        found = newest(tmp_path)
        assert found is not None
        assert (found[1].step, damaged_steps(tmp_path)) == (2, [4])


def test_a_save_of_an_older_version_has_no_hashes_and_counts_where_it_is_whole(tmp_path: Path) -> None:
    folder = save(tmp_path, 2)
    value = json.loads((folder / "state.json").read_text())
    write_json(folder / "state.json", {key: value[key] for key in value if key not in {"files", "seal"}})
    found = newest(tmp_path)
    assert found is not None
    assert found[1].step == 2
    assert is_sound(folder)
    (folder / "optimizer.safetensors").unlink()
    assert not is_sound(folder)
    write_json(folder / "state.json", [])
    assert not is_sound(folder)


def began(source: Path, saves: Path, why: str = "") -> tuple[str, int | None, int | None]:
    """Return why nothing was gone on from, and the newest save's step and where its run began."""
    told = take_over(source, saves, lambda _save: why, {"iters": 9})
    found = newest(saves)
    return told, found and found[1].step, found and found[1].continued_from


def test_a_run_that_goes_on_from_another_is_told_from_its_saves_alone_whatever_became_of_the_other(
    tmp_path: Path,
) -> None:
    source, saves = save(tmp_path / "other", 8), tmp_path / "saves"
    saves.mkdir()
    assert began(tmp_path / "gone", saves) == (f"{tmp_path / 'gone'} is gone or damaged", None, None)
    assert began(source, saves, "of another recipe") == ("of another recipe", None, None)
    assert list(saves.iterdir()) == []
    assert began(source, saves) == ("", 8, 8)
    assert json.loads((saves / "0000008" / "adapter_config.json").read_text()) == {"iters": 9}
    assert is_sound(saves / "0000008")
    later = save(saves, 12)
    seal(later, Progress(step=12, continued_from=8))
    shutil.move(source, tmp_path / "aside")
    assert began(source, saves) == ("", 12, 8), "its own, though the other is gone"
    (later / "optimizer.safetensors").write_bytes(b"?")
    assert began(source, saves) == ("", 8, 8), "the newest sound one"
    weights = saves / "0000008" / "adapters.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert began(source, saves) == (f"{source} is gone or damaged", None, None)
    shutil.move(tmp_path / "aside", source)
    assert began(source, saves) == ("", 8, 8), "back to the other run's, not to the beginning"
    assert damaged_steps(saves) == [8, 12]


def test_a_run_that_began_anew_never_says_that_it_went_on(tmp_path: Path) -> None:
    source, saves = save(tmp_path / "other", 8), tmp_path / "saves"
    seal(save(saves, 4), Progress(step=4, begun_anew="gone"))
    assert began(source, saves) == ("", 4, None)
    found = newest(saves)
    assert found is not None
    assert found[1].begun_anew == "gone"

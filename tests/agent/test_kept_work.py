"""Work that was paid for is kept: saves of a training that was given up, and nothing of one whose files changed."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from agent import doing, effects
from agent.render.record import with_folder
from state.hashing import hash_file
from state.paths import JobPaths
from state.records import Action, ExitRecord, Job, Json
from tests.agent.test_effects import folder, promoted, sitting
from tools.jobs.spec import JobSpec
from tools.training.progress import Progress, seal

__all__ = ["folder", "promoted"]


def save(job: JobPaths, step: int) -> Path:
    """Write a save as the trainer does."""
    target = job.out / "saves" / f"{step:07d}"
    target.mkdir(parents=True)
    for name in ("adapters", "optimizer"):
        save_file({"a": np.full(2, step, np.float32)}, target / f"{name}.safetensors")
    seal(target, Progress(step=step))
    return target


def test_a_training_goes_on_from_the_sound_saves_of_an_earlier_try_at_the_same(folder: Path) -> None:
    data, other = folder / "a.jsonl", folder / "b.jsonl"
    data.write_text("{}\n")
    other.write_text("{}\n")
    with sitting(folder) as session:

        def given(key: str, path: Path, iters: int = 20) -> JobSpec:
            body: Json = {"recipe": {"iters": iters}, "data": {"train": str(path), "valid": None}}
            if key == "k3":
                body["row_cache"] = str(session.paths.artifacts)
            spec = JobSpec(key=key, kind="training", module="m", input=body)
            paths = session.paths.job(key)
            paths.out.mkdir(parents=True)
            paths.spec.write_text(spec.model_dump_json())
            return spec

        for key, iters in (("k1", 20), ("k2", 99)):
            given(key, data, iters)
            session.store.doing.intend(Action(key=key, kind="train", decision="D99"))
            session.store.doing.fail(key, {})
        for step in (5, 10, 15):
            newest = save(session.paths.job("k1"), step)
        save(session.paths.job("k2"), 90)
        (newest / "optimizer.safetensors").write_bytes((newest / "optimizer.safetensors").read_bytes()[:-1] + b"\x07")
        again = given("k3", other)
        for _ in range(2):
            doing._take_saves(session, again)
        found = sorted(path.name for path in (session.paths.job("k3").out / "saves").iterdir())
        assert found == ["0000005", "0000010"]
        other.write_text('{"changed": 1}\n')
        doing._take_saves(session, given("k4", other))
        assert not (session.paths.job("k4").out / "saves").exists()


def test_a_result_whose_bytes_changed_is_none(tmp_path: Path) -> None:
    paths = JobPaths(tmp_path)
    paths.result.write_text(json.dumps({"iters": 3}))
    record = ExitRecord(state="finished", result_hash=hash_file(paths.result))
    assert doing._result(paths, record) == {"iters": 3}
    assert doing._result(paths, None) == {"iters": 3}
    paths.result.write_text(json.dumps({"iters": 4}))
    assert doing._result(paths, record) == {}
    paths.result.unlink()
    assert doing._result(paths, record) == {}


def test_links_are_copies_where_links_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_source: str, _target: str) -> None:
        raise OSError

    (tmp_path / "a").write_text("x")
    monkeypatch.setattr("os.link", refuse)
    effects.link_or_copy(str(tmp_path / "a"), str(tmp_path / "b"))
    assert (tmp_path / "b").read_text() == "x"


def test_a_job_that_goes_on_after_a_stop_and_ends_alone_is_not_called_damaged(folder: Path) -> None:
    with sitting(folder) as session:
        session.store.doing.intend(Action(key="k1", kind="train", decision="D99"))
        session.store.doing.record_job(Job(key="k1", kind="training", folder="jobs/k1", run="R1", steps=9))
        files = session.paths.job("k1")
        stopped, finished = (ExitRecord(state=state, by="person", code=0) for state in ("stopped", "finished"))
        session.store.doing.update_job("k1", state="stopped", exit=stopped.model_dump(mode="json"), step=6)
        files.folder.mkdir(parents=True)
        files.exit.write_text(stopped.model_dump_json())
        doing._reopen(session, "k1")
        assert not files.exit.exists()
        # The agent is killed here, and the job ends without it.
        files.exit.write_text(finished.model_dump_json())
        row = next(job for job in session.store.read.jobs() if job.key == "k1")
        shown = with_folder(session.paths, row.model_dump(mode="json"))
        assert (shown["state"], shown["damaged"]) == ("finished", [])

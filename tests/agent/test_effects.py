"""Effects that are no jobs, and notices: done again at any point they end the same; what stands in their way."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent import effects, runner
from agent.campaign import load_campaign
from agent.session import Session
from agent.view import view_of
from state.clock import SystemClock
from state.files import read_json, read_jsonl
from state.goal import Notify
from state.hashing import hash_tree
from state.lease import Lease
from state.paths import CampaignPaths
from state.records import Action, ActionKind, Decision, Json
from state.store import Store
from tests.agent.test_run_flow import edit, vigil
from tests.faults.campaign import warm, world
from tools.jobs.backend import LocalBackend
from tools.models.identity import weights_hash

RECIPE = {"batch_size": 4, "iters": 60, "max_seq_length": 128, "learning_rate": 0.001}


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a campaign of two trainings that has promoted the second, and its home; no effect is on."""
    folder = tmp_path_factory.mktemp("promoted")
    assert warm.run(world.write_campaign(folder / "files", recipe=RECIPE), folder / "home") == 0
    return folder


@pytest.fixture
def folder(promoted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(promoted, tmp_path / "copy", symlinks=True))


@contextmanager
def sitting(folder: Path) -> Iterator[Session]:
    """Hold the campaign as an agent does."""
    clock, paths = SystemClock(), CampaignPaths(folder / "home", "storm")
    loaded = load_campaign(folder / "files" / "campaign.yaml")
    with Lease.acquire(paths, clock) as lease, Store.open(paths, clock, lease) as store:
        yield runner._sit_down(loaded, paths, store, clock, LocalBackend(), {})


Performing = Callable[[Session, Decision, Action], Action]


def perform(session: Session, act: Performing, kind: ActionKind, inputs: Json, key: str = "k1") -> Action:
    """Intend and perform as Doing does."""
    decision = Decision(rule="r", sentence="s", action=kind, action_key=key, action_inputs=inputs, run="R1")
    action = session.store.doing.intend(Action(key=key, kind=kind, decision="D99", inputs=inputs))
    return act(session, decision, action)


def training(session: Session) -> Path:
    """Return the folder of the first training."""
    action = next(a for a in session.store.read.actions() if a.kind == "train")
    return session.paths.job(action.key).folder


def deletion(job: Path) -> Json:
    return {"job": job.name, "names": ["0000030", "0000060"], "bytes": 92, "hash": "h"}


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_deletion_takes_the_named_saves_and_nothing_else(folder: Path) -> None:
    with sitting(folder) as session:
        job = training(session)
        before = files(folder / "home" / "storm")
        done = perform(session, effects.delete_saves, "delete", deletion(job))
        assert (done.state, done.result) == ("done", {"freed_bytes": 92})
        gone = before - files(folder / "home" / "storm")
    assert gone
    assert {path for path in gone if f"{job.name}/out/saves/" not in path} == set()
    assert list((job / "out" / "saves").iterdir()) == []


def test_a_deletion_that_was_killed_half_way_ends_the_same(folder: Path) -> None:
    with sitting(folder) as session:
        job = training(session)
        trash = job / ".trash" / "k1"
        trash.mkdir(parents=True)
        (job / "out" / "saves" / "0000030").rename(trash / "0000030")
        (trash / "0000030" / "optimizer.safetensors").unlink()
        done = perform(session, effects.delete_saves, "delete", deletion(job))
        assert (done.state, done.result) == ("done", {"freed_bytes": 92})
    assert not (job / ".trash").exists()
    assert list((job / "out" / "saves").iterdir()) == []


def test_the_saves_of_a_training_without_an_end_stay(folder: Path) -> None:
    with sitting(folder) as session:
        job = training(session)
        (job / "exit.json").unlink()
        refused = perform(session, effects.delete_saves, "delete", deletion(job))
        assert refused.state == "failed"
        assert refused.result["exit"]["reason"] == "The training of R1 has no end on record, so its saves stay."
        unknown = perform(session, effects.delete_saves, "delete", {**deletion(job), "job": "another"}, "k2")
        assert unknown.state == "failed"
    assert len(list((job / "out" / "saves").iterdir())) == 2


def test_saves_that_cannot_be_moved_fail_the_deletion_in_a_sentence(folder: Path) -> None:
    with sitting(folder) as session:
        job = training(session)
        (job / ".trash").write_text("in the way")
        refused = perform(session, effects.delete_saves, "delete", deletion(job))
    assert refused.state == "failed"
    assert refused.result["exit"]["reason"].startswith("The saves of R1 cannot be deleted (")


def test_of_a_training_that_was_stopped_the_save_that_it_is_judged_by_is_not_given_up(folder: Path) -> None:
    with sitting(folder) as session:
        job = training(session)
        assert view_of(session).saves == {}, "no rule of retention"
        edit(folder / "files" / "campaign.yaml", retention={"saves": 0})
        session.loaded = load_campaign(folder / "files" / "campaign.yaml")
        assert sorted(view_of(session).saves[job.name]) == ["0000030", "0000060"]
        (job / "result.json").unlink()
        assert sorted(view_of(session).saves[job.name]) == ["0000030"]


def exporting(session: Session, to: str = "out") -> Json:
    promotion = next(d for d in session.store.read.decisions() if d.action == "promote")
    return {"promotion": promotion.id, "to": to, "adapter": promotion.action_inputs["adapter"]}


def test_an_export_holds_the_adapter_the_report_the_record_and_a_card(folder: Path) -> None:
    with sitting(folder) as session:
        inputs = exporting(session)
        done = perform(session, effects.export, "export", inputs)
    place = folder / "files" / "out" / f"storm-{inputs['adapter'][:12]}"
    assert (done.state, done.result["folder"]) == ("done", str(place))
    assert [path.name for path in place.parent.iterdir()] == [place.name]
    assert hash_tree(place / "adapter") == inputs["adapter"]
    assert "<title" in (place / "report.html").read_text()
    assert read_jsonl(place / "export.jsonl")[0]["export"] == "vigil"
    card = (place / "CARD.txt").read_text()
    assert "main.score at least 0.69: 0.79" in card
    assert "% interval" in card
    assert f"decision {inputs['promotion']}" in card
    assert inputs["adapter"] in card


def test_an_export_with_the_fused_model_says_how_alike_it_is(folder: Path) -> None:
    with sitting(folder) as session:
        made = session.paths.job("fusion").folder / "out" / "fused"
        made.mkdir(parents=True)
        (made / "model.safetensors").write_bytes(b"one model")
        (made / "config.json").write_text("{}")
        alike = {"positions": 90, "same": 89, "kl": 1e-4, "kl_base": 0.5}
        result = {"fused": "out/fused", "weights": weights_hash(made), **alike}
        perform(session, lambda at, _, act: at.store.doing.finish(act.key, result=result), "fuse", {}, "fusion")
        inputs = {**exporting(session), "fused": "fusion"}
        done = perform(session, effects.export, "export", inputs)
        place = Path(done.result["folder"])
        assert place.name == f"storm-{inputs['adapter'][:12]}-with-fused"
        assert (place / "fused" / "model.safetensors").read_bytes() == b"one model"
        card = (place / "CARD.txt").read_text()
        assert "on 90 positions of training rows 89 have the same likeliest token" in card
        (made / "model.safetensors").unlink()
        (made / "model.safetensors").write_bytes(b"another")
        refused = perform(session, effects.export, "export", {**inputs, "to": "elsewhere"}, "k2")
    assert refused.state == "failed"
    assert refused.result["exit"]["reason"] == "The fused model of R1 is no longer as it was made."
    assert list((folder / "files" / "elsewhere").iterdir()) == []


def test_an_adapter_on_a_fused_model_is_exported_with_that_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sitting(folder) as session:
        run = session.store.read.runs()[0]
        made = session.paths.job("fusion").folder / "out" / "fused"
        shutil.copytree(session.model, made)
        result = {"fused": "out/fused", "weights": weights_hash(made)}
        assert result["weights"] == run.parent_hash, "what the run started from"
        monkeypatch.setattr(effects, "model_of", lambda *_, **__: made)
        perform(session, lambda at, _, act: at.store.doing.finish(act.key, result=result), "fuse", {}, "fusion")
        done = perform(session, effects.export, "export", exporting(session))
        place = Path(done.result["folder"])
        assert weights_hash(place / "model") == run.parent_hash
        card = " ".join((place / "CARD.txt").read_text().split())
        assert "`model/`, that run and its base fused" in card
        assert "mlx_lm.generate --model model --adapter-path adapter" in card


def test_a_fused_model_that_is_gone_or_changed_is_seen(folder: Path) -> None:
    with sitting(folder) as session:
        made = session.paths.job("fusion").folder / "out" / "fused"
        shutil.copytree(session.model, made)
        result = {"fused": "out/fused", "weights": weights_hash(made)}
        inputs = {"adapter": "an adapter", "weights": "w"}
        perform(session, lambda at, _, act: at.store.doing.finish(act.key, result=result), "fuse", inputs, "fusion")
        assert view_of(session).missing_fused == frozenset()
        config = made / "config.json"
        config.write_text(config.read_text() + " ")
        (made / "model.safetensors").write_bytes(b"another")
        assert view_of(session).missing_fused == {"an adapter"}
        shutil.rmtree(made)
        assert view_of(session).missing_fused == {"an adapter"}


def test_an_export_done_again_finds_its_folder_and_leaves_it_as_it_is(folder: Path) -> None:
    with sitting(folder) as session:
        inputs = exporting(session)
        done = perform(session, effects.export, "export", inputs)
        card = Path(done.result["folder"]) / "CARD.txt"
        card.write_text("mine")
        again = perform(session, effects.export, "export", inputs, "k2")
    assert (again.state, again.result) == ("done", done.result)
    assert card.read_text() == "mine"


def test_an_export_that_was_killed_half_way_is_written_anew(folder: Path) -> None:
    with sitting(folder) as session:
        inputs = exporting(session)
        name = f"storm-{inputs['adapter'][:12]}"
        (folder / "files" / "out" / f".{name}.k1" / "adapter").mkdir(parents=True)
        done = perform(session, effects.export, "export", inputs)
    assert done.state == "done"
    assert [path.name for path in (folder / "files" / "out").iterdir()] == [name]


def test_a_folder_of_the_user_s_in_the_place_is_left_alone(folder: Path) -> None:
    with sitting(folder) as session:
        inputs = exporting(session)
        place = folder / "files" / "out" / f"storm-{inputs['adapter'][:12]}"
        (place / "adapter").mkdir(parents=True)
        (place / "adapter" / "mine.txt").write_text("mine")
        refused = perform(session, effects.export, "export", inputs)
    assert refused.state == "failed"
    assert "holds another adapter" in refused.result["exit"]["reason"]
    assert files(folder / "files" / "out") == {place.name, f"{place.name}/adapter", f"{place.name}/adapter/mine.txt"}


def test_an_adapter_that_is_no_longer_what_was_promoted_is_not_exported(folder: Path) -> None:
    with sitting(folder) as session:
        inputs = exporting(session)
        (session.paths.artifact(inputs["adapter"]) / "adapters.safetensors").write_bytes(b"bent")
        refused = perform(session, effects.export, "export", inputs)
    assert refused.state == "failed"
    assert refused.result["exit"]["reason"] == "The adapter of R1 is no longer as it was promoted."
    assert list((folder / "files" / "out").iterdir()) == []


def test_a_place_that_cannot_be_written_fails_the_export_in_a_sentence(folder: Path) -> None:
    with sitting(folder) as session:
        refused = perform(session, effects.export, "export", exporting(session, "grade.py"))
    assert refused.state == "failed"
    assert "cannot be written (Not a directory)" in refused.result["exit"]["reason"]


def told(folder: Path) -> list[dict[str, Any]]:
    """Return what the user's command was told, oldest first."""
    return [json.loads(line.partition(" ")[2]) for line in (folder / "told").read_text().splitlines()]


def test_a_question_is_told_while_it_waits_then_the_end_and_the_promoted_adapter_is_handed_out(tmp_path: Path) -> None:
    changes = {**world.EFFECTS, "approvals": {"promotion": {"mode": "wait"}}, "budget": {"runs": 2}, "recipe": RECIPE}
    campaign, home = world.write_campaign(tmp_path / "files", privacy="redact", **changes), tmp_path / "home"
    assert warm.run(campaign, home, wait=False) == 6
    [asked] = told(tmp_path / "files")
    question = world.rows(home)["approvals"][-1]["id"]
    assert asked["sentence"] == "R2 meets the gate. May it be promoted?"
    assert asked["type"].startswith(f"vigil approve storm:{question}, or ")
    assert vigil(home, "approve", question).returncode == 0
    assert warm.run(campaign, home, wait=False) == 0
    assert [line["event"] for line in told(tmp_path / "files")] == ["question", "ended"]
    world.assert_exactly_once(home)
    world.assert_effects(home)
    report = vigil(home, "report", "--text").stdout
    assert "GB of saves were deleted by retention." in " ".join(report.split())
    for row in world.rows(home)["decisions"]:
        if row["action"] in {"delete", "notify", "export"}:
            assert row["rule"] in vigil(home, "why", row["id"]).stdout
            assert row["rule"] in report


def test_a_command_that_fails_is_one_line_in_the_status_and_the_campaign_goes_on(tmp_path: Path) -> None:
    gate = {"conditions": [{"id": "score", "metric": "main.score", "min": 0.99}]}
    notify = {"command": ["sh", "-c", "exit 3"]}
    campaign, home = world.write_campaign(tmp_path / "files", gate=gate, notify=notify), tmp_path / "home"
    assert warm.run(campaign, home, wait=False) == 3
    status = " ".join(vigil(home, "status").stdout.split())
    assert "notify failed: The command of `notify` ended with code 3." in status
    assert [(a["kind"], a["state"]) for a in world.rows(home)["actions"]][-2:] == [
        ("notify", "failed"),
        ("halt", "done"),
    ]


def test_a_notice_whose_command_was_taken_out_of_the_file_fails_and_stops_nothing(folder: Path) -> None:
    from agent import doing

    inputs = {"event": "ended", "about": "end 1", "title": "t", "sentence": "s", "type": "vigil status"}
    with sitting(folder) as session:
        failed = perform(session, doing._run_side_job, "notify", inputs)
    assert failed.state == "failed"
    assert "no longer has `notify`" in failed.result["exit"]["reason"]


def test_a_notice_that_finds_no_place_on_the_disk_fails_and_stops_nothing(folder: Path) -> None:
    from agent import doing, notices

    inputs = {"event": "ended", "about": "end 1", "title": "t", "sentence": "s", "type": "vigil status"}
    notify = Notify.model_validate({"to": "json://127.0.0.1:9/"})
    with sitting(folder) as session:
        session.loaded = replace(session.loaded, goal=session.goal.model_copy(update={"notify": notify}))
        session.paths.notices.write_text("in the way")
        failed = perform(session, doing._notify, "notify", inputs)
        session.paths.notices.unlink()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(sys, "executable", str(folder / "no_python"))
            left = perform(session, doing._notify, "notify", inputs, key="k2")
            with notices.courier(session, 1):
                assert session.courier is None
    assert (failed.state, failed.result["exit"]["reason"]) == ("failed", "The notice could not be left on the disk.")
    assert (left.state, left.result) == ("done", {"sent": "left for json://"})


def test_a_notice_waits_for_no_stage_and_a_dead_courier_is_followed_by_another(folder: Path) -> None:
    from agent import doing, notices

    inputs = {"event": "ended", "about": "end 1", "title": "t", "sentence": "s", "type": "vigil status"}
    notify = Notify.model_validate({"to": {"address": "json://127.0.0.1:9/", "after_min": 600}})
    with sitting(folder) as session:
        session.loaded = replace(session.loaded, goal=session.goal.model_copy(update={"notify": notify}))
        with notices.courier(session, 1):
            first = session.courier
            assert first is not None
            first.kill()
            first.wait()
            left = perform(session, doing._notify, "notify", inputs, key="k2")
            second = session.courier
            assert second is not None
            assert (left.state, second.poll()) == ("done", None)
        assert second.poll() is None, "what is due in ten hours is not waited for"
        assert second.stdout is not None
        second.kill()
        second.wait()
        second.stdout.close()


def test_an_export_that_is_asked_for_after_the_end_takes_the_campaign_up_once_more(folder: Path) -> None:
    campaign, home = folder / "files" / "campaign.yaml", folder / "home"
    edit(campaign, export={"to": "later"})
    assert warm.run(campaign, home, wait=False) == 0
    digest = (read_json(home / "storm" / "promoted.json") or {})["adapter"]
    assert [path.name for path in (folder / "files" / "later").iterdir()] == [f"storm-{digest[:12]}"]
    assert warm.run(campaign, home, wait=False) == 0
    assert [a["kind"] for a in world.rows(home)["actions"]].count("export") == 1

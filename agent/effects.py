"""Effects that are not jobs: each done once under its action's key, and repeated after a kill to the same end."""

import os
import shutil
from pathlib import Path

from agent.inputs import model_of
from agent.render import record
from agent.render.card import card_of, format_card
from agent.render.report import write_report
from agent.session import Session
from state.files import fsync_path, read_json, write_atomic, write_json
from state.hashing import hash_tree
from state.reading import export as export_record
from state.records import Action, Decision, Json
from tools.models.identity import weights_hash
from tools.training.progress import newest_healthy_folder


def write_handout(session: Session, decision: Decision, folder: Path) -> None:
    """Write `report.html`, `export.jsonl` and `CARD.txt` beside the adapter and the models that go with it.

    Args:
        session: This sitting.
        decision: To export a promotion; it is later than the promotion and earlier than the campaign's end.
        folder: Where to; `adapter/` is there.
    """
    view = record.gather(session.paths, file=str(session.loaded.path))
    write_report(view, folder / "report.html")
    with (folder / "export.jsonl").open("w", encoding="utf-8") as stream:
        export_record(session.paths, stream)
    write_atomic(folder / "CARD.txt", card(session, decision, folder, view))


def card(session: Session, decision: Decision, folder: Path, view: Json) -> str:
    """Return the model card of a promotion, which says how to use what lies beside it."""
    promotion = session.store.read.decision(str(decision.action_inputs["promotion"]))
    run = str(promotion.run)
    under = (folder / "model").is_dir()
    base = "model" if under else session.goal.model.path
    use = [
        f"- Adapter: `adapter/`, hash {decision.action_inputs['adapter']}.",
        f"- Promoted by decision {promotion.id} ({promotion.rule}).",
        *(["- Base: `model/`, that run and its base fused."] if under else []),
        f"- Use: `mlx_lm.generate --model {base} --adapter-path adapter --prompt ...`",
        *_fused(session, str(decision.action_inputs.get("fused", ""))),
        "- `report.html` and `export.jsonl`: the report and the whole record as they stood after the promotion.",
    ]
    return format_card(card_of(view, run), view, use)


def _fused(session: Session, key: str) -> list[str]:
    """Return what is to be said of the fused model: how far it is from what was judged, since it was not judged."""
    if not key:
        return []
    result = next(action.result for action in session.store.read.actions() if action.key == key)
    sentence = (
        f"- `fused/` is base and adapter as one model, dequantized: on {result['positions']} positions of training rows"
        f" {result['same']} have the same likeliest token; it is {result['kl']:.2g} nats away, the base alone"
        f" {result['kl_base']:.2g}. The gate was judged with the adapter beside its base."
    )
    return [sentence]


_RESUME_ONLY = shutil.ignore_patterns("optimizer.safetensors", "state.json")


def keep(session: Session, folder: Path, result: Json) -> dict[str, str]:
    """Move what a job made into content-addressed folders; done again, it finds them there.

    Returns:
        `adapter` and `cases`: hashes of the artifact folders, where the job made them.
    """
    kept = {}
    out = folder / "out"
    if result.get("adapter"):
        kept["adapter"] = store_artifact(session, folder / str(result["adapter"]))
    if (out / "cases.jsonl").is_file():
        kept["cases"] = store_artifact(session, out / "cases.jsonl")
    return kept


def store_artifact(session: Session, source: Path) -> str:
    """Copy a file or folder to the folder named after its content, whole or not at all."""
    session.paths.artifacts.mkdir(parents=True, exist_ok=True)
    side = session.paths.artifacts / f".{source.name}.{source.parent.parent.name}"
    shutil.rmtree(side, ignore_errors=True)
    side.mkdir()
    if source.is_dir():
        # A save is an adapter with what a resume needs beside it; an artifact is the adapter alone.
        shutil.copytree(source, side, dirs_exist_ok=True, ignore=_RESUME_ONLY)
    else:
        shutil.copy2(source, side / source.name)
    name = hash_tree(side)
    target = session.paths.artifact(name)
    if target.exists() and hash_tree(target) == name:
        shutil.rmtree(side)
        return name
    # Synced before it is named: the store must not name an artifact that a power cut can tear.
    sync_tree(side)
    if target.exists():
        shutil.rmtree(target)
    side.rename(target)
    fsync_path(target.parent)
    return name


def sync_tree(folder: Path) -> None:
    """Sync every file below a folder and every folder, so that a rename of it names whole things only."""
    for path in folder.rglob("*"):
        if path.is_dir():
            fsync_path(path)
        else:
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
    fsync_path(folder)


def promote(session: Session, decision: Decision, action: Action) -> Action:
    """Switch the campaign's promoted adapter in one rename."""
    adapter = str(decision.action_inputs["adapter"])
    artifact = session.paths.artifact(adapter)
    if not is_whole(session, decision.run, artifact, adapter):
        sentence = (
            f"The adapter of {decision.run} is not at {artifact} as it was judged, nor in its training's folder: what "
            "is there now was never measured. Put it back from a copy; what is promoted stays as it was."
        )
        return session.store.doing.fail(action.key, result={"exit": {"reason": sentence}})
    link = session.paths.promoted
    side = link.with_name(f".promoted.{action.key}")
    side.unlink(missing_ok=True)
    side.symlink_to(artifact.relative_to(link.parent))
    side.replace(link)
    write_json(
        session.paths.root / "promoted.json",
        {
            "run": decision.run,
            "adapter": adapter,
            "decision": decision.id,
            "model": str(model_of(session, run=str(decision.run))),
        },
    )
    with session.store.transaction():
        session.store.agent.set_campaign(promoted=decision.run)
        return session.store.doing.finish(
            action.key, result={"run": decision.run, "adapter": adapter}, side_effects=(f"promoted -> {adapter[:16]}",)
        )


def is_whole(session: Session, run: str | None, artifact: Path, expected: str) -> bool:
    """Say whether an adapter is what was judged; taken again from the folder of its training where it is not."""
    if artifact.is_dir() and hash_tree(artifact) == expected:
        return True
    trained = [a for a in session.store.read.actions() if a.kind == "train" and a.inputs.get("run") == run]
    for action in trained:
        paths = session.paths.job(action.key)
        named = (read_json(paths.result) or {}).get("adapter")
        source = paths.folder / str(named) if named else newest_healthy_folder(paths.folder / "out" / "saves")
        # Any save may be the one that the run was judged at.
        others = (paths.out / "saves").glob("[0-9]*")
        if any(each.is_dir() and store_artifact(session, each) == expected for each in (source, *others) if each):
            return True
    return False


def end(session: Session, decision: Decision, action: Action) -> Action:
    """Write the campaign's end; only this row says that it has ended."""
    state = decision.action_inputs["state"]
    # Together: a campaign that has ended is not taken up again to finish the act that ended it.
    with session.store.transaction():
        session.store.agent.set_campaign(state=state, sentence=decision.sentence, ended_at=session.clock.now())
        return session.store.doing.finish(action.key, result={"state": state}, side_effects=())


def delete_saves(session: Session, decision: Decision, action: Action) -> Action:
    """Delete saves of a training that has ended: out of the way in one rename each, then gone.

    Done again after a kill it goes on where it was; only names that the decision lists are touched.
    """
    inputs = decision.action_inputs
    paths = session.paths.job(str(inputs["job"]))
    training = next((a for a in session.store.read.actions() if a.key == inputs["job"]), None)
    if training is None or training.state == "intent" or not paths.exit.exists():
        return _failed(session, action, f"The training of {decision.run} has no end on record, so its saves stay.")
    trash = paths.folder / ".trash" / action.key
    try:
        trash.mkdir(parents=True, exist_ok=True)
        for source in (paths.out / "saves" / name for name in inputs["names"]):
            if source.is_dir():
                source.rename(trash / source.name)
        shutil.rmtree(trash.parent)
    except OSError as error:
        return _failed(session, action, f"The saves of {decision.run} cannot be deleted ({error.strerror}).")
    summary = f"{len(inputs['names'])} saves of {decision.run} deleted"
    return session.store.doing.finish(action.key, result={"freed_bytes": inputs["bytes"]}, side_effects=(summary,))


def export(session: Session, decision: Decision, action: Action) -> Action:
    """Write what was promoted to a fresh folder of the user's: beside its place, then renamed, never overwritten."""
    inputs = decision.action_inputs
    adapter = str(inputs["adapter"])
    place = session.loaded.resolve(str(inputs["to"]))
    key = str(inputs.get("fused", ""))
    target = place / f"{session.goal.campaign}-{adapter[:12]}{'-with-fused' if key else ''}"
    side = place / f".{target.name}.{action.key}"
    try:
        if not target.exists():
            shutil.rmtree(side, ignore_errors=True)
            shutil.copytree(session.paths.artifact(adapter), side / "adapter")
            if hash_tree(side / "adapter") != adapter:
                shutil.rmtree(side)
                return _failed(session, action, f"The adapter of {decision.run} is no longer as it was promoted.")
            if not (
                _add_fused(session, key, side, "fused")
                and _add_fused(session, _under(session, decision), side, "model")
            ):
                shutil.rmtree(side)
                return _failed(session, action, f"The fused model of {decision.run} is no longer as it was made.")
            write_handout(session, decision, side)
            sync_tree(side)
            side.rename(target)
            fsync_path(place)
        # Found there: by an earlier try under this key, or by an earlier promotion of the same adapter.
        is_ours = hash_tree(target / "adapter") == adapter
    except OSError as error:
        shutil.rmtree(side, ignore_errors=True)
        return _failed(session, action, f"{target} cannot be written ({error.strerror}).")
    if not is_ours:
        return _failed(session, action, f"{target} holds another adapter than the promoted one; it is left as it is.")
    return session.store.doing.finish(
        action.key, result={"folder": str(target), "adapter": adapter}, side_effects=(f"{target.name} written",)
    )


def _under(session: Session, decision: Decision) -> str:
    """Return the key of the fusion that made the model under an adapter; empty where that is the base."""
    folder = model_of(session, run=str(decision.run))
    made = (a.key for a in session.store.read.actions() if a.kind == "fuse")
    return next((key for key in made if session.paths.job(key).folder in folder.parents), "")


def _add_fused(session: Session, key: str, side: Path, name: str) -> bool:
    """Put the model that a fusion made beside the adapter; false where it is no longer what that made."""
    if not key:
        return True
    made = next(a for a in session.store.read.actions() if a.key == key)
    source = session.paths.job(key).folder / str(made.result["fused"])
    # As links where that can be: two copies of the weights on one disk are one too many.
    shutil.copytree(source, side / name, copy_function=link_or_copy)
    return weights_hash(side / name) == made.made.weights


def link_or_copy(source: str, target: str) -> None:
    """Link a file that nobody changes in place, or copy it where that cannot be."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _failed(session: Session, action: Action, reason: str) -> Action:
    return session.store.doing.fail(action.key, result={"exit": {"reason": reason}})

"""What beliefs stand on, as it is now: one fingerprint for each thing whose change makes beliefs stale."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from agent.inputs import census_input, evaluation_input, paid_signs
from agent.session import Session
from policies.cost import rows_together, timed_step
from state.errors import ConfigError
from state.hashing import hash_json
from state.records import Belief, Evidence, Fingerprint, Json
from tools.evaluation.harness import harness_parts
from tools.jobs.locks import machine_paths
from tools.models.identity import weights_hash
from tools.steps import remember, remembered

World = Mapping[str, Fingerprint]
"""Short name (`grader`, `split:stress.selection`, `package:mlx`, `model:base`) -> fingerprint now."""

_TREES = frozenset({"code", "grader"})


def part_print(name: str, value: str) -> Fingerprint:
    """Return one part of a harness as a fingerprint."""
    family, _, rest = name.partition(":")
    if family == "package":
        return Fingerprint(kind="package", name=rest, value=value)
    if family == "split":
        return Fingerprint(kind="file", name=name, value=value)
    return Fingerprint(kind="tree" if name in _TREES else "settings", name=name, value=value)


def world_of(session: Session) -> World:
    """Read the world: hashes of code, grader, cases, data and weights, versions, settings, and the gate as asked.

    Raises:
        ConfigError: A file that the campaign names cannot be read.
    """
    try:
        return _read_world(session)
    except OSError as error:
        gone = str(error.filename or session.loaded.path)
        raise ConfigError(
            f"{gone} cannot be read ({error.strerror or error}), and the campaign stands on it: put it back, then run "
            "the same command again. What is recorded stays.",
            what="file",
            where=gone,
        ) from error


def _read_world(session: Session) -> World:
    census = census_input(session)
    parts = {
        name: part_print(name, value)
        for name, value in harness_parts(evaluation_input(session, None), session.cache).items()
    }
    data = {
        f"data:{name}": Fingerprint(kind="file", name=f"data:{name}", value=session.cache_hash(path))
        for name, path in census["data"].items()
        if path
    }
    base = weights_hash(session.model, None, session.cache)
    start = weights_hash(session.model, session.adapter, session.cache)
    session.save_cache()
    counted = ("max_seq_length", "mask_prompt", "pair_seq_length", "group_by")
    return {
        **parts,
        **data,
        "model:base": Fingerprint(kind="model", name="base", value=base),
        "model:start": Fingerprint(kind="model", name="start", value=start),
        "sequence": _settings("sequence", {key: census[key] for key in counted}),
        "gate": Fingerprint(kind="goal", name="gate", value=hash_json(_decoding(session))),
        "paid": _settings("paid", paid_signs(session.goal)),
    }


def _settings(name: str, value: Json) -> Fingerprint:
    return Fingerprint(kind="settings", name=name, value=hash_json(value))


def _decoding(session: Session) -> Json:
    """Return what the campaign file asks of a candidate and expects of the base."""
    goal = session.goal
    return {"gate": goal.gate.model_dump(mode="json"), "baseline": goal.baseline.model_dump(mode="json")}


def chosen(world: World, names: Iterable[str]) -> tuple[Fingerprint, ...]:
    """Return the fingerprints with these names; a name that ends with `*` stands for all that begin so."""
    parts: dict[str, Fingerprint] = {}
    for wanted in names:
        prefix = wanted.removesuffix("*")
        matches = [name for name in world if name == wanted or (wanted.endswith("*") and name.startswith(prefix))]
        parts |= {name: world[name] for name in sorted(matches)}
    return tuple(parts.values())


def present(session: Session, world: World, others: Iterable[Fingerprint]) -> dict[tuple[str, str], str]:
    """Return (kind, name) -> present value of everything that some belief may stand on.

    Args:
        session: This sitting.
        world: From `world_of`.
        others: Fingerprints that probes computed now, and those of beliefs; a file among the latter is hashed again.
    """
    now: dict[tuple[str, str], str] = {(known.kind, known.name): known.value for known in world.values()}
    for known in others:
        place = (known.kind, known.name)
        if place not in now and known.kind == "file" and Path(known.name).is_absolute():
            now[place] = session.cache_hash(known.name)
    return now


def learn_steps(session: Session, weights: str) -> None:
    """Remember this campaign's timed trainings, and believe what those of others took.

    Args:
        session: The sitting.
        weights: Hash of the base weights; steps of others say nothing.

    Side effects: writes the machine's file of steps and one belief.
    """
    read, paths = session.store.read, machine_paths()
    runs = {run.id: run for run in read.runs()}
    ours = [action for action in read.actions() if action.kind == "train" and action.state == "done"]
    for action in ours:
        run = runs.get(str(action.inputs.get("run")))
        step = None if run is None else timed_step(action.made, rows_together(run.recipe, run.instrument))
        if run is not None and step is not None:
            row = {"instrument": run.instrument, **step.model_dump(mode="json")}
            remember(paths, weights, action.key, row, action.made.steps_s)
    known = remembered(paths, weights, frozenset(action.key for action in ours))
    standing = next((b for b in session.standing() if (b.subject, b.claim) == ("machine:steps", "step_time")), None)
    if not known or (standing is not None and standing.value == known):
        return
    counts = " and ".join(f"{len(rows)} of {name}" for name, rows in sorted(known.items()))
    session.store.knowing.believe(
        Belief(
            subject="machine:steps",
            claim="step_time",
            statement=f"Earlier campaigns timed {counts} with these weights on this machine.",
            value=known,
            tag="inferred",
            evidence=(Evidence(kind="file", ref=paths.steps.name, summary=f"Timed trainings: {counts}."),),
            mode="10",
            formed_at=session.clock.now(),
        )
    )

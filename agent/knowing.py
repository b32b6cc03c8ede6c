"""Knowing: turn files, versions and finished actions into beliefs with evidence. It plans and launches nothing."""

from collections.abc import Iterable
from typing import Any

from agent import inbox
from agent.fingerprints import World, chosen, learn_steps, present, world_of
from agent.loop import GraphState
from agent.openings import read_openings
from agent.results import record_results
from agent.session import Session
from agent.view import view_of
from policies.checks import base_table, gate_beliefs
from policies.cost import memory_beliefs
from policies.followups import diagnostics
from policies.validity import contamination, stale_beliefs
from state.hashing import hash_json
from state.records import Belief, BeliefStatus, Evidence, Fingerprint, Json, runbook_of
from tools.models.adapters import adapter_recipe
from tools.probes.catalogue import Observation, Probe, ProbeContext
from tools.probes.own import probes_of, unsaid


def knowing(session: Session, state: GraphState) -> dict[str, Any]:
    """Read the world, let beliefs go stale, ask the probes that the next act needs, digest what Doing made.

    Deciding names the act that it wants verified; without one, nothing is probed that no act has asked for.
    """
    wanted = state.get("deciding", {}).get("wants", "")
    inbox.apply_requests(session)
    inbox.apply_deadlines(session)
    inbox.absorb_edit(session)
    context = _context(session)
    world = world_of(session) if session.model.is_dir() else {}
    if world:
        identify(session, world)
    age(session, world, context)
    if world:
        record_results(session, world)
        read_openings(session)
    refresh(session, context, wanted)
    if world:
        learn_steps(session, world["model:base"].value)
        judge_gate_reach(session, world)
        for belief in memory_beliefs(session.goal, session.standing()):
            session.store.knowing.believe(belief.model_copy(update={"formed_at": session.clock.now()}))
        for lesson in diagnostics(view_of(session)):
            session.store.knowing.believe(lesson.model_copy(update={"formed_at": session.clock.now()}))
    return {"knowing": {"verified": wanted}}


def _context(session: Session) -> ProbeContext:
    return ProbeContext(
        goal=session.goal,
        folder=session.loaded.path.parent,
        model=session.model,
        home=session.paths.root,
        cache=session.cache,
        environment=session.environment,
        trainer=session.workers["training"],
    )


def age(session: Session, world: World, context: ProbeContext) -> None:
    """Mark what no longer holds in the world as it is, with the fingerprint that changed as evidence."""
    standing = session.standing()
    probed = [each for probe in probes_of(context.goal, context.folder) for each in probe.stands_on(context)]
    now = present(session, world, [each for belief in standing for each in belief.stands_on])
    now |= {(each.kind, each.name): each.value for each in probed}
    for stale in stale_beliefs(standing, now):
        session.store.knowing.mark(
            stale.belief,
            "stale",
            evidence=Evidence(kind="record", ref=stale.premise or "fingerprint", summary=stale.sentence),
        )


def refresh(session: Session, context: ProbeContext, wanted: str) -> None:
    """Run the probes that an act stands on and whose belief is missing, stale, or of a kind that no print can tell."""
    standing: dict[str, list[Belief]] = {}
    for belief in session.standing():
        if belief.evidence:
            standing.setdefault(_prober(belief.evidence), []).append(belief)
    for probe in probes_of(context.goal, context.folder):
        if wanted not in probe.before:
            continue
        fingerprints = probe.stands_on(context)
        if not probe.is_volatile and _is_known(standing.get(probe.id, []), fingerprints):
            continue
        observations = probe.observe(context)
        # Together: a probe with half of its findings on record would pass for one that has looked.
        with session.store.transaction():
            for observation in observations:
                session.store.knowing.believe(_belief(session, probe, observation, fingerprints))
    for belief, by in unsaid(session.standing(), probes_of(context.goal, context.folder)):
        fallen: BeliefStatus = "stale" if not by else "refuted" if belief.status == "refuted" else "superseded"
        session.store.knowing.mark(belief.id, fallen, superseded_by=by)


def _prober(evidence: Iterable[Evidence]) -> str:
    """Return the id of the probe that formed a belief; what was added to its evidence later does not count."""
    return next((each.ref for each in evidence if each.kind == "probe" and "refuted_by" in each.detail), "")


def _is_known(beliefs: list[Belief], fingerprints: tuple[Fingerprint, ...]) -> bool:
    return bool(beliefs) and all(b.status in {"fresh", "refuted"} and b.stands_on == fingerprints for b in beliefs)


def _belief(session: Session, probe: Probe, observation: Observation, fingerprints: tuple[Fingerprint, ...]) -> Belief:
    """Return what an observation makes believed; the last evidence names the probe."""
    detail = {"refuted_by": probe.refuted_by}
    by_probe = Evidence(kind="probe", ref=probe.id, summary=f"Refuted by {probe.refuted_by}.", detail=detail)
    return Belief(
        subject=observation.subject,
        claim=observation.claim,
        statement=observation.statement,
        value=observation.value,
        tag=observation.tag,
        status="fresh" if observation.holds else "refuted",
        staleness=probe.staleness,
        severity=observation.severity,
        evidence=(*observation.evidence, by_probe),
        stands_on=fingerprints,
        mode=observation.mode,
        fix=observation.fix,
        runbook="" if observation.severity == "note" else runbook_of(observation.mode),
        formed_at=session.clock.now(),
    )


def judge_gate_reach(session: Session, world: World) -> None:
    """Record whether the gate can be met at all, as far as it is known now."""
    read = session.store.read
    beliefs = session.standing()
    identities = {b.subject: str(b.value) for b in beliefs if b.subject.startswith("identity:") and b.status == "fresh"}
    invalidated = contamination(read.beliefs(), read.decisions(), read.actions()).evaluations
    keys = frozenset(
        action.key
        for action in read.actions()
        if action.kind == "evaluate" and action.inputs.get("harness") == identities.get("identity:harness")
    )
    table = base_table(
        read.measurements(),
        identities.get("identity:weights", ""),
        keys - invalidated,
        identities.get("identity:parent", ""),
    )
    ground = chosen(world, _GROUND)
    for belief in gate_beliefs(session.goal, beliefs, table):
        session.store.knowing.believe(belief.model_copy(update={"formed_at": session.clock.now(), "stands_on": ground}))


def identify(session: Session, world: World) -> None:
    """Record what everything else stands on: which weights, which harness, which data.

    Deciding reads these instead of files; a changed one makes the measurements taken under the old one not count.
    """
    parts = {name: world[name].value for name in sorted(world) if _is_harness(name)}
    data = {name: world[name].value for name in sorted(world) if name.startswith("data:")}
    tokens = {name: value for name, value in parts.items() if name != "grader"}
    start = {"folder": str(session.adapter), "recipe": adapter_recipe(session.adapter)} if session.adapter else {}
    values: dict[str, tuple[str, str, Json]] = {
        "harness": (hash_json(parts), "Evaluation stands on its code, cases, decode settings and packages.", parts),
        "weights": (
            world["model:base"].value,
            "The base weights.",
            {"folder": str(session.model), "revision": session.revision},
        ),
        "parent": (world["model:start"].value, "The weights that runs start from.", start),
        "data": (hash_json(data), "The training data.", data),
        "tokens": (
            hash_json([tokens, data, world["sequence"].value]),
            "Token counts stand on the harness but its grader, on the data and on the sequence length.",
            {},
        ),
    }
    for name, (value, what, detail) in values.items():
        session.store.knowing.believe(
            Belief(
                subject=f"identity:{name}",
                claim="is",
                statement=f"{what} Hash {value[:12]}.",
                value=value,
                tag="confirmed",
                evidence=(Evidence(kind="file", ref=name, summary="Hashed now.", detail=detail),),
                formed_at=session.clock.now(),
            )
        )


_GROUND = ("gate", "code", "grader", "decode", "prompt", "tokenizer", "package:*", "split:*", "model:base")
"""What reach and baseline were judged on."""


def _is_harness(name: str) -> bool:
    return name in {"code", "grader", "decode", "prompt", "tokenizer"} or name.startswith(("split:", "package:"))

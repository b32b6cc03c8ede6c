"""Knowing: turn files, versions and finished actions into beliefs with evidence. It plans and launches nothing."""

from typing import Any

from agent import surface
from agent.graph import GraphState
from agent.nodes.digest import digest
from agent.session import Session
from agent.specs import census_input, evaluation_input
from policies.findings import base_table, gate_beliefs
from state.hashing import hash_json
from state.records import Belief, Evidence, Fingerprint
from tools.evaluation.harness import harness_parts
from tools.models.adapters import adapter_recipe
from tools.models.identity import weights_hash
from tools.probes.contract import Observation, Probe, ProbeContext
from tools.probes.table import PROBES


def knowing(session: Session, state: GraphState) -> dict[str, Any]:
    """Read the world, ask the probes whose ground moved, digest what Doing made, record beliefs."""
    surface.apply_requests(session)
    surface.apply_deadlines(session)
    surface.absorb_edit(session)
    refresh(session)
    identify(session)
    digest(session)
    judge_gate_reach(session)
    visits = state.get("knowing", {}).get("visits", 0) + 1
    return {"knowing": {"visits": visits, "beliefs": len(session.standing())}}


def refresh(session: Session) -> None:
    """Run each probe whose fingerprints differ from those of the belief that stands."""
    context = ProbeContext(
        goal=session.goal,
        folder=session.loaded.path.parent,
        model=session.model,
        home=session.paths.root,
        cache=session.cache,
        environment=session.environment,
    )
    standing = {belief.evidence[-1].ref: belief for belief in session.standing() if belief.evidence}
    for probe in PROBES:
        prints = probe.stands_on(context)
        last = standing.get(probe.id)
        if (
            last is not None
            and not probe.is_volatile
            and last.stands_on == prints
            and last.status in {"fresh", "refuted"}
        ):
            continue
        for seen in probe.observe(context):
            session.store.knowing.believe(_belief(session, probe, seen, prints))


def _belief(session: Session, probe: Probe, seen: Observation, prints: tuple[Fingerprint, ...]) -> Belief:
    """Return what an observation makes believed; the last evidence names the probe."""
    by_probe = Evidence(kind="probe", ref=probe.id, summary=f"Refuted by {probe.refuted_by}.")
    return Belief(
        subject=seen.subject,
        claim=seen.claim,
        statement=seen.statement,
        value=seen.value,
        tag=seen.tag,
        status="fresh" if seen.holds else "refuted",
        staleness=probe.staleness,
        severity=seen.severity,
        evidence=(*seen.evidence, by_probe),
        stands_on=prints,
        mode=seen.mode,
        fix=seen.fix,
        runbook="runbooks/hard_stops.md" if seen.severity == "hard_stop" else "",
        formed_at=session.clock.now(),
    )


def judge_gate_reach(session: Session) -> None:
    """Record whether the gate can be met at all, as far as it is known now."""
    read = session.store.read
    beliefs = session.standing()
    identities = {b.subject: str(b.value) for b in beliefs if b.subject.startswith("identity:") and b.status == "fresh"}
    keys = frozenset(
        action.key
        for action in read.actions()
        if action.kind == "evaluate" and action.inputs.get("harness") == identities.get("identity:harness")
    )
    table = base_table(
        read.measurements(),
        identities.get("identity:weights", ""),
        keys,
        identities.get("identity:parent", ""),
    )
    for belief in gate_beliefs(session.goal, beliefs, table):
        session.store.knowing.believe(belief.model_copy(update={"formed_at": session.clock.now()}))


def identify(session: Session) -> None:
    """Record what everything else stands on: which weights, which harness, which data.

    Deciding reads these instead of files; a changed one makes the measurements taken under the old one not count.
    """
    if not session.model.is_dir():
        return
    parts = harness_parts(evaluation_input(session, None), session.cache)
    census = census_input(session)
    weights = weights_hash(session.model, None, session.cache)
    parent = weights_hash(session.model, session.adapter, session.cache)
    start = {"folder": str(session.adapter), "recipe": adapter_recipe(session.adapter)} if session.adapter else {}
    data = {name: session.cache_hash(path) for name, path in census["data"].items() if path}
    session.save_cache()
    values = {
        "harness": (hash_json(parts), "Evaluation stands on its code, cases, decode settings and packages.", parts),
        "weights": (weights, "The base weights.", {"folder": str(session.model), "revision": session.revision}),
        "parent": (parent, "The weights that runs start from.", start),
        "data": (hash_json(data), "The training data.", data),
        "census": (
            hash_json([parts, data, census["max_seq_length"], census["mask_prompt"]]),
            "The census stands on the harness, the data and the sequence length.",
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
                stands_on=(Fingerprint(kind="settings", name=name, value=value),),
                formed_at=session.clock.now(),
            )
        )

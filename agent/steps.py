"""What earlier campaigns on this machine say about the time of a training step, as one belief."""

from agent.session import Session
from policies.walltime import rows_at_once
from state.records import Belief, Evidence
from tools.jobs.accelerator import machine_paths
from tools.steps import remember, remembered


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
        tokens, steps_s, iters = (action.result.get(name) for name in ("padded_tokens", "steps_s", "iters"))
        if run is None or not (tokens and steps_s and iters):
            continue
        size = rows_at_once(run.recipe, run.instrument)
        row = {
            "instrument": run.instrument,
            "batch_size": size,
            "padded_tokens": tokens / iters / size,
            "seconds": steps_s / iters,
        }
        remember(paths, weights, action.key, row, float(steps_s))
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

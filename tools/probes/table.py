"""All probes that run inside the agent, cheapest first: those that come with Vigil, and a campaign's own."""

from pathlib import Path

from state.goal import Goal
from tools.probes import capability, content, files, machine
from tools.probes.contract import Probe
from tools.probes.own import own_probe

PROBES: tuple[Probe, ...] = tuple(
    sorted((*files.PROBES, *machine.PROBES, *content.PROBES, *capability.PROBES), key=lambda probe: probe.cost_s)
)


def probes_of(goal: Goal, folder: Path) -> tuple[Probe, ...]:
    """Return the probes of a campaign, cheapest first.

    Args:
        goal: The campaign.
        folder: Folder of the campaign file.
    """
    shipped = (probe for probe in PROBES if probe.id != "data.pairs" or goal.data.pairs)
    own = (own_probe(written, folder) for written in goal.probes)
    return tuple(sorted((*shipped, *own), key=lambda probe: probe.cost_s))

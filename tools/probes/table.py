"""All probes that run inside the agent, cheapest first."""

from tools.probes import files, machine
from tools.probes.contract import Probe

PROBES: tuple[Probe, ...] = tuple(sorted((*files.PROBES, *machine.PROBES), key=lambda probe: probe.cost_s))

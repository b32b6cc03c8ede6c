"""The lines of the table that `make faults` fills."""

from tests.faults.parts import agents, jobs, machines, pages, questions, stores, training
from tests.faults.parts.contract import Part

PARTS: tuple[Part, ...] = (
    *agents.PARTS,
    *jobs.PARTS,
    *stores.PARTS,
    *questions.PARTS,
    *machines.PARTS,
    *pages.PARTS,
    *training.PARTS,
)

"""A long log: each cycle is looked at among those before it, at a cost that does not grow with their number."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from policies.checks import is_one_measurement
from policies.comparison import CaseTable, Mean
from policies.replay.records import Cycle, Pairs, Track, Trajectory
from policies.replay.verdicts import replay
from state.records import Side, SplitUse
from tests.policies.trajectory import Json, cycle, trajectory

LOOKS = {"figures": 0, "settings": 0}
"""How often anything looked at the figures and at the settings of a cycle."""


class Watched(CaseTable):
    """Figures that count who looks at them."""

    def mean(self, side: Side, metric: str, use: SplitUse) -> Mean | None:
        LOOKS["figures"] += 1
        return super().mean(side, metric, use)


class WatchedNotes(dict[str, Any]):
    """Settings that count who looks at them."""

    def get(self, key: str, default: Any = None) -> Any:
        LOOKS["settings"] += 1
        return super().get(key, default)


def entry(place: int) -> Json:
    """Return a flat run whose two metrics are one measurement, and so are compared whenever a cycle is added."""
    after = 0.5 + 0.001 * (place % 5)
    return {
        "id": f"r{place}",
        "instrument": "sft",
        "recipe": {"model": "m", "rank": place},
        "s": {"n": 400, "ok": after, "bad": 1 - after},
        "base": {"s": {"n": 400, "ok": 0.5, "bad": 0.5}},
        "gate": {
            "conditions": [
                {"name": "ok", "op": ">=", "threshold": 0.8, "metric": "s.ok"},
                {"name": "bad", "op": "<=", "threshold": 0.3, "metric": "s.bad"},
            ]
        },
    }


def watched(row: Cycle) -> Cycle:
    return row.model_copy(update={"cases": Watched(**dict(row.cases)), "notes": WatchedNotes(row.notes)})


def looks(cycles: int) -> dict[str, int]:
    """Return how often a replay of so many cycles looks at their figures and settings."""
    rows = trajectory([entry(place) for place in range(cycles)]).cycles
    LOOKS.update(figures=0, settings=0)
    found = replay(Trajectory(cycles=tuple(watched(row) for row in rows)))
    claims = {finding.claim for finding in found.cycles[-1].findings}
    assert {"independent", "same_score"} <= claims, "the probes that compare cycles have something to compare"
    return dict(LOOKS)


def test_twice_as_many_cycles_cost_twice_as_many_looks() -> None:
    few, many = looks(20), looks(40)
    for name, counted in few.items():
        assert 0 < many[name] <= 2.2 * counted, name


figures = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
points = st.one_of(st.tuples(figures, figures), figures.map(lambda at: (at, 1 - at)))


@given(pairs=st.lists(points, max_size=12))
def test_pairs_that_are_kept_are_judged_as_all_of_them_at_once(pairs: list[tuple[float, float]]) -> None:
    kept = Pairs()
    assert not is_one_measurement([])
    for place, (left, right) in enumerate(pairs, start=1):
        kept.add(Mean(mean=left, n=4), Mean(mean=right, n=4))
        kept.add(None, Mean(mean=right, n=4))
        kept.add(Mean(mean=left, n=4), None)
        assert (kept.count, kept.distinct) == (place, len(set(pairs[:place])))
        assert kept.is_line() == is_one_measurement(pairs[:place]) == kept.is_line()


def test_a_track_grows_whatever_was_asked_of_it_before() -> None:
    track = Track()
    rows = [cycle(entry(place)) for place in (0, 1, 5, 6)]
    same = Mean(mean=0.501, n=400)
    found = []
    for row in rows:
        track.add(row)
        found.append((list(track.equal_scores("s.ok", same)), track.pairs("s.ok", "s.bad").count))
    assert found == [([], 2), (["r1"], 4), (["r1"], 6), (["r1", "r6"], 8)]
    fresh = Track()
    for row in rows:
        fresh.add(row)
    assert fresh.equal_scores("s.ok", same) == ["r1", "r6"]
    assert fresh.pairs("s.ok", "s.bad").count == 8

"""Kills at random moments: of the supervisor, the worker, both, or a launcher in the middle of its launch.

`VIGIL_KILLS=1000 python -m pytest tests/faults/jobs/test_random_kills.py` for more than the default.
"""

import os
import random
from pathlib import Path

import pytest

from tests.faults.jobs.harness import BACKEND, ended, spec
from tests.faults.parts import jobs
from tests.faults.quick_worker import append_jsonl

pytestmark = pytest.mark.faults

KILLS = int(os.environ.get("VIGIL_KILLS", "20"))


def test_random_kills_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    seed = int(os.environ.get("VIGIL_SEED", str(random.randrange(10**6))))
    done = 0
    while done < KILLS:
        batch = jobs.kills(seed, tmp_path / str(seed), KILLS - done)
        assert batch.violations == ()
        print(f"seed {seed}: {batch.faults} kills, {batch.figures}")
        done += batch.faults
        seed += 1


def test_the_harness_would_notice_a_step_that_is_done_twice(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    BACKEND.launch(folder, spec(steps=jobs.STEPS, delay_s=0))
    record = ended(folder)
    assert jobs.wrong(folder, record) == []
    append_jsonl(folder / "out" / "violations.jsonl", {"what": "step 3 done twice"})
    append_jsonl(folder / "out" / "starts.jsonl", {"pid": 1})
    (folder / "metrics.jsonl").write_text("")
    failed = record.model_copy(update={"state": "failed", "reason": "it broke"})
    assert len(jobs.wrong(folder, failed)) == 4

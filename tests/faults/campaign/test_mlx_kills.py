"""The agent is killed while real MLX trains; the same command finishes, and nothing was started twice.

Minutes of real training, so `make faults` runs it and `make test` does not.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.campaign import world

KILLS = int(os.environ.get("VIGIL_MLX_KILLS", "0"))
QUICKSTART = world.ROOT / "runbooks" / "quickstart"


@pytest.mark.mlx
@pytest.mark.faults
@pytest.mark.timeout(3000)
@pytest.mark.skipif(KILLS == 0, reason="minutes of training: run by make faults, or with VIGIL_MLX_KILLS=5")
def test_the_quickstart_killed_while_it_trains_ends_with_a_verdict_and_no_job_twice(tmp_path: Path) -> None:
    folder, home = tmp_path / "quickstart", tmp_path / "home"
    shutil.copytree(QUICKSTART, folder)
    command = [sys.executable, "-m", "agent.cli", "run", str(folder / "campaign.yaml"), "--home", str(home)]
    dice, hits = random.Random(7), 0
    with home.with_suffix(".log").open("ab") as log:
        while hits < KILLS:
            agent = subprocess.Popen(command, cwd=world.ROOT, stdout=log, stderr=log, start_new_session=True)
            try:
                agent.wait(timeout=dice.uniform(8, 30))
            except subprocess.TimeoutExpired:
                os.killpg(agent.pid, signal.SIGKILL)
                agent.wait()
                hits += 1
                continue
            break
        assert hits == KILLS
        end = subprocess.run(command, cwd=world.ROOT, stdout=log, stderr=log, check=False)
    assert end.returncode in {0, 1}
    world.assert_exactly_once(home, "quickstart")
    assert any(run["bucket"] for run in world.rows(home, "quickstart")["runs"])

"""What a restart of the machine leaves of a campaign: no process of it, and files that name another boot."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil

from tools.jobs.processes import boot_id

EARLIER = "an earlier boot"


def processes_of(home: Path) -> Iterator[psutil.Process]:
    """Yield agent, supervisors and workers of a home."""
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and any(str(home) in word for word in process.cmdline()):
                yield process
        except psutil.Error:
            continue


def power_cut(home: Path, agent: "subprocess.Popen[bytes]") -> None:
    """End everything at once; what is on disk says another boot."""
    while found := list(processes_of(home)):
        for process in found:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        agent.wait()
    for path in home.rglob("*.json"):
        path.write_text(path.read_text().replace(boot_id(), EARLIER))

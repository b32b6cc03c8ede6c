"""What `vigil web` costs: beside three readers of a campaign at work, and to open large campaigns.

python -m tests.benchmarks.page [--seconds 300]

The readers are plain clients of its events; meanwhile a job reports and its supervisor's heart beats every two seconds.
"""

import argparse
import http.client
import http.cookiejar
import json
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import psutil

from state.clock import FakeClock
from state.files import write_json
from state.paths import CampaignPaths
from tests.agent.recorded import begin_training, opened
from tests.web import worlds

_READERS = 3
_LIMIT = 0.01
"""Of a core."""
_OPENS = (
    ("a campaign of 1,000 runs", "/c/thousand"),
    ("its runs", "/c/thousand/runs"),
    ("200 curves of 10,000 points, files unread", "/c/curves/curves.json"),
    ("the same again", "/c/curves/curves.json"),
)


def _entered(link: str) -> urllib.request.OpenerDirector:
    jar = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
    web = urllib.request.build_opener(urllib.request.ProxyHandler({}), jar)
    with web.open(link) as page:
        page.read()
    return web


def _read(web: urllib.request.OpenerDirector, address: str, seen: list[bytes]) -> None:
    try:
        with web.open(f"{address}/c/quick/events") as events:
            seen.extend(line for line in events if line.startswith(b"event"))
    except (OSError, http.client.HTTPException):
        # The server has ended.
        return


def _work(home: Path, seconds: float) -> None:
    """Be a job at work: a report and a heartbeat every two seconds."""
    job = CampaignPaths(home, "quick").job("k")
    job.folder.mkdir(parents=True, exist_ok=True)
    for step in range(1, int(seconds / 2) + 1):
        with job.metrics.open("a") as file:
            file.write(json.dumps({"step": step % 100, "train_loss": 1 / step, "t": time.time()}) + "\n")
        write_json(job.heartbeat, {"at": time.time(), "power": {"source": "mains"}, "now": {"rss_gb": 1.0}})
        time.sleep(2)


def main() -> int:
    """Print the figures; 1 where the readers cost more than a hundredth of a core."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        with opened(home, FakeClock()) as store:
            begin_training(store)
        worlds.many_runs(home, 1_000, 20, "thousand")
        worlds.many_runs(home, 200, 10_000, "curves")
        words = [sys.executable, "-u", "-m", "agent.cli", "web", "--port", "0", "--home", folder]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            server = psutil.Process(child.pid)
            link = child.stdout.readline().split()[-1]
            address, web = link.partition("/open")[0], _entered(link)
            for name, path in _OPENS:
                worked, begun = sum(server.cpu_times()[:2]), time.monotonic()
                with web.open(address + path) as answer:
                    size = len(answer.read())
                took = f"{time.monotonic() - begun:.2f} s, {sum(server.cpu_times()[:2]) - worked:.2f} s of CPU"
                print(f"{name}: {took}, {size / 1000:.0f} kB", flush=True)
            seen: list[list[bytes]] = [[] for _ in range(_READERS)]
            for each in seen:
                threading.Thread(target=_read, args=(web, address, each), daemon=True).start()
            time.sleep(2)
            worked, begun = sum(server.cpu_times()[:2]), time.monotonic()
            _work(home, seconds)
            share = (sum(server.cpu_times()[:2]) - worked) / (time.monotonic() - begun)
            child.terminate()
    events = ", ".join(str(len(each)) for each in seen)
    print(f"{_READERS} live readers for {seconds:.0f} s: {share:.2%} of a core; they were told of {events} events")
    return int(share > _LIMIT)


if __name__ == "__main__":
    sys.exit(main())

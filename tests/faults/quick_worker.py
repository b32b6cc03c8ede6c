"""A worker that looks like training or evaluation and takes milliseconds a step: standard library, real job protocol.

Each step commits one file made with O_EXCL under `out/steps/`, and a start goes on after the last of them: a step that
is done twice, or two workers alive at once, is written to `out/violations.jsonl` and can not go unnoticed. Input:

    steps           steps in all (10)
    delay_s         seconds per step (0.02)
    before_begin_s  seconds before it takes up the job (0)
    grandchild      leave a sleeping child in the process group (false)
    ignore_term     take no notice of TERM (false)
    hang_at         step at which it waits for a stop, for ever (none)
    nan_at          step from which train_loss is NaN (none)
    crash           {"at": step, "times": n, "how": "exit" | "kill" | "fail" | "full" | "cpu" | "held" | "abort",
                    "says": what it prints before} (none)
    result, files   merged into result.json; {relative name: text} written under out/ (none)
    heavy_bytes     memory taken after the first step of a start (0)
    big_bytes       size of a file written under out/ before the result (0)
    code            exit status at the end, 3 for a bad outcome (0)
"""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from state.files import read_jsonl
from tools.jobs.worker import WorkerContext, begin
from tools.machine.sandbox import held

NEVER = -1


def append_jsonl(path: Path, row: dict[str, Any]) -> None:
    """Append one row; a torn last line after a kill is skipped by `read_jsonl`."""
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row, ensure_ascii=False) + "\n")


class QuickWorker:
    """One start of the worker."""

    def __init__(self, context: WorkerContext) -> None:
        self.context = context
        self.out = context.folder.out
        self.options = context.input
        self.steps_folder = self.out / "steps"
        self.steps_folder.mkdir(parents=True, exist_ok=True)
        self._be_alone()
        self.weight = bytearray()
        self.done = len(list(self.steps_folder.iterdir()))
        append_jsonl(self.out / "starts.jsonl", {"pid": os.getpid(), "from": self.done, "t": time.time()})

    def _be_alone(self) -> None:
        """Hold a lock of our own, independent of the supervisor's."""
        self._alone = os.open(self.out / "alone", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._violation("two workers at once")

    def _violation(self, what: str) -> None:
        append_jsonl(self.out / "violations.jsonl", {"what": what, "pid": os.getpid()})

    def option(self, name: str, default: Any) -> Any:
        """Return an option of the input."""
        return self.options.get(name, default)

    def run(self) -> int:
        """Do the steps that are left and write the result."""
        if self.option("grandchild", default=False):
            self._leave_a_child()
        total = int(self.option("steps", 10))
        for step in range(self.done + 1, total + 1):
            self._maybe_crash(step)
            self._maybe_hang(step)
            time.sleep(float(self.option("delay_s", 0.02)))
            nan_at = self.option("nan_at", NEVER)
            loss = float("nan") if 0 <= nan_at <= step else 1.0 / step
            self.context.emit({"step": step, "train_loss": loss, "iterations_per_second": 50.0})
            # After its row: a kill between the two repeats the row, and never leaves one out.
            self._commit(step)
            self.weight = self.weight or bytearray(os.urandom(1)) * int(self.option("heavy_bytes", 0))
            if self.context.should_stop and not self.option("ignore_term", default=False):
                self.context.leave_stopped()
        self._write_files()
        self.context.finish({"steps": total, **self.option("result", {})})
        return int(self.option("code", 0))

    def _commit(self, step: int) -> None:
        try:
            descriptor = os.open(self.steps_folder / f"{step:06d}", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            os.close(descriptor)
        except FileExistsError:
            self._violation(f"step {step} done twice")

    def _maybe_hang(self, step: int) -> None:
        if step != self.option("hang_at", NEVER):
            return
        while not self.context.should_stop or self.option("ignore_term", default=False):
            time.sleep(0.02)
        self.context.leave_stopped()

    def _maybe_crash(self, step: int) -> None:
        crash = self.option("crash", None)
        starts = len(read_jsonl(self.out / "starts.jsonl"))
        if crash is None or step != crash["at"] or starts > crash.get("times", 1):
            return
        print(crash.get("says", f"crashing at step {step}"), flush=True)
        if crash["how"] == "abort":
            os.abort()
        if crash["how"] == "fail":
            self.context.fail("The data file has no rows; add some.", what="data")
        if crash["how"] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if crash["how"] in {"held", "broken"}:
            with held("The template"):
                os.kill(os.getpid(), signal.SIGXCPU if crash["how"] == "held" else signal.SIGABRT)
        if crash["how"] == "cpu":
            with held("The template"):
                pass
            os.kill(os.getpid(), signal.SIGXCPU)
        if crash["how"] == "reach":
            try:
                socket.socket().close()
            except OSError as error:
                self.context.fail(f"{error.strerror}.")
            self.context.fail("It reached.")
        if crash["how"] == "full":
            raise OSError(errno.ENOSPC, "No space left on device")
        raise SystemExit(1)

    def _leave_a_child(self) -> None:
        # In a list for the worker's life: a Popen that is forgotten while its child lives warns.
        self.children = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])]
        (self.out / "grandchild").write_text(str(self.children[0].pid))

    def _write_files(self) -> None:
        for name, text in self.option("files", {}).items():
            path = self.out / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        if size := int(self.option("big_bytes", 0)):
            (self.out / "big").write_bytes(b"0" * size)


def main(folder: str) -> int:
    """Run one job folder."""
    spec = json.loads((Path(folder) / "job.json").read_text())
    time.sleep(float(spec["input"].get("before_begin_s", 0)))
    return QuickWorker(begin(folder)).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

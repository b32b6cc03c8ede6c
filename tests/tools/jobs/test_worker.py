import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from state.files import read_json, read_jsonl
from tools.jobs.locks import is_held, try_lock
from tools.jobs.worker import NO_DISK

ROOT = Path(__file__).parents[3]


def work(folder: Path, program: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a worker's main in a child process."""
    source = f"import os, sys, signal, subprocess\nfrom tools.jobs.worker import begin\n{program}"
    command = [sys.executable, "-c", source, str(folder)]
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, **options)  # type: ignore[call-overload,no-any-return]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "job.json").write_text(json.dumps({"key": "k", "input": {"iters": 3}}))
    return tmp_path


def test_a_worker_says_who_it_is_and_reads_its_input(folder: Path) -> None:
    done = work(folder, "c = begin(sys.argv[1]); print(os.getpid(), c.key, c.input['iters'])")
    pid, key, iters = done.stdout.split()
    identity = read_json(folder / "worker.json")
    assert identity is not None
    assert (identity["pid"], key, iters) == (int(pid), "k", "3")
    assert identity["boot_id"]
    assert identity["create_time"] <= identity["started_at"] + 1


def test_rows_are_appended_with_their_time_after_a_torn_line_is_cut(folder: Path) -> None:
    (folder / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "tra')
    work(folder, "c = begin(sys.argv[1]); c.emit({'step': 2, 'train_loss': float('nan')})")
    rows = read_jsonl(folder / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    assert rows[1]["train_loss"] != rows[1]["train_loss"]
    assert rows[1]["t"] > 0


def test_a_row_is_on_disk_when_emit_returns(folder: Path) -> None:
    done = work(folder, "c = begin(sys.argv[1]); c.emit({'step': 1}); os.kill(os.getpid(), 9)")
    assert done.returncode == -9
    assert len(read_jsonl(folder / "metrics.jsonl")) == 1


def test_a_row_that_a_full_disk_cut_ends_the_worker_as_a_full_disk_does_and_swallows_none(folder: Path) -> None:
    full = "resource.setrlimit(resource.RLIMIT_FSIZE, (os.stat(sys.argv[1] + '/metrics.jsonl').st_size + 9, -1))"
    program = "import resource; c = begin(sys.argv[1]); c.emit({'step': 1}); %s; c.emit({'step': 2})"
    assert work(folder, program % full).returncode == NO_DISK
    work(folder, "c = begin(sys.argv[1]); c.emit({'step': 2})")
    assert [row["step"] for row in read_jsonl(folder / "metrics.jsonl")] == [1, 2]


def test_term_asks_for_a_stop_and_the_worker_leaves_as_resumable(folder: Path) -> None:
    program = """
c = begin(sys.argv[1])
assert not c.should_stop
os.kill(os.getpid(), signal.SIGTERM)
assert c.should_stop
c.leave_stopped()
"""
    assert work(folder, program).returncode == 75


def test_a_mistake_of_the_user_is_written_down(folder: Path) -> None:
    program = "from state.errors import ConfigError\nbegin(sys.argv[1]).refuse(ConfigError('No rows.', what='data'))"
    assert work(folder, program).returncode == 2
    refusal = {"sentence": "No rows.", "what": "data", "where": "", "exit_code": 2}
    assert read_json(folder / "error.json") == refusal


def test_the_result_is_written_whole(folder: Path) -> None:
    work(folder, "begin(sys.argv[1]).finish({'loss': 1.5})")
    assert read_json(folder / "result.json") == {"loss": 1.5}


def test_without_a_job_file_there_is_nothing_to_do(tmp_path: Path) -> None:
    done = work(tmp_path, "begin(sys.argv[1])")
    assert done.returncode == 1
    assert "job.json does not exist" in done.stderr


def test_the_inherited_lock_is_kept_and_not_passed_on(folder: Path) -> None:
    lock = try_lock(folder / "lock")
    assert lock is not None
    program = """
c = begin(sys.argv[1])
ask = 'import os; print(os.environ.get("VIGIL_LOCK_FD")); print(os.listdir("/dev/fd"))'
child = subprocess.run([sys.executable, '-c', ask], capture_output=True, text=True, close_fds=False)
assert child.stdout.startswith('None')
print(str(c._lock) in eval(child.stdout.splitlines()[1]))
"""
    done = work(folder, program, pass_fds=(lock,), env={**os.environ, "VIGIL_LOCK_FD": str(lock)})
    os.close(lock)
    assert done.stdout.strip() == "False", done.stderr
    assert not is_held(folder / "lock")


def test_a_worker_that_inherits_nothing_takes_the_lock_itself(folder: Path) -> None:
    program = """
from tools.jobs.locks import is_held
c = begin(sys.argv[1])
print(is_held(c.folder.lock))
"""
    assert work(folder, program).stdout.strip() == "True"


def test_a_worker_beside_another_leaves_without_a_trace(folder: Path) -> None:
    lock = try_lock(folder / "lock")
    assert lock is not None
    done = work(folder, "begin(sys.argv[1])")
    os.close(lock)
    assert done.returncode == 75
    assert not (folder / "worker.json").exists()


def test_the_number_of_another_file_is_not_taken_for_the_lock(folder: Path) -> None:
    lock = try_lock(folder / "lock")
    assert lock is not None
    with (folder / "other").open("w") as other:
        done = work(
            folder,
            "begin(sys.argv[1])",
            pass_fds=(other.fileno(),),
            env={**os.environ, "VIGIL_LOCK_FD": str(other.fileno())},
        )
    os.close(lock)
    assert done.returncode == 75


def test_a_worker_imports_neither_pydantic_nor_mlx() -> None:
    program = "import sys, tools.jobs.worker; print({'pydantic', 'mlx', 'numpy', 'langgraph'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


def test_signals_are_as_they_were_for_children(folder: Path) -> None:
    # The supervisor handles INT and HUP by functions, which children do not inherit; nohup ignores HUP for all of them.
    program = "begin(sys.argv[1]); print(repr(signal.getsignal(signal.SIGHUP)))"
    assert work(folder, program).stdout.strip() == repr(signal.getsignal(signal.SIGHUP))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL

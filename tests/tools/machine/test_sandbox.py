"""What a stranger's template, or a child that is asked, may cost; each limit is really broken here."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from state.errors import ConfigError
from tests.tools.evaluation.fake_tokenizer import FakeTokenizer
from tools.evaluation.prompts import encode, render_prompt
from tools.graders.pipe import ChildDiedError, LineChild
from tools.machine import sandbox
from tools.machine.sandbox import MOST_CHARS, Limits, OverLimitError, ask, clean_env, held

CASE = {"id": "a", "prompt": "hi"}
ENDLESS = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}"
    "{% endfor %}"
)


def test_a_template_that_never_ends_costs_its_seconds_and_is_named() -> None:
    before = signal.getsignal(signal.SIGPROF)
    with pytest.raises(OverLimitError, match=r"template took more than 0\.2 s"), held("The template", 0.2):
        FakeTokenizer(ENDLESS).apply_chat_template([], tokenize=False)
    assert (signal.getsignal(signal.SIGPROF), signal.getitimer(signal.ITIMER_PROF)) == (before, (0.0, 0.0))


@pytest.mark.skipif(sys.platform != "linux", reason="only there does the system bound an address space")
@pytest.mark.parametrize(
    "grows",
    [
        "{{ 'a' * 10 ** 11 }}",
        "{% set ns = namespace(x='a' * 1000) %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    ],
)
def test_a_template_that_grows_is_stopped_before_it_takes_the_machine(grows: str) -> None:
    with pytest.raises(ConfigError, match="needed more than 2 GB of memory for one text"):
        render_prompt(FakeTokenizer(grows), CASE)


def test_what_a_template_makes_may_not_be_longer_than_any_model_reads() -> None:
    with pytest.raises(ConfigError, match=f"a text of {MOST_CHARS + 1:,} characters"):
        encode(FakeTokenizer(), "a" * (MOST_CHARS + 1))


class PanicException(BaseException):
    """What a tokenizer in Rust raises where it breaks down."""


class Broken(FakeTokenizer):
    def encode(self, text: str, **_options: bool) -> list[int]:
        with held("Within", 0.01):
            raise PanicException("retry-limit-in-match over")


def test_a_tokenizer_that_breaks_down_is_a_sentence_and_not_the_end_of_the_process() -> None:
    with pytest.raises(OverLimitError, match="tokenizer broke down on one text: retry-limit-in-match over"):
        encode(Broken(), "a")


def test_one_operation_that_no_handler_interrupts_is_ended_by_the_system() -> None:
    code = "import tools.machine.sandbox as s\ns.KILLED_AFTER_S = 1\nwith s.held('It', 0.5):\n    sum(iter(int, 1))\n"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGXCPU


@pytest.mark.parametrize(
    ("limits", "code", "said"),
    [
        ({"ASKED_S": 0.5}, "import time; time.sleep(60)", "counting took longer than 0.5 s"),
        ({"ASKED_OUTPUT_BYTES": 1000}, "while True: print('x' * 999)", "counting printed more than"),
        ({}, "import os; os._exit(3)", "it ended with status 3"),
        ({}, "raise ValueError('no')", "ValueError: no"),
        ({}, "print('no JSON')", "JSONDecodeError"),
    ],
)
def test_a_child_that_breaks_a_limit_or_ends_without_an_answer_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, float], code: str, said: str
) -> None:
    (tmp_path / "asked_here.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for name, value in limits.items():
        monkeypatch.setattr(sandbox, name, value)
    assert said in ask("asked_here", {}, "counting")["why"]


def test_memory_counts_with_what_a_child_starts_and_all_of_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "asked_here.py").write_text(
        "import os, subprocess, sys, pathlib, time\n"
        "held = [sys.executable, '-c', 'x = bytearray(100_000_000); import time; time.sleep(60)']\n"
        "more = [subprocess.Popen(held, start_new_session=True) for _ in range(2)]\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(more[0].pid))\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    why = ask("asked_here", {}, "counting", most_bytes=150_000_000)["why"]
    assert why == "counting needed more than 0.15 GB of memory"
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


CALLS = """
import socket, sys
def tried(kind, family, where):
    try:
        with socket.socket(family, kind) as one:
            one.settimeout(5)
            one.connect(where)
        return "open"
    except OSError as error:
        return error.strerror
port = int(sys.argv[1])
print([tried(socket.SOCK_STREAM, socket.AF_INET, ("127.0.0.1", port)), tried(socket.SOCK_DGRAM, socket.AF_INET,
    ("127.0.0.1", port)), tried(socket.SOCK_STREAM, socket.AF_INET6, ("::1", port)),
    tried(socket.SOCK_RAW, socket.AF_PACKET, ("lo", 0))], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., LineChild]]:
    children = []

    def start(code: str, *words: str, **limits: Any) -> LineChild:
        children.append(LineChild([sys.executable, "-c", code, *words], tmp_path, clean_env(), Limits(**limits)))
        return children[-1]

    yield start
    for child in children:
        child.close()


@pytest.mark.skipif(sandbox.network_closed_by() != "seccomp", reason="nothing here closes a process's network")
def test_a_program_reaches_nobody_unless_the_campaign_file_says_so(started: Callable[..., LineChild]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        assert started(CALLS, port).ask("", 30) == str(["Network is unreachable"] * 4)
        assert started(CALLS, port, network=True).ask("", 30).startswith("['open', 'open'")
    # What multiprocessing needs stays, but for programs of ours that read a stranger's files.
    local = "import socket; socket.socketpair(); socket.socket(socket.AF_UNIX); print('open', flush=True)"
    assert started(local).ask("", 30) == "open"
    with pytest.raises(ChildDiedError):
        started(local, local=False).ask("", 30)


AWAY = """
import os, sys, time
reads, writes = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        os.write(writes, b"said")
        time.sleep(600)
    os._exit(0)
os.read(reads, 4)
time.sleep(600 if sys.argv[1] == "stays" else 0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only there are orphans adopted")
@pytest.mark.parametrize("ends", ["stays", "leaves"])
def test_what_a_program_starts_does_not_outlive_it_however_it_hides(
    started: Callable[..., LineChild], ends: str
) -> None:
    child = started(AWAY, ends)
    hidden = int(child.ask("", 30))
    if ends == "stays":
        child.close()
    else:
        assert child.ending() == "ended with exit code 0"
    assert not psutil.pid_exists(hidden)


MANY = "import subprocess as s; x = [s.Popen(['sleep', '60']) for _ in range(12)]; x[0].wait()"
FORKED = "import os, time; [os.fork(), os.fork()]; x = bytearray(90_000_000); time.sleep(60)"
LOUD = "import sys; [sys.stderr.write('x' * 99_999 + chr(10)) for _ in range(500)]; sys.exit('enough')"


@pytest.mark.parametrize(
    ("code", "limits", "words"),
    [
        (MANY, {"processes": 9}, "was ended: it ran more than 9 processes"),
        (FORKED, {"memory_bytes": 150_000_000}, "was ended: it needed more than 0.15 GB of memory"),
        (LOUD, {}, "ended with exit code 1, last saying: enough"),
        ("import os; os.kill(os.getpid(), 9)", {}, "was killed by signal 9"),
    ],
)
def test_processes_memory_and_prints_are_bounded_and_the_end_is_said(
    started: Callable[..., LineChild], code: str, limits: dict[str, int], words: str
) -> None:
    child = started(code, **limits)
    with pytest.raises(ChildDiedError):
        child.ask("", 60)
    assert child.last_words() == words
    assert os.fstat(child._told.fileno()).st_size < 9_999


def test_a_program_is_given_no_secret_but_what_the_campaign_file_names() -> None:
    secrets = ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD", "GH_PAT", "DATABASE_URL",
               "SSH_AUTH_SOCK", "HTTPS_PROXY", "PYTHON_KEYRING_PASS", "ANYTHING_ELSE")  # fmt: skip
    needed = ("PATH", "HOME", "LC_ALL", "TMPDIR", "PYTHONPATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "HF_HOME",
              "TOKENIZERS_PARALLELISM", "VIRTUAL_ENV", "PWD")  # fmt: skip
    environ = dict.fromkeys((*secrets, *needed), "x")
    assert sorted(clean_env(environ=environ)) == sorted(needed)
    assert sorted(clean_env(["HF_TOKEN"], environ=environ)) == sorted([*needed, "HF_TOKEN"])
    assert sorted(clean_env(network=True, environ=environ)) == sorted([*needed, "HTTPS_PROXY"])

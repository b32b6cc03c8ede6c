"""What a stranger's template, or a child that is asked, may cost; each limit is really broken here."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from state.errors import ConfigError
from tests.faults.jobs.harness import until
from tests.tools.evaluation.fake_tokenizer import FakeTokenizer
from tools.evaluation.prompts import encode, render_prompt
from tools.machine import sandbox
from tools.machine.sandbox import MOST_CHARS, OverLimitError, ask, held

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
        "more = subprocess.Popen([sys.executable, '-c', 'x = bytearray(200_000_000); import time; time.sleep(60)'])\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(more.pid))\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert "needed more than 0 GB" in ask("asked_here", {}, "counting", most_bytes=150_000_000)["why"]
    pid = int((tmp_path / "pid").read_text())
    # Nobody may wait for an orphan here, but it runs no more.
    until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, "its end")

"""Each kind of bad grader, in a real child process."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import psutil
import pytest

from state.errors import ConfigError
from tools.graders import host
from tools.graders.contract import Grade, GraderSpec
from tools.graders.host import Grader, Item, Variation, repeat_check
from tools.graders.spreadsheet_clean.generate import eval_row, generate_cases

ROOT = Path(__file__).parents[3]
GOOD: dict[str, float | None] = {"score": 1.0}


def _spec(folder: Path, source: str, **fields: Any) -> GraderSpec:
    file = folder / "grade.py"
    file.write_text(dedent(source))
    return GraderSpec(file=str(file), **fields)


def _items(*ids: str) -> list[Item]:
    return [({"id": name, "prompt": "p"}, "text", "stop") for name in ids]


def _grades(spec: GraderSpec, *ids: str) -> list[Grade]:
    with Grader(spec) as grader:
        return grader.grade(_items(*ids))


def _only_b_is_bad(grades: list[Grade], fault: str) -> None:
    assert [grade.case_id for grade in grades] == ["a", "b", "c"]
    assert [grade.metrics for grade in grades] == [GOOD, {"score": None}, GOOD]
    assert [grade.error for grade in grades][::2] == ["", ""]
    assert fault in grades[1].error
    assert "\n" not in grades[1].error


def test_a_good_grader_gets_case_and_text_and_gives_its_metrics(tmp_path: Path) -> None:
    source = """
        def grade(case, text):
            return {"length": len(text) / 10, "known": case["prompt"] == "p", "unsure": None}
    """
    assert _grades(_spec(tmp_path, source), "a") == [Grade("a", {"length": 0.4, "known": 1.0, "unsure": None})]


@pytest.mark.parametrize(
    ("misbehave", "fault"),
    [
        ("raise KeyError('total')", "raised KeyError: 'total' at grade.py:6"),
        ("sys.exit(3)", "raised SystemExit: 3"),
        ("raise KeyboardInterrupt", "raised KeyboardInterrupt"),
        ("return {'score': float('nan')}", "metric score is nan"),
        ("return {'score': float('-inf')}", "metric score is -inf"),
        ("return {'score': -1e308}", "metric score is -1e+308"),
        ("return {'score': '0.5'}", "metric score is '0.5', not a number"),
        ("return {'score': [1.0]}", "metric score is '[1.0]', not a number"),
        ("return {'score': object}", "not a number"),
        ("return {'score': 10 ** 400}", "OverflowError"),
        ("return {}", "the grader returned no metric"),
        ("return 'fine'", "grade returned str, not a dict of metrics"),
        ("return None", "grade returned NoneType"),
        ("return 0.5", "grade returned float"),
        ("os._exit(7)", "ended with exit code 7"),
        ("os.kill(os.getpid(), 9)", "was killed by signal 9"),
        ("print('about to die', file=sys.stderr); os._exit(1)", "last saying: about to die"),
        ("return {'score': bottomless(0)}", "RecursionError"),
        ("return {str(n): 1.0 for n in range(1001)}", "answered with 1,001 metrics, more than 1,000"),
        ("return {'m' * 201: 1.0}", "the name of a metric has 201 characters"),
        ("import socket; socket.create_connection(('127.0.0.1', 9))", "(`track.network` is no)"),
    ],
)
def test_what_a_grader_does_to_one_case_is_told_with_that_case_and_is_never_a_zero(
    misbehave: str, fault: str, tmp_path: Path
) -> None:
    source = f"""
import os, sys
def bottomless(n): return bottomless(n + 1)
def grade(case, text):
    if case["id"] == "b":
        {misbehave}
    return {{"score": 1.0}}
"""
    _only_b_is_bad(_grades(_spec(tmp_path, source, metrics=("score",)), "a", "b", "c"), fault)


def test_a_metric_that_was_promised_and_is_missing_is_named(tmp_path: Path) -> None:
    spec = _spec(tmp_path, "def grade(case, text): return {'other': 1.0}", metrics=("score",))
    assert _grades(spec, "a") == [Grade("a", {"other": 1.0, "score": None}, "the grader omitted score")]


def test_a_grader_that_hangs_is_killed_with_its_children_and_the_next_case_goes_on(tmp_path: Path) -> None:
    source = """
        import subprocess, threading
        from pathlib import Path
        def grade(case, text):
            if case["id"] == "b":
                child = subprocess.Popen(["sleep", "1000"])
                Path("pid").write_text(str(child.pid))
                threading.Event().wait()
            return {"score": 1.0}
    """
    _only_b_is_bad(_grades(_spec(tmp_path, source, timeout_s=4), "a", "b", "c"), "no answer within 4 s")
    pid = int((tmp_path / "pid").read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_after_five_hangs_in_a_row_the_rest_is_not_sent(tmp_path: Path) -> None:
    source = """
        import threading
        from pathlib import Path
        def grade(case, text):
            Path("asked-" + case["id"]).touch()
            threading.Event().wait()
    """
    grades = _grades(_spec(tmp_path, source, timeout_s=0.7), *"abcdefg")
    assert [bool(grade.error) for grade in grades] == [True] * 7
    assert "not sent: the grader hung on the 5 cases before" in grades[5].error
    assert sorted(path.name for path in tmp_path.glob("asked-*")) == [f"asked-{name}" for name in "abcde"]


def test_prints_and_reads_of_a_grader_do_not_touch_the_protocol(tmp_path: Path) -> None:
    source = """
        import os, subprocess, sys
        print("imported")
        def grade(case, text):
            print("hello", flush=True)
            print("x" * 200_000, file=sys.stderr)
            os.write(1, b"raw\\n")
            subprocess.run(["echo", "from a child"], check=True)
            assert sys.stdin.read() == ""
            return {"score": 1.0}
    """
    assert [grade.metrics for grade in _grades(_spec(tmp_path, source), "a", "b")] == [GOOD, GOOD]


def test_numbers_of_other_libraries_count_as_numbers(tmp_path: Path) -> None:
    source = """
        from fractions import Fraction
        import numpy
        def grade(case, text):
            numbers = (numpy.float32(0.5), numpy.array(1), True, Fraction(1, 4), numpy.float64("nan"))
            return dict(zip("abcde", numbers))
    """
    [grade] = _grades(_spec(tmp_path, source), "a")
    assert grade.metrics == {"a": 0.5, "b": 1.0, "c": 1.0, "d": 0.25, "e": None}
    assert grade.error == "metric e is nan"


def test_metrics_are_learned_from_the_grades_and_an_omission_is_seen_whichever_case_comes_first(tmp_path: Path) -> None:
    source = """
        def grade(case, text):
            return {"x": 1.0} if case["id"] == "a" else {"x": 1.0, "y": 0.0}
    """
    with Grader(_spec(tmp_path, source)) as grader:
        first, second = grader.grade(_items("a", "b"))
        assert grader.metrics == ("x", "y")
        [again] = grader.grade(_items("a"))
    assert first == again == Grade("a", {"x": 1.0, "y": None}, "the grader omitted y")
    assert second == Grade("b", {"x": 1.0, "y": 0.0})


def test_a_case_changed_by_the_grader_is_changed_for_nobody_else(tmp_path: Path) -> None:
    source = """
        def grade(case, text):
            seen = case.setdefault("seen", 0)
            case["seen"] += 1
            return {"score": float(seen)}
    """
    case = {"id": "a", "prompt": "p"}
    with Grader(_spec(tmp_path, source)) as grader:
        assert [grade.metrics["score"] for grade in grader.grade([(case, "", "stop")] * 2)] == [0, 0]
    assert case == {"id": "a", "prompt": "p"}


def test_any_text_reaches_the_grader_as_it_was(tmp_path: Path) -> None:
    text = "a\nb\r\n\u2028\x00\ud800 \U0001f600" + "long " * 100_000
    source = """
        def grade(case, text):
            return {"same": text == case["expected"]}
    """
    with Grader(_spec(tmp_path, source)) as grader:
        [grade] = grader.grade([({"id": "a", "expected": text}, text, "length")])
    assert grade == Grade("a", {"same": 1.0})


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("def score(case, text): return {}", r"has no function `grade\(case, text\)`"),
        ("grade = 3", "has no function"),
        ("def grade(case, text:\n", "SyntaxError"),
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name' at grade.py:1"),
        ("import os; os._exit(4)", "ended with exit code 4"),
        ("raise SystemExit('no licence')", "SystemExit: no licence"),
    ],
)
def test_a_file_that_cannot_grade_is_one_sentence_for_the_user(source: str, fault: str, tmp_path: Path) -> None:
    spec = _spec(tmp_path, source)
    with pytest.raises(ConfigError, match=fault) as caught, Grader(spec):
        pass
    assert caught.value.where == spec.file
    assert "\n" not in caught.value.sentence


def test_an_import_without_end_is_one_sentence_for_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_START_TIMEOUT_S", 0.5)
    spec = _spec(tmp_path, "import threading\nthreading.Event().wait()\n")
    with pytest.raises(ConfigError, match=r"importing it took longer than 0\.5 s"), Grader(spec):
        pass


def test_a_grader_may_close_its_files_when_the_work_is_done(tmp_path: Path) -> None:
    source = """
        import atexit
        from pathlib import Path
        atexit.register(lambda: Path("closed").touch())
        def grade(case, text):
            return {"score": 1.0}
    """
    assert _grades(_spec(tmp_path, source), "a") == [Grade("a", GOOD)]
    assert (tmp_path / "closed").exists()


def test_a_grader_with_the_wrong_parameters_says_so_for_each_case(tmp_path: Path) -> None:
    [grade] = _grades(_spec(tmp_path, "def grade(text): return {'x': 1}"), "a")
    assert "TypeError: grade() takes 1 positional argument" in grade.error


def test_a_file_with_another_ending_is_refused(tmp_path: Path) -> None:
    (tmp_path / "grade.txt").write_text("def grade(case, text): return {'x': 1}")
    with pytest.raises(ConfigError, match=r"does not end in \.py"), Grader(GraderSpec(file=f"{tmp_path}/grade.txt")):
        pass


def test_modules_beside_the_grader_win_over_ours_and_its_folder_stays_clean(tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "__init__.py").write_text("WEIGHT = 0.25\n")
    (tmp_path / "host.py").write_text("HALF = 0.5\n")
    source = """
        from dataclasses import dataclass
        from tools import WEIGHT
        from host import HALF
        @dataclass
        class Scores:
            score: float
        def grade(case, text):
            return vars(Scores(WEIGHT + HALF))
    """
    assert _grades(_spec(tmp_path, source), "a") == [Grade("a", {"score": 0.75})]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["__init__.py", "grade.py", "host.py", "tools"]


def test_the_shipped_track_goes_through_the_same_child(tmp_path: Path) -> None:
    cases = [eval_row(case) for case in generate_cases(200, 12, "regular", (3, 9))]
    with Grader(GraderSpec(shipped="spreadsheet_clean")) as grader:
        golds = grader.grade((case, case["reference"], "stop") for case in cases)
        floors = grader.grade((case, "", "stop") for case in cases)
        assert grader.repeat_check([(cases[0], cases[0]["prompt"], "stop")]) == []
    assert [grade.metrics["strict"] for grade in golds] == [1.0] * 12
    assert [grade.metrics["composite"] for grade in floors] == [0.0] * 12
    assert not any(grade.error for grade in golds + floors)


@pytest.mark.parametrize(
    "source",
    [
        # a counter: varies within one process, not between processes
        """
        calls = []
        def grade(case, text):
            calls.append(1)
            return {"steady": 1.0, "score": len(calls) % 2}
        """,
        # the process: varies between processes only, as hash order does
        """
        import os
        def grade(case, text):
            return {"steady": 1.0, "score": os.getpid()}
        """,
        # unseeded randomness
        """
        import random
        def grade(case, text):
            return {"steady": 1.0, "score": random.random()}
        """,
    ],
)
def test_a_grader_that_varies_between_calls_is_reported_by_case_and_metric(source: str, tmp_path: Path) -> None:
    found = repeat_check(_spec(tmp_path, source), _items("a", "b"))
    assert [(variation.case_id, variation.metric) for variation in found] == [("a", "score"), ("b", "score")]
    assert "score was" in found[0].sentence


def test_failing_only_sometimes_is_a_variation_and_failing_always_is_not(tmp_path: Path) -> None:
    source = """
        seen = set()
        def grade(case, text):
            if case["id"] == "always" or case["id"] in seen:
                raise ValueError("no")
            seen.add(case["id"])
            return {"score": 1.0}
    """
    [variation] = repeat_check(_spec(tmp_path, source), _items("once", "always"))
    assert variation == Variation("once", "error", "none", "grade raised ValueError: no at grade.py:5")


def test_a_hanging_grader_ends_when_its_worker_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "grade.py"
    file.write_text(
        "import os, threading\nfrom pathlib import Path\n"
        "def grade(case, text):\n    Path('pid.new').write_text(str(os.getpid()))\n"
        "    Path('pid.new').rename('pid')\n    threading.Event().wait()\n"
    )
    program = (
        "import sys; from tools.graders.contract import GraderSpec; from tools.graders.host import Grader\n"
        "with Grader(GraderSpec(file=sys.argv[1], timeout_s=500)) as grader:\n"
        "    grader.grade([({'id': 'a'}, '', 'stop')])\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(file)], cwd=ROOT) as worker:
        while not (tmp_path / "pid").exists():
            assert worker.poll() is None
        grader = psutil.Process(int((tmp_path / "pid").read_text()))
        os.kill(worker.pid, signal.SIGKILL)
    gone, _ = psutil.wait_procs([grader], timeout=60)
    assert gone == [grader] or grader.status() == psutil.STATUS_ZOMBIE


def test_the_child_can_be_started_as_a_module(tmp_path: Path) -> None:
    file = tmp_path / "grade.py"
    file.write_text("def grade(case, text): return {'score': 1}\n")
    done = subprocess.run(
        [sys.executable, "-m", "tools.graders.child", str(file)],
        input='{"op": "grade", "case": {"id": "a"}, "text": ""}\n',
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout == '{"ready": true}\n{"metrics": {"score": 1.0}}\n'

from pathlib import Path
from typing import Any

import pytest

from state.errors import ConfigError, HardStop
from tests.tools.evaluation.worlds import write_lines
from tools.data.cases import iter_pairs
from tools.data.pairs import Built, Source, build_pairs, main, training_cases, write_pairs

WORDS = [
    "amber", "basil", "cedar", "delta", "ember", "fjord", "grove", "heron", "inlet", "jetty", "knoll", "larch", "maple",
    "north", "ocean", "petal",
]  # fmt: skip
CASES = [{"id": f"c{n}", "prompt": f"Say {word}.", "reference": f"{word}, as you say"} for n, word in enumerate(WORDS)]


def output(case: str, text: str, score: float | None, reason: str = "stop") -> dict[str, Any]:
    return {"case": case, "text": text, "finish_reason": reason, "metrics": {"share": score, "other": 0.0}}


def build(outputs: list[dict[str, Any]], source: Source = "best_worst", **options: Any) -> Built:
    return build_pairs(CASES, outputs, **({"metric": "share", "source": source, "least_margin": 0.1} | options))


def varied() -> list[dict[str, Any]]:
    """Return two outputs per case that differ by nothing but which word of the vocabulary they say."""
    return [
        output(f"c{n}", f"{(word if turn else WORDS[(n * 5 + 3) % 16])}, as you say", float(turn))
        for turn in (0, 1)
        for n, word in enumerate(WORDS)
    ]


def test_the_best_output_of_a_prompt_stands_against_its_worst() -> None:
    built = build([output("c0", "middling", 0.5), output("c0", "poor", 0.1), output("c0", "good", 0.9)])
    (pair,) = built.pairs
    assert (pair["chosen"], pair["rejected"], pair["id"]) == ("good", "poor", "c0")
    assert pair["margin"] == pytest.approx(0.8)
    assert pair["prompt"] == [{"role": "user", "content": "Say amber."}]
    assert built.left_out == {"too few outputs": 15}


def test_the_reference_stands_against_the_worst_wrong_output() -> None:
    built = build([output("c0", "wrong", 0.2), output("c0", "amber, as you say", 1.0)], "reference")
    assert [(pair["chosen"], pair["rejected"]) for pair in built.pairs] == [("amber, as you say", "wrong")]
    equal = build([output("c0", "another good one", 1.0)], "reference")
    assert (equal.pairs, equal.left_out["too close"]) == ([], 1), "an output as good as the reference is not rejected"
    low = build([output("c0", "wrong", 0.2)], "reference", reference_score=0.25)
    assert low.left_out["too close"] == 1, "a reference that the grader itself pays little for teaches little"


def test_outputs_that_cannot_stand_in_a_pair_are_counted_by_their_reason() -> None:
    built = build([
        output("c0", "long", 0.1, "length"), output("c0", "good", 0.9),
        output("c1", "odd", None), output("c1", "good", 0.9),
        output("c2", "near", 0.85), output("c2", "good", 0.9),
        output("c3", "same", 0.1), output("c3", "same", 0.9),
    ])  # fmt: skip
    assert built.pairs == []
    assert built.left_out == {
        "cut by the decode budget": 1, "not graded": 1, "too close": 2, "too few outputs": 12,
    }  # fmt: skip
    without = build_pairs(
        [{"id": "c0", "prompt": "x"}], [output("c0", "a", 0.1)], metric="share", source="reference", least_margin=0.1
    )
    assert without.left_out == {"no reference": 1}


def test_a_file_that_is_written_reads_as_pairs(tmp_path: Path) -> None:
    built = build(varied())
    assert len(built.pairs) == 16
    assert not [finding for finding in built.findings if finding.severity == "hard_stop"]
    write_pairs(tmp_path / "pairs.jsonl", built)
    read = list(iter_pairs(tmp_path / "pairs.jsonl"))
    assert [pair.sides for pair in read] == [(pair["chosen"], pair["rejected"]) for pair in built.pairs]


def test_pairs_told_apart_by_something_beside_the_point_are_not_written(tmp_path: Path) -> None:
    outputs = [
        output(row["case"], row["text"] + ("" if row["metrics"]["share"] else "\r\n"), row["metrics"]["share"])
        for row in varied()
    ]
    with pytest.raises(HardStop) as caught:
        write_pairs(tmp_path / "pairs.jsonl", build(outputs))
    assert caught.value.sentence.startswith("The built pairs teach the difference that is meant. ")
    assert not (tmp_path / "pairs.jsonl").exists()


def test_without_a_pair_the_reasons_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"No pair could be built \(16 too few outputs\); ask for more outputs"):
        write_pairs(tmp_path / "pairs.jsonl", build([]))
    with pytest.raises(ConfigError, match=r"No pair could be built \(there was no case\)"):
        write_pairs(tmp_path / "pairs.jsonl", Built([]))


def test_training_rows_become_cases_with_their_answer_as_reference(tmp_path: Path) -> None:
    user, answer = {"role": "user", "content": "ask"}, {"role": "assistant", "content": "good"}
    tools = [{"name": "look"}]
    path = write_lines(tmp_path / "train.jsonl", [{"messages": [user, answer], "tools": tools}])
    (case,) = training_cases(path)
    assert case == {"id": "line-1", "messages": [user], "reference": "good", "tools": tools}
    built = build_pairs([case], [output("line-1", "bad", 0.0)], metric="share", source="reference", least_margin=0.1)
    assert built.pairs[0]["tools"] == tools
    with pytest.raises(ConfigError, match=r":1: the row has no prompt with an answer"):
        list(training_cases(write_lines(tmp_path / "text.jsonl", [{"text": "only this"}])))


def test_the_command_builds_pairs_from_a_completion_log_and_refuses_what_teaches_beside_the_point(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = write_lines(tmp_path / "cases.jsonl", CASES)
    # As a run of rollouts leaves it.
    log = [row | {"update": 1, "sample": 0, "reward": row["metrics"]["share"]} for row in varied()]
    outputs = write_lines(tmp_path / "rollouts.jsonl", log)
    out = tmp_path / "pairs.jsonl"
    given = ["--cases", str(cases), "--outputs", str(outputs), "--metric", "share", "--out", str(out)]
    assert main(given) == 0
    rows = list(iter_pairs(out))
    assert len(rows) > 10
    assert capsys.readouterr().out.startswith(f"{len(rows)} pairs in {out}")
    crlf = [row | {"text": f"{row['text']}\r\n"} if row["metrics"]["share"] == 0 else row for row in varied()]
    write_lines(outputs, crlf)
    out.unlink()
    assert main(given) == 3
    assert not out.exists()
    assert "teach the difference" in capsys.readouterr().err
    train = write_lines(tmp_path / "train.jsonl", [{"prompt": "ask", "completion": "good"}])
    write_lines(outputs, [output("line-1", "bad", 0.0)])
    of_rows = ["--train", str(train), "--source", "reference", *given[2:]]
    assert main(of_rows) == 0
    assert [row.sides for row in iter_pairs(out)] == [("good", "bad")]

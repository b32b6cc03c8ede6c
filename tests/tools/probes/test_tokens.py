"""What a tokenizer says of a project, asked in a process of its own; and what is said without one."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.faults.campaign.world import BASE
from tests.faults.failure_modes.projects import rows_of, with_system, write_config, write_rows
from tests.faults.failure_modes.worlds import cases
from tests.tools.evaluation.fake_tokenizer import FakeTokenizer
from tests.tools.probes.looks import look, of, only, project, settings, why_not
from tools.data.rows import BOUNDS
from tools.evaluation import audit as worker
from tools.probes import recipes


def words_project(folder: Path, rows: list[Any] | None = None, **values: Any) -> Path:
    folder.mkdir()
    write_rows(folder / "data" / "train.jsonl", rows if rows is not None else rows_of("train", 60))
    write_rows(folder / "cases.jsonl", cases("held out"))
    write_config(folder / "lora.yaml", iters=50)
    stated = {"name": "e", "data": "cases.jsonl", "max_tokens": 100, "system": "", **values}
    return settings(folder, evaluations=[stated])


def test_a_model_settles_what_is_not_checked_without_one(tmp_path: Path) -> None:
    folder = words_project(tmp_path / "p", gate={"min": 0.9})
    bare = look(folder)
    assert "counted with --model" in why_not(bare, "P1")
    assert "--model only" in why_not(bare, "P7")
    assert "--model only" in why_not(bare, "P8")
    asked = look(folder, BASE)
    assert asked.report.findings == []
    assert {"P1", "P7", "P8"} <= set(asked.report.checked)


def test_a_model_without_a_tokenizer_settles_nothing_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    found = look(words_project(tmp_path / "p"), tmp_path / "model")
    for mode in ("P1", "P7", "P8"):
        assert "the tokenizer did not answer" in why_not(found, mode)


def test_a_tokenizer_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.probes.recipes.MODULE", "no_such_module")
    assert "No module named no_such_module" in why_not(look(words_project(tmp_path / "p"), BASE), "P8")


def test_system_texts_are_compared_without_a_tokenizer_too(tmp_path: Path) -> None:
    taught = with_system(rows_of("train", 60), "Be brief.")
    stated = only(look(words_project(tmp_path / "a", taught, system="Be long.")), "P7")
    assert stated.severity == "hard_stop"
    assert "training has the system text 'Be brief.', evaluation the system text 'Be long.'" in stated.sentence
    silent = only(look(words_project(tmp_path / "b", taught, system=None)), "P7")
    assert (silent.severity, "evaluation no system text" in silent.sentence) == ("warning", True)
    assert of(look(words_project(tmp_path / "c", taught, system="Be brief.")), "P7") == []
    own = words_project(tmp_path / "d", taught, system=None)
    held = [
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"q {n}"}]}
        for n in range(9)
    ]
    write_rows(own / "cases.jsonl", held)
    assert of(look(own), "P7") == []
    write_rows(own / "cases.jsonl", [{"prompt": "q", "system": "Be brief."}])
    assert of(look(own), "P7") == []


def test_rows_that_carry_their_template_need_a_tokenizer(tmp_path: Path) -> None:
    rows = [{"text": f"<|user|>question {n} of many<|end|><|assistant|>yes<|end|>"} for n in range(60)]
    folder = words_project(tmp_path / "p", rows, system="Be brief.")
    write_config(folder / "lora.yaml", iters=50, mask_prompt=None)
    assert of(look(folder), "P7") == []
    found = only(look(folder, BASE), "P7")
    assert "training has <|user|>question , evaluation <|system|>Be brief." in found.sentence
    assert "yes" not in json.dumps(found.value)
    write_rows(folder / "data" / "train.jsonl", [{"text": f"{n} is asked"} for n in range(60)])
    assert "characters" in only(look(folder, BASE), "P7").sentence


def test_evaluations_without_configurations_are_compared_with_the_data_that_lie_there(tmp_path: Path) -> None:
    folder = words_project(tmp_path / "p", with_system(rows_of("train", 60), "Be brief."), system="Be long.")
    (folder / "lora.yaml").unlink()
    assert only(look(folder), "P7").severity == "hard_stop"
    assert only(look(folder, BASE), "P7").severity == "hard_stop"


def test_few_long_rows_are_a_warning_and_masked_prompts_that_fill_it_stop(tmp_path: Path) -> None:
    rows = rows_of("train", 200)
    rows[7]["messages"][-1]["content"] += "\n- AGAIN" * 200
    folder = words_project(tmp_path / "a", rows)
    found = only(look(folder, BASE), "P8")
    assert (found.severity, found.value["lines"]) == ("warning", [8])
    assert "1 of 200 rows of data/train.jsonl are longer than max_seq_length 512" in found.sentence
    rows[7]["messages"][0]["content"] += " again" * 2000
    found = only(look(words_project(tmp_path / "b", rows), BASE), "P8")
    assert (found.severity, "nothing of their answers is learned" in found.sentence) == ("warning", True)
    assert "beyond the 2,048 positions of the model" in found.fix
    for row in rows[8:11]:
        row["messages"][0]["content"] += " again" * 600
    found = only(look(words_project(tmp_path / "c", rows), BASE), "P8")
    assert (found.severity, "a batch of 4 such rows has the loss NaN" in found.sentence) == ("hard_stop", True)


def test_a_budget_that_fits_the_references_and_cuts_what_is_taught_is_told(tmp_path: Path) -> None:
    rows = rows_of("train", 60)
    assert of(look(words_project(tmp_path / "a", rows), BASE), "P1") == []
    for row in rows:
        row["messages"][-1]["content"] = "<think>\n" + "I add. " * 60 + "\n</think>\n" + row["messages"][-1]["content"]
    found = only(look(words_project(tmp_path / "b", rows), BASE), "P1")
    assert (found.severity, found.claim) == ("warning", "taught_answers")
    assert found.value["least_taught"] > found.value["max_tokens"] == 100


def test_pairs_are_counted_on_both_sides(tmp_path: Path) -> None:
    rows: list[Any] = [
        {"prompt": f"{n} then", "chosen": "yes", "rejected": "no " * (1 if n else 600), "system": "S"}
        for n in range(60)
    ]
    folder = project(tmp_path / "p", data__train_jsonl=rows)
    write_config(folder / "dpo.yaml", train_mode="dpo", iters=50, mask_prompt=None, fine_tune_type=None)
    assert only(look(folder, BASE), "P8").value["truncated"] == 1


class TestWorker:
    """The process that counts, in this one, with a tokenizer of characters."""

    def ask(self, monkeypatch: pytest.MonkeyPatch, request: dict[str, Any], **options: Any) -> dict[str, Any]:
        monkeypatch.setattr("tools.models.load.load_tokenizer", lambda _folder: FakeTokenizer(**options))
        return worker.answer({"model": "m", "evaluations": [], "trainings": [], "taught": [], **request})

    def stated(self, path: Path, **values: Any) -> dict[str, Any]:
        return {"file": str(path), "gold_field": None, "system": None, "max_tokens": 8, **values}

    def test_an_answer_needs_its_tokens_without_the_final_newline(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_rows(tmp_path / "e.jsonl", [{"prompt": "q", "reference": text} for text in ("abc\n", "abcd", "a\r\n")])
        found = self.ask(monkeypatch, {"evaluations": [self.stated(tmp_path / "e.jsonl")]})
        assert found["evaluations"][0]["needs"] == [3, 4, 1]
        assert found["evaluations"][0]["begun"] is None

    def test_lines_that_have_begun_are_counted_where_every_answer_has_several(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_rows(
            tmp_path / "e.jsonl", [{"prompt": "q", "gold": text} for text in ("ab\ncd", "abc\ndefgh", "abcdefgh\ni")]
        )
        row = self.stated(tmp_path / "e.jsonl", gold_field="gold", max_tokens=6)
        found = self.ask(monkeypatch, {"evaluations": [row]})["evaluations"][0]
        assert (found["needs"], found["begun"]) == ([5, 9, 10], 2)

    def test_cases_of_every_shape_are_asked(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        rows = [
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "tools": [{}]},
            {"messages": [{"role": "assistant", "content": "a"}]},
            {"question": "q", "answer": 4},
            {"prompt": [{"role": "user", "content": "q"}], "answer": "b", "system": "s"},
            {"instruction": "i", "system": ""},
        ]
        write_rows(tmp_path / "e.jsonl", rows)
        found = self.ask(monkeypatch, {"evaluations": [self.stated(tmp_path / "e.jsonl")]})["evaluations"][0]
        assert (found["cases"], found["needs"]) == (4, [1, 1, 1])

    def test_what_cannot_be_rendered_is_told_and_the_rest_is_counted(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_rows(tmp_path / "e.jsonl", [{"prompt": "q", "reference": "abc"}])
        write_rows(tmp_path / "t.jsonl", [{"prompt": "q", "completion": "a"}])
        features = {"prompt": "prompt", "completion": "completion"}
        training = {
            "file": str(tmp_path / "t.jsonl"),
            "features": features,
            "bounds": list(BOUNDS),
            "max_seq_length": 99,
            "masks_prompt": False,
        }
        missing = {**training, "file": str(tmp_path / "gone.jsonl")}
        taught = [training, missing]
        request = {"evaluations": [self.stated(tmp_path / "e.jsonl")], "trainings": taught, "taught": taught}
        refusing = self.ask(monkeypatch, request, template="{{ raise_exception('no') }}")
        assert refusing["trainings"][0]["why"] == "no row could be rendered"
        assert refusing["trainings"][0]["stock"]["kinds"]["refused:no"]["lines"] == [1]
        assert refusing["trainings"][1] == {"why": "no usable row"}
        broken = self.ask(monkeypatch, request, template="{{ 1 / 0 }}")
        assert broken["evaluations"][0] == {"why": "ZeroDivisionError while rendering"}
        found = self.ask(monkeypatch, request)
        assert found["evaluations"][0]["parity"]["ok"] is True
        assert self.ask(monkeypatch, {**request, "taught": [missing]})["evaluations"][0]["parity"] == {}

    def test_rows_that_nothing_ends_are_a_warning(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = words_project(tmp_path / "p")
        census = {
            "rows": 60, "truncated": 0, "without_end": 60, "max_tokens": 9, "p95": 9, "prompt_longer_than_max": 0,
            "lines": [],
        }  # fmt: skip
        said = {"trainings": [census], "evaluations": [{"why": "refused"}]}
        monkeypatch.setattr(recipes, "ask", lambda *_: said)
        found = look(folder, BASE)
        assert (only(found, "P8").severity, "60 of 60 rows" in only(found, "P8").sentence) == ("warning", True)
        assert "refused" in why_not(found, "P7")
        assert "refused" in why_not(found, "P1")
        said["trainings"] = [{"why": "strange rows"}]
        assert "strange rows" in why_not(look(folder, BASE), "P8")

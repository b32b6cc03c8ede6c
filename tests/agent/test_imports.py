"""Tables of runs made elsewhere: what is read, what is refused with its line, and that none of it counts."""

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.imports import beliefs_of, read_adapter, read_table
from policies.next_run import exhaustion_of
from policies.verdict import LEAST_RUNS
from state.errors import ConfigError
from state.hashing import hash_file
from state.records import Belief, Decision
from tests.policies.rehearsal import Rehearsal
from tests.tools.models.folders import safetensors

SPLITS = ("regular", "stress")

CSV = """name,instrument,iters,lr,rank,stress.rows_kept,regular/strict,adapter_path,State
v1,sft,600,1e-4,8,0.25,0.96,adapters/v1,finished
v2,SFT,900,2e-4,,0.25,,,crashed

v3,,,,,nan,,elsewhere/v3,
"""


def write(folder: Path, text: str, name: str = "past.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def adapter(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapters.safetensors").write_bytes(safetensors({"w.lora_a": ("F32", [4, 2])}))
    (folder / "adapter_config.json").write_text(json.dumps({"iters": 600, "fine_tune_type": "lora", "data": "there"}))
    return folder


def refused(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_table(path, SPLITS)
    assert caught.value.exit_code == 2
    return caught.value.sentence


def test_a_tracker_s_csv_is_sorted_into_recipe_scores_adapter_and_the_rest(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "adapters" / "v1")
    found = read_table(write(tmp_path, CSV), SPLITS)
    first, second, third = found["rows"]
    assert (first["line"], second["line"], third["line"]) == (2, 3, 5)
    assert first["recipe"] == {"iters": 600, "learning_rate": 1e-4, "lora_parameters.rank": 8}
    assert first["metrics"] == {"stress.rows_kept": 0.25, "regular.strict": 0.96}
    assert first["adapter"]["files"]["adapters.safetensors"] == hash_file(folder / "adapters.safetensors")
    assert first["adapter"]["config"] == {"fine_tune_type": "lora", "iters": 600}
    assert (second["instrument"], second["metrics"], second["adapter"]) == ("sft", {"stress.rows_kept": 0.25}, {})
    assert third["adapter"]["files"] == {}
    assert third["metrics"] == {}
    assert found["kept"] == ["State"]
    assert found["sha256"] == hash_file(tmp_path / "past.csv")


@pytest.mark.parametrize("mark", [";", "\t", ","])
def test_the_header_says_what_separates_the_columns(tmp_path: Path, mark: str) -> None:
    text = f"\ufeffRun{mark}stress.strict{mark}note\nv1{mark}0.5{mark}a b\n"
    [row] = read_table(write(tmp_path, text), SPLITS)["rows"]
    assert (row["name"], row["metrics"], row["other"]) == ("v1", {"stress.strict": 0.5}, {"note": "a b"})


def test_json_lines_may_be_nested_as_trackers_write_them(tmp_path: Path) -> None:
    row = {
        "run_name": "v1",
        "config": {"learning_rate": 1e-5, "lora_parameters": {"rank": 4}, "keys": [1, 2], "grad_checkpoint": True},
        "metrics": {"stress": {"strict": 1, "rows_kept": None}, "train": {"loss": 0.3}},
        "other": math.inf,
    }
    text = "\n" + json.dumps(row) + "\n\n" + json.dumps({"name": "v2", "stress.strict": math.nan}) + "\n"
    first, second = read_table(write(tmp_path, text, "past.jsonl"), SPLITS)["rows"]
    assert first["recipe"] == {"learning_rate": 1e-5, "lora_parameters.rank": 4, "grad_checkpoint": True}
    assert first["metrics"] == {"stress.strict": 1.0}
    assert first["other"] == {"config.keys": [1, 2], "metrics.train.loss": 0.3, "other": "inf"}
    assert (first["line"], second["line"], second["metrics"]) == (2, 4, {})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "past.csv: the table has no runs"),
        ("name,stress.strict\n", "past.csv: the table has no runs"),
        ("name,iters\nv1,600\n", "no run has a score (a column such as regular.accuracy) or an adapter"),
        ("name,stress.strict\nv1,0.5\nv1,0.6\n", "past.csv:3: the name 'v1' is that of line 2 too"),
        ("name,stress.strict\nv1,good\n", "past.csv:2: 'good' in the column 'stress.strict' is no number"),
        ("name,stress.strict\nv1,inf\n", "past.csv:2: 'inf' in the column 'stress.strict' is no number"),
        ("name,stres.strict\nv1,0.5\n", "the column 'stres.strict' names no split of the campaign, which has 'stress'"),
        ("name,stress.strict\nv1,0.5,9\n", "past.csv:2: this row has 3 cells, the header 2"),
        ("name,stress.strict,name\nv1,0.5,v2\n", "past.csv:1: two columns are called 'name'"),
        ("name,,stress.strict\nv1,,0.5\n", "past.csv:1: a column has no name"),
        ("title,stress.strict\nv1,0.5\n", "past.csv:2: this run has no name"),
        ("name,stress.strict\n" + "v" * 81 + ",0.5\n", "past.csv:2: a name is 1 to 80 printable characters"),
        ("name,instrument,stress.strict\nv1,orpo,0.5\n", "past.csv:2: 'orpo' is none of sft, dpo, grpo"),
        ('name,stress.strict\n"v1" x,0.5\n', "past.csv:2: this row cannot be read as CSV"),
        ('{"name": "v1"\n', "past.csv:1: this line is no JSON object"),
        ('[{"name": "v1"}]\n', "past.csv:1: this line is no JSON object"),
        ('{"name": "v1", "stress.strict": true}\n', "past.csv:1: True in the column 'stress.strict' is no number"),
        ('{"a": {"b": {"c": {"d": {"e": 1}}}}}\n', "past.csv:1: a.b.c.d is nested deeper than 4 levels"),
    ],
)
def test_a_table_that_cannot_be_read_is_one_sentence_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    said = refused(write(tmp_path, text))
    assert words in said
    assert said.endswith("; nothing was imported.")


def test_a_table_without_splits_to_name_says_the_form(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a column such as split\.metric"):
        read_table(write(tmp_path, "name\nv1\n"), ())


def test_what_is_no_table_at_all_is_refused(tmp_path: Path) -> None:
    assert "There is no file" in refused(tmp_path / "none.csv")
    (tmp_path / "latin.csv").write_bytes(b"name,stress.strict\nv\xe9,0.5\n")
    assert "latin.csv:2: this is not UTF-8 text" in refused(tmp_path / "latin.csv")
    with (tmp_path / "large.csv").open("wb") as stream:
        stream.truncate(20_000_001)
    assert "20,000,001 bytes" in refused(tmp_path / "large.csv")
    long = "name,stress.strict\n" + "".join(f"v{n},0\n" for n in range(5_001))
    assert "past.csv:5002: a table has at most 5,000 runs" in refused(write(tmp_path, long))


@given(st.text(max_size=200))
def test_no_text_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    with suppress(ConfigError):
        assert read_table(path, SPLITS)["rows"]


def test_an_import_is_believed_as_assumed_with_the_file_as_its_fingerprint(tmp_path: Path) -> None:
    adapter(tmp_path / "adapters" / "v1")
    table = read_table(write(tmp_path, CSV), SPLITS)
    beliefs = {(belief.subject, belief.claim): belief for belief in beliefs_of(table, 9.0)}
    assert {belief.tag for belief in beliefs.values()} == {"assumed"}
    scored = beliefs["imported:v1", "scored"]
    assert scored.statement == (
        "v1 (sft; iters 600, learning_rate 0.0001, lora_parameters.rank 8) scored stress.rows_kept 0.25,"
        " regular.strict 0.96 elsewhere; nothing of it was measured here."
    )
    assert [(each.name, each.value) for each in scored.stands_on] == [(table["file"], table["sha256"])]
    assert scored.fix.startswith(f"Set model.adapter to {tmp_path}/adapters/v1 in the campaign file and run")
    mine = beliefs["imported:v1", "adapter"]
    assert [Path(each.name).name for each in mine.stands_on] == ["adapter_config.json", "adapters.safetensors"]
    assert beliefs["imported:v2", "scored"].fix == "Its adapter is not named; train the recipe here to confirm it."
    gone = beliefs["imported:v3", "adapter"]
    assert "is not at" in gone.statement
    assert gone.stands_on == ()
    assert gone.fix.startswith("Put the adapter at")
    assert beliefs["imported:v3", "scored"].statement.startswith("v3 was run elsewhere, its score is not known")


def test_a_single_adapter_is_taken_by_its_folder_s_name_or_the_one_given(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "mine")
    [belief] = beliefs_of(read_adapter(folder), 9.0)
    assert (belief.subject, belief.claim) == ("imported:mine", "adapter")
    assert belief.value["config"]["iters"] == 600
    assert read_adapter(folder, "best so far")["adapter"]["name"] == "best so far"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: (folder / "adapter_config.json").unlink(), "lacks adapter_config.json"),
        (lambda folder: (folder / "adapters.safetensors").write_bytes(b"no"), "cannot be read as safetensors"),
    ],
)
def test_a_folder_that_is_no_adapter_is_refused(tmp_path: Path, change: Any, words: str) -> None:
    folder = adapter(tmp_path / "mine")
    change(folder)
    with pytest.raises(ConfigError, match=words):
        read_adapter(folder)


def past(folder: Path) -> list[Belief]:
    """Return as many imported runs as would exhaust a class, each flat at the base's score, and one above the gate."""
    rows = "".join(f"v{n},sft,{20 * n},0.5\n" for n in range(1, LEAST_RUNS + 2))
    table = read_table(write(folder, f"name,instrument,iters,main.score\n{rows}best,sft,999,1.0\n"), ("main",))
    return [belief.model_copy(update={"id": f"I-{number}"}) for number, belief in enumerate(beliefs_of(table, 9.0))]


def told(row: Decision) -> tuple[Any, ...]:
    """Return a decision without its time and with its premises by subject: ids count the imported ones too."""
    premises = [(premise.subject, premise.tag) for premise in row.premises]
    return (row.model_dump(exclude={"made_at", "premises"}), premises)


@pytest.mark.parametrize("learns", [True, False])
def test_a_campaign_with_imported_runs_decides_exactly_as_without(tmp_path: Path, *, learns: bool) -> None:
    def world() -> Rehearsal:
        return Rehearsal() if learns else Rehearsal(score=lambda _, case: 0.5 + 0.001 * (case % 7 - 3))

    without, beside = world(), world()
    for belief in past(tmp_path):
        beside.believe(belief)
    without.run()
    beside.run()
    assert any(belief.subject == "imported:best" for belief in beside.view().beliefs)
    assert beside.view().runs == without.view().runs
    assert [told(row) for row in beside.view().decisions] == [told(row) for row in without.view().decisions]
    assert exhaustion_of(beside.view()) == exhaustion_of(without.view())
    assert beside.view().campaign == without.view().campaign

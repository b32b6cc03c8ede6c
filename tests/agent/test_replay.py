import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from agent import replay as module
from agent.cli import vigil
from agent.render.summary import MAX_LINES
from agent.render.words import WIDTH, block
from tests.agent.recorded import record
from tests.policies.trajectory import HARNESS, LOG, log


def says(*arguments: str | Path) -> Result:
    return CliRunner().invoke(vigil, ["replay", *map(str, arguments)])


def written(folder: Path, value: Any, name: str = "log.json") -> Path:
    path = folder / name
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def read(*arguments: str | Path) -> Any:
    result = says(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return written(tmp_path, LOG), written(tmp_path, HARNESS, "harness.json")


def test_json_has_cycles_with_gate_bucket_findings_next_and_the_end(files: tuple[Path, Path]) -> None:
    found = read(files[0], "--harness", files[1])
    assert {"cycles", "first_stop", "saved"} <= found.keys()
    for cycle in found["cycles"]:
        assert {"id", "gate", "bucket", "findings", "next"} <= cycle.keys()
    by_id = {cycle["id"]: cycle for cycle in found["cycles"]}
    assert [by_id[f"collab_sft_v{number}"]["bucket"] for number in (1, 2, 3)] == ["U", "U", "U"]
    assert found["first_stop"]["cycle"] == "collab_sft_v0"
    assert (found["saved"]["cycles"], round(found["saved"]["hours"], 1)) == (6, 2.6)


def test_without_the_harness_the_verdicts_are_the_labs(files: tuple[Path, Path]) -> None:
    by_id = {cycle["id"]: cycle["bucket"] for cycle in read(files[0])["cycles"]}
    assert [by_id[name] for name in ("collab_sft_v2", "collab_sft_v3", "collab_dpo_v0", "trace_dpo_v1")] == list("CCDA")


def test_each_cycle_fits_a_screen_and_the_end_says_what_to_take_away(files: tuple[Path, Path]) -> None:
    result = says(files[0], "--harness", files[1])
    assert result.exit_code == 0
    *cycles, last = result.stdout.rstrip().split("\n\n")
    assert len(cycles) == len(LOG)
    assert max(len(cycle.splitlines()) for cycle in cycles) <= MAX_LINES
    assert max(map(len, result.stdout.splitlines())) <= WIDTH
    text = " ".join(result.stdout.split())
    for words in (
        "collab_sft_v2 sft, track B: bucket U (U.capped, recorded C)",
        "fails stress_data_preservation_mean >= 0.85 0.250 0.142 to 0.402 40 fails",
        "Method Wilson-based, unpaired: no cases at hand.",
        "P1 The gate asks for stress.data_preservation at least 0.85",
        "(hard stop)",
        "Next halt: Do not train it.",
        "and 2 more findings; see --json.",
        "plain, not significant (exact paired p = 0.25 two-sided)",
        "trace_base no training, track A: no bucket",
    ):
        assert words in text, words
    assert last.startswith("In all")
    assert "Saved: 6 of 8 training cycles" in last


def test_findings_that_are_cut_end_at_a_word_and_say_how_many_more_there_are(tmp_path: Path) -> None:
    base = {"n": 40, **{f"metric_{place}": 0.5 for place in range(9)}}

    def told(names: list[str]) -> str:
        asked = [
            {"name": name, "op": ">=", "threshold": 0.001, "metric": f"s.metric_{place}", "against": "parent"}
            for place, name in enumerate(names)
        ]
        gate = {"conditions": asked}
        entry = {"id": "r", "instrument": "sft", "s": base, "base": {"s": base}, "gate": gate}
        lines = says(written(tmp_path, [entry])).stdout.splitlines()
        start = next(place for place, line in enumerate(lines) if line.startswith("  P5"))
        end = next(place for place in range(start + 1, len(lines)) if lines[place][2] != " ")
        assert end - start <= 2
        assert max(map(len, lines)) <= WIDTH
        return " ".join(" ".join(lines[start:end]).split())

    assert told(["a", "b", "c"]).endswith("moves in steps of 0.025. The same holds for b, c.")
    some = told([f"of_nine_{place}" for place in range(9)])
    assert re.search(r"The same holds for of_nine_1(, of_nine_\d)* and \d more\.$", some), some
    assert told(["a", "b" * 90, "c" * 90]).endswith("moves in steps of 0.025. The same holds for 2 more.")
    long = told(["a_condition_whose_name_takes_the_place_of_most_of_what_is_said_of_it", "b" * 90])
    assert long.endswith(" … and 1 more.")
    assert told(["a"]).endswith("moves in steps of 0.025.")


def test_an_instrument_of_somebody_elses_is_named(tmp_path: Path) -> None:
    text = says(written(tmp_path, [{"id": "r", "instrument": "ppo"}, {"id": "q"}])).stdout
    assert "r  ppo: no bucket" in text
    assert "r used ppo, which is none of sft, dpo and grpo" in text
    assert "q  no training: no bucket" in text


def test_both_halves_of_a_character_are_text(tmp_path: Path) -> None:
    path = written(tmp_path, '[{"id": "\\ud83d\\ude00"}]')
    assert [cycle["id"] for cycle in read(path)["cycles"]] == ["\U0001f600"]


def test_a_log_may_be_an_object_with_cycles(tmp_path: Path) -> None:
    assert len(read(written(tmp_path, {"about": "mine", "cycles": LOG[:2]}))["cycles"]) == 2


@pytest.mark.parametrize("state", ["promoted", "not_promoted"])
def test_an_export_of_vigils_own_is_read_as_it_was_written(tmp_path: Path, state: Any) -> None:
    home = tmp_path / "home"
    record(home, state)
    out = tmp_path / "export.jsonl"
    exported = CliRunner().invoke(vigil, ["export", "--home", str(home), "--out", str(out)])
    assert exported.exit_code == 0, exported.output
    out.write_text(out.read_text() + "\n\n")
    found = read(out)
    gates = {cycle["id"]: cycle for cycle in found["cycles"]}
    assert list(gates) == ["R1", "R2", "R3"]
    assert all(row["agrees"] in {True, None} for cycle in gates.values() for row in cycle["gate"])
    assert (gates["R1"]["bucket"], gates["R1"]["agrees"]) == ("D", True)
    # The fixture promotes a run whose recorded gate does not hold; that is what a replay is for.
    assert (gates["R3"]["recorded_bucket"], gates["R3"]["bucket"], gates["R3"]["passed"]) == ("A", "B", False)
    assert "1 of 2 buckets are as recorded; not R3 A, here B." in found["sentences"]
    text = says(out).stdout
    assert "interval" in text
    assert "holds" in text


def export_lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in ({"export": "vigil", "campaign": "c"}, *rows))


RUN = {
    "id": "R1",
    "instrument": "sft",
    "parent": "base",
    "parent_hash": "w",
    "recipe": {},
    "recipe_hash": "r",
    "data_hash": "d",
    "seed": 0,
    "axis": "start",
    "hypothesis": "It helps.",
    "created_at": 1.0,
}


BAD: dict[str, tuple[Any, list[str]]] = {
    "empty": ("", ["log.json:1", "not JSON"]),
    "not JSON": ('[\n{"id": 1,\n', ["log.json:3", "not JSON"]),
    "no list": ({"id": "x"}, ["log.json", "a JSON list of cycles"]),
    "empty list": ([], ["a JSON list of cycles"]),
    "a number": (3, ["a JSON list of cycles"]),
    "cycle is a word": ([LOG[0], "x"], ["cycle 2", "an object"]),
    "no id": ([{"track": "A"}], ["cycle 1", "`id`", "missing"]),
    "id is a number": ([{"id": 7}], ["cycle 1", "`id`", "text"]),
    "unknown operator": (
        log(trace_dpo_v1={"gate": {"conditions": [{"name": "a", "op": "=>", "threshold": 1}]}}),
        ["cycle 4 (trace_dpo_v1)", "`gate.conditions[0].op`", "'=>'"],
    ),
    "threshold is a word": (
        [{"id": "x", "gate": {"conditions": [{"name": "a", "op": ">=", "threshold": "much"}]}}],
        ["cycle 1 (x)", "`gate.conditions[0].threshold`", "'much'", "a number"],
    ),
    "unknown bucket": ([{"id": "x", "bucket": "E"}], ["`bucket`", "'E'"]),
    "two of one name": ([{"id": "x"}, {"id": "x"}], ["two cycles are called x"]),
    "NaN": ('[{"id": "x", "regular": {"n": NaN}}]', ["NaN", "no number of JSON"]),
    "half a character": ('[{"id": "x", "recipe": {"a": "\\ud83d"}}]', ["half a character"]),
    "too large for a float": ('[{"id": "x", "regular": {"n": 1e999}}]', ["1e999", "too large"]),
    "too large to add up": ('[{"id": "x", "train": {"wall_minutes": -1e308}}]', ["-1e308", "too large"]),
    "thousands of digits": (
        f'[{{"id": "x", "recipe": {{"iters": {"1" * 5000}}}}}]',
        ["1111111111111111111…", "too large"],
    ),
    "a prediction without bounds": (
        export_lines({"table": "run", "row": {**RUN, "predicted": {"metric": "main.score"}}}),
        ["not as Vigil writes it", "missing"],
    ),
    "deep": ("[" * 100_000, ["nested too deeply"]),
    "line of an export that is cut": (export_lines() + '{"table": "ru', ["log.json:2", "not JSON"]),
    "line of an export of another shape": (export_lines({"rows": 1}), ["log.json:2", "`table` and `row`"]),
    "row of another shape": (export_lines({"table": "run", "row": {"id": "R1"}}), ["log.json:2", "missing"]),
    "empty export": (export_lines({"table": "journal", "row": {}}), ["no run yet"]),
    "goal of another Vigil": (
        export_lines({"table": "goal", "row": {"version": 1, "campaign": "c", "file_hash": "f", "spec": {"x": 1}}}),
        ["goal is another Vigil's"],
    ),
}


@pytest.mark.parametrize("case", BAD, ids=list(BAD))
def test_a_bad_trajectory_gives_one_sentence_with_file_and_place(tmp_path: Path, case: str) -> None:
    content, words = BAD[case]
    result = says(written(tmp_path, content))
    assert result.exit_code == 2, result.output
    assert len(result.stderr.strip().splitlines()) == 1
    for word in ["log.json", *words]:
        assert word in result.stderr, result.stderr


@pytest.mark.parametrize(
    ("harness", "words"),
    [
        ([], ["harness.json", "one JSON object"]),
        ({**HARNESS, "cases": []}, ["harness.json", "`cases` is empty"]),
        ({**HARNESS, "max_tokens": "many"}, ["`max_tokens`", "a whole number"]),
        ({**HARNESS, "gate": {"metric": "preservation"}}, ["`gate.metric`", "split.metric"]),
        ({**HARNESS, "cases": [{"rows": 0, "gold_tokens": 3}]}, ["`cases[0].rows`", "greater than 0"]),
    ],
)
def test_a_bad_harness_file_gives_one_sentence(tmp_path: Path, harness: Any, words: list[str]) -> None:
    result = says(written(tmp_path, LOG), "--harness", written(tmp_path, harness, "harness.json"))
    assert result.exit_code == 2
    for word in words:
        assert word in result.stderr, result.stderr


def test_an_export_takes_no_harness_file(tmp_path: Path) -> None:
    result = says(written(tmp_path, export_lines()), "--harness", written(tmp_path, HARNESS, "harness.json"))
    assert result.exit_code == 2
    assert "its own ceilings" in result.stderr


def test_files_that_cannot_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = says(tmp_path / "none.json")
    assert (gone.exit_code, "There is no file" in gone.stderr) == (2, True)
    assert "There is no file" in says(tmp_path).stderr
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in says(tmp_path / "bytes.json").stderr
    path = written(tmp_path, LOG)
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    assert "more than 10 bytes" in says(path).stderr
    monkeypatch.undo()

    def refused(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refused)
    assert "cannot be read (Permission denied)" in says(path).stderr


@pytest.mark.skipif("VIGIL_LAB" not in os.environ, reason="VIGIL_LAB names the folder of the lab's own files")
def test_the_labs_own_files_give_the_same() -> None:
    folder = Path(os.environ["VIGIL_LAB"])
    log_file = folder / "lab_trajectory.json"
    withheld, known = read(log_file), read(log_file, "--harness", folder / "lab_harness.json")
    ours = {name: json.loads(json.dumps(value)) for name, value in (("withheld", withheld), ("known", known))}
    failing = {
        cycle["id"]: [row["id"] for row in cycle["gate"] if not row["holds"]] for cycle in ours["withheld"]["cycles"]
    }
    for name in ("collab_sft_v1", "collab_sft_v2", "collab_sft_v3"):
        assert failing[name] == ["stress_data_preservation_mean"]
    assert [len(failing["collab_dpo_v0"]), failing["trace_dpo_v1"]] == [3, []]
    buckets = {cycle["id"]: cycle["bucket"] for cycle in ours["withheld"]["cycles"]}
    names = ("collab_sft_v2", "collab_sft_v3", "collab_dpo_v0", "trace_dpo_v1")
    assert [buckets[name] for name in names] == list("CCDA")
    under = {cycle["id"]: cycle for cycle in ours["known"]["cycles"]}
    assert {under[f"collab_sft_v{number}"]["bucket"] for number in (1, 2, 3)} == {"U"}
    assert {"P2", "P3"} <= {row["mode"] for row in under["collab_dpo_v0"]["findings"]}
    assert "4" in {row["mode"] for row in under["collab_sft_v0"]["findings"]}
    assert (known["first_stop"]["mode"], known["first_stop"]["cycle"]) == ("P1", "collab_sft_v0")
    assert not any(row["agrees"] is False for found in (withheld, known) for c in found["cycles"] for row in c["gate"])


def test_a_paragraph_that_is_cut_ends_after_a_whole_word() -> None:
    words = [f"word{place:02d}" for place in range(60)]
    for size in range(4, 60):
        lines = block("", f"{'x' * size} {' '.join(words)}", indent=11, lines=2)
        *kept, mark = " ".join(lines).split()
        assert (len(lines), mark) == (2, "…")
        assert kept[1:] == words[: len(kept) - 1]
        assert max(map(len, lines)) <= WIDTH
    [line] = block("", "x" * 200, indent=11, lines=1)
    assert line.strip() == "x" * 200, "a path is never cut inside"

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from state.hashing import HashCache
from tests.tools.evaluation.worlds import GRADER, make_model, write_lines
from tools.evaluation.harness import differences, harness_hash, harness_parts


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "helper.py").write_text("VALUE = 1\n")
    (tmp_path / "grade.py").write_text("import helper\n" + GRADER)
    file = write_lines(tmp_path / "s.jsonl", [{"id": "a", "prompt": "p"}])
    return {
        "model": str(make_model(tmp_path / "model")),
        "dtype": "float32",
        "adapter": None,
        "splits": [{"name": "s", "use": "selection", "file": str(file), "case_ids": None}],
        "max_tokens": 10,
        "temperature": 0.0,
        "seed": 0,
        "batch_size": 4,
        "system": None,
        "grader": {"file": str(tmp_path / "grade.py")},
    }


def test_the_parts_are_named_and_their_hash_is_the_fingerprint(inputs: dict[str, Any]) -> None:
    parts = harness_parts(inputs)
    packages = {f"package:{name}" for name in ("mlx", "mlx-lm", "transformers", "tokenizers")}
    assert parts.keys() == {"code", "grader", "decode", "prompt", "tokenizer", "split:s.selection"} | packages
    assert parts["package:mlx-lm"].count(".") == 2
    assert harness_hash(parts) != harness_hash(parts | {"package:mlx": "0"})


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"max_tokens": 11}, "decode"),
        ({"temperature": 0.5}, "decode"),
        ({"dtype": None}, "decode"),
        ({"system": "S"}, "prompt"),
    ],
)
def test_each_setting_changes_its_own_part(inputs: dict[str, Any], change: dict[str, Any], part: str) -> None:
    assert differences(harness_parts(inputs), harness_parts(inputs | change)) == [part]


def test_each_file_changes_its_own_part(inputs: dict[str, Any], tmp_path: Path) -> None:
    edits = {
        "helper.py": "grader",
        "grade.py": "grader",
        "s.jsonl": "split:s.selection",
        "model/chat_template.jinja": "prompt",
    }
    before = harness_parts(inputs)
    for name, part in edits.items():
        path = tmp_path / name
        path.write_text((path.read_text() if path.exists() else "") + "\n")
        after = harness_parts(inputs)
        assert differences(before, after) == [part], name
        before = after
    config = tmp_path / "model" / "config.json"
    config.write_text(config.read_text().replace("[1]", "[1, 2]"))
    assert differences(before, harness_parts(inputs)) == ["decode"]


@pytest.mark.parametrize("change", [{"batch_size": 8}, {"seed": 9}, {"adapter": "x"}, {"side": "candidate"}])
def test_what_does_not_change_greedy_outputs_changes_nothing(inputs: dict[str, Any], change: dict[str, Any]) -> None:
    assert harness_parts(inputs | change) == harness_parts(inputs)


def test_the_seed_counts_when_outputs_are_sampled(inputs: dict[str, Any]) -> None:
    sampled = inputs | {"temperature": 1.0}
    assert differences(harness_parts(sampled), harness_parts(sampled | {"seed": 9})) == ["decode"]


def test_which_cases_of_a_file_count_is_part_of_the_split(inputs: dict[str, Any]) -> None:
    one = inputs | {"splits": [inputs["splits"][0] | {"case_ids": ["a"]}]}
    assert differences(harness_parts(inputs), harness_parts(one)) == ["split:s.selection"]


def test_a_moved_campaign_keeps_its_fingerprint(inputs: dict[str, Any], tmp_path: Path) -> None:
    before = harness_parts(inputs)
    moved = json.loads(json.dumps(inputs).replace(str(tmp_path), str(tmp_path / "moved")))
    files = list(tmp_path.iterdir())
    (tmp_path / "moved").mkdir()
    for path in files:
        shutil.move(path, tmp_path / "moved")
    assert harness_parts(moved, HashCache()) == before


def test_the_fingerprint_is_computed_without_mlx(inputs: dict[str, Any]) -> None:
    code = (
        "import json, sys; from tools.evaluation.harness import harness_parts; harness_parts(json.loads(sys.argv[1]));"
        "print([name for name in ('mlx', 'mlx_lm', 'transformers', 'tokenizers', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, json.dumps(inputs)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_package_that_is_not_installed_has_no_version(
    inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tools.evaluation.harness.PACKAGES", ("no-such-package",))
    assert harness_parts(inputs)["package:no-such-package"] == ""

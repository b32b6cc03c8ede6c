import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from state.errors import ConfigError
from tools.graders.contract import GraderSpec, shipped_tracks


def _write(folder: Path, sources: dict[str, str]) -> None:
    for name, source in sources.items():
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)


def _names(spec: GraderSpec, folder: Path) -> list[str]:
    files = spec.fingerprint_files()
    assert files == sorted(files)
    return [path.relative_to(folder.resolve()).as_posix() for path in files]


def test_the_fingerprint_covers_the_grader_and_the_modules_it_imports(tmp_path: Path) -> None:
    sources = {
        "grade": "import json\nimport helper\nfrom package import part\nfrom package.sub import thing\nimport numpy\n",
        "helper": "def f():\n    import late\n",
        "late": "import grade\n",
        "unused": "",
        "package/__init__": "",
        "package/part": "from . import sibling\n",
        "package/sibling": "",
        "package/sub": "from .sibling import x\n",
        "package/idle": "",
    }
    _write(tmp_path, sources)
    assert _names(GraderSpec(file=str(tmp_path / "grade.py")), tmp_path) == [
        "grade.py", "helper.py", "late.py",
        "package/__init__.py", "package/part.py", "package/sibling.py", "package/sub.py",
    ]  # fmt: skip


def test_the_shipped_track_s_fingerprint_holds_the_modules_it_grades_with_and_not_its_generator() -> None:
    names = [path.name for path in GraderSpec(shipped="spreadsheet_clean").fingerprint_files()]
    assert {"grade.py", "noise.py"} <= set(names)
    assert "generate.py" not in names


def test_a_grader_that_imports_ours_is_fingerprinted_with_ours(tmp_path: Path) -> None:
    _write(tmp_path, {"grade": "from tools.graders.spreadsheet_clean.grade import composite\nimport state.nothing\n"})
    names = [path.name for path in GraderSpec(file=str(tmp_path / "grade.py")).fingerprint_files()]
    assert names.count("grade.py") == 2
    assert "noise.py" in names


def test_a_command_s_fingerprint_holds_the_files_it_names(tmp_path: Path) -> None:
    _write(tmp_path, {"judge": "import helper\n", "helper": ""})
    (tmp_path / "weights.json").write_text("{}")
    spec = GraderSpec(command=("python", "judge.py", "--with", "weights.json", "--fast"), cwd=str(tmp_path))
    assert _names(spec, tmp_path) == ["helper.py", "judge.py", "weights.json"]


def test_a_file_that_does_not_parse_still_has_a_fingerprint(tmp_path: Path) -> None:
    _write(tmp_path, {"grade": "def grade(:\n"})
    assert _names(GraderSpec(file=str(tmp_path / "grade.py")), tmp_path) == ["grade.py"]


def test_the_shipped_name_stands_for_a_file(tmp_path: Path) -> None:
    assert shipped_tracks() == ["spreadsheet_clean"]
    path = GraderSpec(shipped="spreadsheet_clean").path
    assert path is not None
    assert path.parts[-3:] == ("graders", "spreadsheet_clean", "grade.py")


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        (GraderSpec(), "none of them was given"),
        (GraderSpec(file="/x.py", shipped="spreadsheet_clean"), "file and shipped was given"),
        (GraderSpec(file="/no/such/grade.py"), "/no/such/grade.py does not exist"),
        (GraderSpec(shipped="spreadsheet_clear"), "did you mean spreadsheet_clean"),
        (GraderSpec(shipped="zzz"), "there is spreadsheet_clean"),
    ],
)
def test_a_specification_that_cannot_run_is_refused_in_one_sentence(spec: GraderSpec, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        spec.check()
    with pytest.raises(ConfigError, match=fault):
        spec.fingerprint_files()


def test_unknown_keys_and_a_time_out_of_zero_are_refused() -> None:
    with pytest.raises(ValidationError):
        GraderSpec.model_validate({"file": "/x.py", "timeout": 3})
    with pytest.raises(ValidationError):
        GraderSpec(file="/x.py", timeout_s=0)


def test_a_specification_survives_json() -> None:
    spec = GraderSpec(command=(sys.executable, "x.py"), metrics=("a",), timeout_s=3)
    assert GraderSpec.model_validate_json(spec.model_dump_json()) == spec
    assert GraderSpec(file="/x/grade.py").label == "The grader /x/grade.py"

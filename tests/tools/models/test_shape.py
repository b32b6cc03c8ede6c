import json
from pathlib import Path
from typing import Any

import pytest

from tools.models.identity import read_shape

BASE = Path(__file__).parents[3] / "runbooks" / "quickstart" / "base"


def folder(tmp_path: Path, **changes: Any) -> Path:
    config = json.loads((BASE / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    (tmp_path / "model.safetensors").symlink_to(BASE / "model.safetensors")
    return tmp_path


def test_the_sizes_of_the_shipped_base() -> None:
    found = read_shape(BASE, "float32")
    assert found is not None
    assert found["weights_gb"] == pytest.approx(1_332_864 * 4 / 1e9)
    del found["weights_gb"]
    assert found == {
        "hidden": 128, "intermediate": 384, "layers": 6, "heads": 4, "attention": 128, "kv": 128, "vocab": 416,
        "value_bytes": 4,
    }  # fmt: skip


def test_without_a_type_the_weights_stay_as_they_are() -> None:
    found = read_shape(BASE)
    assert found is not None
    assert found["value_bytes"] == 2
    assert found["weights_gb"] == pytest.approx((BASE / "model.safetensors").stat().st_size / 1e9)


def test_heads_are_counted_as_the_configuration_has_them(tmp_path: Path) -> None:
    found = read_shape(folder(tmp_path, num_key_value_heads=None, head_dim=None))
    assert found is not None
    assert (found["attention"], found["kv"]) == (128, 128)


def test_the_text_part_of_a_larger_model_counts(tmp_path: Path) -> None:
    text = json.loads((BASE / "config.json").read_text())
    found = read_shape(folder(tmp_path, text_config=text, hidden_size=None))
    assert found is not None
    assert found["hidden"] == 128


@pytest.mark.parametrize("strange", [{"num_experts": 64}, {"hidden_size": "wide"}, {"num_hidden_layers": 0}])
def test_of_another_kind_of_model_nothing_is_said(tmp_path: Path, strange: dict[str, Any]) -> None:
    assert read_shape(folder(tmp_path, **strange)) is None

"""The page about the campaign file knows each key, and none that is not there."""

import re
from collections.abc import Iterator
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel

from state.goal import Goal
from tests.project.test_project import ROOT
from tools.training.recipe import Recipe

PAGE = ROOT / "runbooks" / "campaign_file.md"
KINDS = ("launch", "promotion", "override", "edit")
"""The page has one row for all four, `approvals.KIND`."""


def parts(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    """Return the model inside a field's type and how the page spells the way to it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, ""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin in {Union, UnionType}:
        return next((found for found in map(parts, inside) if found[0]), (None, ""))
    if origin is tuple and inside:
        return parts(inside[0])[0], "[]"
    if origin is dict:
        return parts(inside[1])[0], ".NAME"
    return None, ""


def keys(model: type[BaseModel], above: str = "") -> Iterator[str]:
    """Yield each key that may be written in a file, from the top."""
    for name, field in model.model_fields.items():
        inner, way = parts(field.annotation)
        if inner is None:
            yield f"{above}{name}"
        else:
            yield from keys(inner, f"{above}{name}{way}.")


def expected() -> set[str]:
    goal = set(keys(Goal)) - {"recipe"}
    shared = {re.sub(rf"^approvals\.({'|'.join(KINDS)})\.", "approvals.KIND.", key) for key in goal}
    return shared | set(keys(Recipe, "recipe."))


def test_each_key_has_its_row_and_each_row_its_key() -> None:
    written = re.findall(r"^\| `([^`]+)` \|", PAGE.read_text(), re.MULTILINE)
    assert len(written) == len(set(written)), "a key has two rows"
    assert sorted(expected() - set(written)) == [], "keys without a row"
    assert sorted(set(written) - expected()) == [], "rows about keys that do not exist"


def test_the_walk_reaches_lists_tables_and_optional_parts() -> None:
    assert {
        "campaign",
        "gate.conditions[].metric",
        "evaluation.splits.NAME.file",
        "approvals.KIND.mode",
        "recipe.lr_schedule.arguments",
    } <= expected()

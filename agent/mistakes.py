"""Mistakes of a campaign file, each as one sentence: where, which key, what is wrong, what would be right."""

import difflib
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from state.errors import ConfigError
from state.goal import Goal

_MEANT = {
    "campaign": "use letters, digits, dots, dashes and underscores, at most 64, since it becomes a folder's name",
    "until": "write a local time such as 07:30, in quotes",
    "quiet": "write two local times, such as 22:30-07:00, in quotes",
    "link": "write where vigil web is reached, such as http://192.168.1.5:8345, without its token",
    "metric": "write `split.metric`, such as regular.rows_kept",
    "any_of": "write each as `split.metric`, such as regular.rows_kept",
    "control": "write `split.metric`, such as regular.rows_kept",
    "expected": "write `split.metric: number`",
    "probes": "write the path of a Python file whose name is letters, digits, dashes and underscores",
}
"""What a text that breaks its pattern should look like, by key."""

_TYPES = {
    "float_type": "a number",
    "float_parsing": "a number",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "string_type": "text; put it in quotes",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
}

_BOUNDS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}

_ORDER = ("extra_forbidden", "missing")
"""A misspelt key also leaves the right one missing; the misspelling is the cause and is told first."""


def dotted(loc: Sequence[str | int]) -> str:
    """Return a key path as people write it: `gate.conditions[0].min`."""
    text = ""
    for part in loc:
        if part == "[key]":
            continue
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def place(name: str, lines: Mapping[tuple[str | int, ...], int], loc: Sequence[str | int]) -> str:
    """Return `file:line` of a key, or of the nearest key above it."""
    for length in range(len(loc), 0, -1):
        if (line := lines.get(tuple(loc[:length]))) is not None:
            return f"{name}:{line}"
    return f"{name}:1"


def nearest(word: str, known: Sequence[str]) -> str:
    """Return the known word that was probably meant, or an empty string."""
    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=0.6)), "")


def first(
    name: str,
    lines: Mapping[tuple[str | int, ...], int],
    errors: Sequence[Any],
    *,
    model: type[BaseModel] = Goal,
    runbook: str = "runbooks/campaign_file.md",
) -> ConfigError:
    """Return the refusal for the most telling of pydantic's errors.

    Args:
        name: File name.
        lines: Line of each key path.
        errors: `ValidationError.errors()`.
        model: What the file is to be.
        runbook: Where its keys are explained.
    """
    ranked = sorted(
        errors, key=lambda error: _ORDER.index(error["type"]) if error["type"] == _ORDER[0] else len(_ORDER)
    )
    error = ranked[0]
    loc = tuple(error["loc"])
    where = place(name, lines, loc)
    more = len(errors) - 1
    suffix = f" ({more} more {'mistake' if more == 1 else 'mistakes'} in this file.)" if more else ""
    return ConfigError(
        f"{where}: {mistake(error, loc, model)}{suffix}",
        what=dotted(loc),
        value=_shown(error, loc),
        where=where,
        runbook=runbook,
    )


def mistake(error: Any, loc: tuple[str | int, ...], model: type[BaseModel] = Goal) -> str:
    """Return one of pydantic's errors as a sentence that names the key and what would be right."""
    kind, context = error["type"], error.get("ctx", {})
    key, value = dotted(loc), _shown(error, loc)
    what = f"`{key}` is" if key else "what stands here is"
    if kind == "extra_forbidden":
        return _unknown(loc, model)
    if kind == "missing":
        above = f" of `{dotted(loc[:-1])}`" if loc[:-1] else ""
        return f"the key `{loc[-1]}`{above} is missing; add it."
    if isinstance(value, float) and value.is_integer() and (most := _most(loc, model)) is not None:
        # Larger than any machine's whole numbers, pydantic takes it for none.
        return f"{what} {_quoted(value)}; it must be at most {_bound(most)}."
    if kind in _TYPES:
        return f"{what} {_quoted(value)}; write {_TYPES[kind]}."
    if kind in _BOUNDS:
        bound, words = _BOUNDS[kind]
        return f"{what} {_quoted(value)}; it must be {words} {_bound(context[bound])}."
    if kind == "string_pattern_mismatch":
        word = next((str(part) for part in reversed(loc) if str(part) in _MEANT), "")
        return f"{what} {_quoted(value)}; {_MEANT.get(word, 'it has another form')}."
    if kind in {"literal_error", "enum"}:
        known = [word.strip("'") for word in str(context["expected"]).replace(" or ", ", ").split(", ")]
        guess = nearest(str(value), known)
        advice = f" (did you mean {guess}?)" if guess else ""
        return f"{what} {_quoted(value)}; write one of {', '.join(known)}{advice}."
    if kind == "too_short":
        return f"{what} empty; it needs at least {context.get('min_length', 1)}."
    if kind == "string_too_short":
        return f"{what} empty; write a value."
    if kind == "value_error":
        text = str(context.get("error", error["msg"])).rstrip(".")
        return f"`{key}`: {text}." if key else f"{text}."
    return f"{what} {_quoted(value)}: {str(error['msg']).rstrip('.')}."


def _shown(error: Any, loc: tuple[str | int, ...]) -> Any:
    """Return what was given at a place; of an address nothing, since it holds a secret."""
    is_secret = loc[:1] == ("notify",) and not {"after_min", "quiet", "timeout_s", "on"} & set(loc)
    return "not shown, it may hold a secret" if is_secret else error.get("input")


def _bound(value: float) -> str:
    """Show a bound digit by digit, as it may be written."""
    return str(int(value)) if float(value).is_integer() else f"{value:g}"


def _most(loc: Sequence[str | int], model: type[BaseModel]) -> float | None:
    """Return the upper bound of a whole number at a place; None where there is none."""
    if not loc:
        return None
    held = _models_at(loc[:-1], model)
    field = next((each.model_fields[str(loc[-1])] for each in held if str(loc[-1]) in each.model_fields), None)
    return next((float(each.le) for each in field.metadata if hasattr(each, "le")), None) if field else None


def _quoted(value: Any) -> str:
    """Show a value as written, short enough for one line."""
    if value is None:
        return "empty"
    text = str(value).lower() if isinstance(value, bool) else f"{value!r}" if isinstance(value, str) else str(value)
    limit = 60
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _unknown(loc: tuple[str | int, ...], model: type[BaseModel]) -> str:
    word = str(loc[-1])
    known = known_keys(loc[:-1], model)
    above = f" in `{dotted(loc[:-1])}`" if loc[:-1] else ""
    guess = nearest(word, known)
    if loc[:2] == ("notify", "to"):
        # An address may have been written where its key belongs.
        word = "…"
    advice = f"did you mean `{guess}`?" if guess else f"the keys here are {', '.join(known)}."
    return f"unknown key `{word}`{above}; {advice}"


def known_keys(loc: Sequence[str | int], model: type[BaseModel] = Goal) -> list[str]:
    """Return the keys that a place of the campaign file, or of another, may have."""
    return [name for model in _models_at(loc, model) for name in model.model_fields]


def _models_at(loc: Sequence[str | int], model: type[BaseModel]) -> list[type[BaseModel]]:
    """Return the models that a place may hold."""
    models: list[type[BaseModel]] = [model]
    for part in loc:
        below = []
        for held in models:
            if isinstance(part, str) and part in held.model_fields:
                below += _models_in(held.model_fields[part].annotation)
        # A list position or a name the user chose (a split) stays on the model it was reached by.
        models = below or models
    return models


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the models an annotation holds: itself, or inside a tuple, a mapping or a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in {tuple, dict, list, Union, types.UnionType, Annotated}:
        return [model for argument in get_args(annotation) for model in _models_in(argument)]
    return []

"""What an audit needs a tokenizer for: `python -m tools.evaluation.audit`, a request in and an answer out, as JSON.

    {"model": FOLDER, "evaluations": [{"file", "gold_field", "system"}], "trainings": [{"file", "features",
     "bounds", "max_seq_length", "masks_prompt"}], "taught": [{"file", "features", "bounds"}]}
    {"evaluations": [{"needs": [tokens of each answer], "begun": {budget: answers}, "parity": {...}} or {"why"}],
     "trainings": [{what token_census returns, "stock": what StockRows.told returns} or {"why"}]}

An answer needs its tokens without the final newline and the end token: no grader misses either. Only the tokenizer is
loaded, never weights. Text of rows does not leave this process, apart from system texts and what all text rows begin
with, in `parity`.
"""

import sys
from itertools import islice
from pathlib import Path
from typing import Any

from state.errors import VigilError
from state.records import Json
from tools.data.rows import Bounds, DataFile, Features, Row
from tools.evaluation.census import prompt_parity, token_census, without_words
from tools.evaluation.prompts import decode, gold_tokens
from tools.evaluation.worker import Split
from tools.jobs.worker import answer_request
from tools.machine.sandbox import OverLimitError
from tools.probes.data import case_prompt
from tools.probes.evaluations import MOST_CASES, gold_of
from tools.probes.stock import StockRows

_RARELY_SHORTER = 20
"""One answer in so many may be shorter than what is told as their least."""
_MOST_PARITY_ROWS = 2_000
"""Rows of each training file whose prompts are compared; templates do not change from row to row."""


def answer(request: Json) -> Json:
    """Count all that is asked for.

    Raises:
        VigilError: The model has no tokenizer that can be opened.
    """
    from tools.models.load import load_tokenizer

    tokenizer = load_tokenizer(Path(request["model"]))
    taught = [_file(row) for row in request["taught"]]
    evaluations: list[Json] = []
    trainings: list[Json] = []
    why = ""
    for rows, answers, count, more in (
        (request["evaluations"], evaluations, _evaluation, lambda _: taught),
        (request["trainings"], trainings, _training, _file),
    ):
        for row in rows:
            # A template that broke its limits once is not asked again: each time costs as long.
            done = {"why": why} if why else _guarded(count, tokenizer, row, more(row))
            why = str(done["why"]) if done.pop("is_over", False) else why
            answers.append(done)
    return {"evaluations": evaluations, "trainings": trainings}


def _file(row: Json) -> DataFile:
    return DataFile(Path(row["file"]), Features(**row["features"]), Bounds(*row["bounds"]))


def _guarded(count: Any, *arguments: Any) -> Json:
    """Count one thing; what a strange row or template does to it is told, and the others are counted all the same."""
    try:
        return dict(count(*arguments))
    except OverLimitError as error:
        return {"why": error.sentence, "is_over": error.what == "chat_template"}
    except VigilError as error:
        return {"why": error.sentence}
    except Exception as error:  # noqa: BLE001 - templates and tokenizers of strangers raise anything
        return {"why": f"{type(error).__name__} while rendering"}


def _training(tokenizer: Any, row: Json, file: DataFile) -> Json:
    stock = StockRows(tokenizer, masks_prompt=bool(row["masks_prompt"]), system=row.get("system"))
    rows = stock.render(file.rows())
    stock_facts = stock.told()
    if not stock_facts["rows"]:
        return {"why": "no usable row"}
    if not rows:
        return {"why": "no row could be rendered", "stock": stock_facts}
    answers = sorted(len(one.tokens) - one.prompt_length for _, one in rows if one.prompt_length)
    least = answers[len(answers) // _RARELY_SHORTER] if answers else 0
    return {**token_census(rows, tokenizer, int(row["max_seq_length"])), "stock": stock_facts, "least_answer": least}


def _evaluation(tokenizer: Any, row: Json, taught: list[DataFile]) -> Json:
    cases, golds = [], []
    for line, data in DataFile(Path(row["file"])).objects(MOST_CASES):
        case = _case(data, row["system"])
        if case is None:
            continue
        cases.append({**case, "id": str(line)})
        gold = gold_of(data, row["gold_field"])
        if gold is not None:
            golds.append({**cases[-1], "reference": gold.removesuffix("\n").removesuffix("\r")})
    tokens = [gold_tokens(tokenizer, gold) for gold in golds]
    counts: Json = {"needs": [len(one) for one in tokens], "cases": len(cases)}
    if tokens:
        counts["begun"] = _begun(tokenizer, golds, tokens, int(row["max_tokens"]))
    if cases:
        counts["parity"] = _parity(tokenizer, cases, taught)
    return counts


def _case(data: Json, system: str | None) -> Json | None:
    """Return what a case asks as a conversation; None where it asks nothing."""
    messages = data.get("messages") or data.get("prompt")
    if isinstance(messages, list) and all(isinstance(turn, dict) and "role" in turn for turn in messages):
        turns = messages[:-1] if messages[-1]["role"] == "assistant" else messages
    else:
        turns = [{"role": "user", "content": case_prompt(data)}]
    own = data.get("system")
    system = own if isinstance(own, str) and own else system
    if not turns:
        return None
    if system and turns[0]["role"] != "system":
        turns = [{"role": "system", "content": system}, *turns]
    return {"messages": turns, **({"tools": data["tools"]} if data.get("tools") else {})}


def _begun(tokenizer: Any, golds: list[Json], tokens: list[list[int]], budget: int) -> int | None:
    """Return how many answers show all of their lines within a budget, the last perhaps cut; None for single lines.

    A grader that counts lines pays for these.
    """
    lines = [_n_lines(gold["reference"]) for gold in golds]
    if min(lines) <= 1:
        return None
    shown = [_n_lines(decode(tokenizer, one[:budget])) for one in tokens]
    return sum(n_shown >= wanted for n_shown, wanted in zip(shown, lines, strict=True))


def _n_lines(text: str) -> int:
    return sum(bool(line.strip()) for line in text.splitlines())


def _parity(tokenizer: Any, cases: list[Json], taught: list[DataFile]) -> Json:
    rows: list[Row] = []
    for file in taught:
        rows += islice(file.rows(), _MOST_PARITY_ROWS)
    if not rows:
        return {}
    parity = prompt_parity(rows, [Split("audit", "cases", tuple(cases))], tokenizer)
    texts = [row.prompt for row in rows if row.form == "text"]
    if not texts or parity["ok"]:
        return parity
    # What all texts begin with is their template; what only one begins with are its words.
    low, high = min(texts), max(texts)
    begun = low[: next((at for at, (one, two) in enumerate(zip(low, high, strict=False)) if one != two), 0)]
    return {**parity, "train_prefix": begun} if begun.strip() else without_words(parity)


def main() -> int:
    """Answer the request on standard input."""
    return answer_request(answer)


if __name__ == "__main__":
    sys.exit(main())

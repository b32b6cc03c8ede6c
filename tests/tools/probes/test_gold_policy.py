"""Golds that only ever remove what is odd are reported with counts; golds that also keep and convert are not."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tools.probes.texts import HOSTILE, sentence, shipped, shipped_folders
from tools.graders.spreadsheet_clean.generate import Case, generate_cases
from tools.probes.golds import check_gold_policy, policy_census, rows_of


def without_millions(case: Case) -> tuple[str, str]:
    """Return a stress case whose gold leaves out each row that has an amount in the prompt's unit."""
    lines = case.prompt.split("\n")[1:]
    kept = [gold for line, gold in zip(lines, case.reference.split("\n"), strict=True) if "$" not in line]
    return case.prompt, "\n".join(kept)


def test_golds_that_delete_every_row_with_a_unit_are_a_warning_with_the_count() -> None:
    cases = list(generate_cases(500, 60, "stress", (15, 25)))
    [finding] = check_gold_policy(map(without_millions, cases))
    assert (finding.mode, finding.severity, finding.claim) == ("5", "warning", "gold_teaches_removal_only")
    deleted = finding.value["odd"]["unit"]["deleted"]
    assert finding.value["odd"]["unit"] == {"deleted": deleted}
    assert f"rows with an amount with a unit are deleted {deleted} times and kept 0 times" in finding.sentence


def test_the_same_prompts_with_converted_rows_are_silent() -> None:
    cases = generate_cases(500, 60, "stress", (15, 25))
    assert check_gold_policy((case.prompt, case.reference) for case in cases) == []


def test_converted_rows_in_one_case_of_five_beside_deletions_are_silent() -> None:
    cases = list(generate_cases(500, 50, "stress", (15, 25)))
    rows = [(c.prompt, c.reference) if i % 5 == 0 else without_millions(c) for i, c in enumerate(cases)]
    assert check_gold_policy(rows) == []


def test_golds_that_remove_odd_lines_of_several_kinds_and_change_nothing_are_a_warning() -> None:
    cases = [case for case in generate_cases(100, 240, "regular", (6, 18)) if case.dimension == "preservation"]
    [finding] = check_gold_policy((case.prompt, case.reference) for case in cases)
    assert "no row is kept with a change" in finding.sentence
    assert set(finding.value["odd"]) == {"duplicate", "annotation"}


def test_the_shipped_data_are_silent_and_their_conversions_are_counted() -> None:
    for folder in shipped_folders():
        for path in folder.glob("*.jsonl"):
            assert check_gold_policy(shipped(path)) == []
    census = policy_census(shipped(shipped_folders()[0] / "train.jsonl"))
    assert census.golds == 2_000
    assert census.deleted("unit") == 0
    assert census.survived("unit") > 4_000
    assert census.deleted("duplicate") > 200


def _csv(rows: list[str]) -> str:
    return "\n".join(["name,amount,state", *rows])


@pytest.mark.parametrize(
    ("odd", "kind"),
    [
        ("a9,$1.2 M,open", "unit"),
        ("a9,n/a,open", "marker"),
        ("a9,,open", "blank"),
        ("a9,many,open", "kind"),
        ("a9,12,open,x", "width"),
    ],
)
def test_each_kind_of_odd_row_that_is_always_deleted_is_named(odd: str, kind: str) -> None:
    def row(place: int) -> tuple[str, str]:
        kept = [f"a{i},{place}{i},open" for i in range(6)]
        return f"Clean this.\n{_csv([*kept[:3], odd, *kept[3:]])}", _csv(kept)

    [finding] = check_gold_policy(row(place) for place in range(12))
    assert list(finding.value["odd"]) == [kind]
    assert finding.value["odd"][kind] == {"deleted": 12}


def _filtered(place: int) -> tuple[str, str]:
    rows = [f"a{i},{place}{i},{'cancelled' if i % 3 == 0 else 'open'}" for i in range(9)]
    return f"Drop cancelled orders.\n{_csv(rows)}", _csv([row for row in rows if "open" in row])


def _without_comments(place: int) -> tuple[str, str]:
    rows = [f"a{i},{place}{i},open" for i in range(6)]
    return _csv([*rows, "# a comment", rows[0] + "1"]), _csv([*rows, rows[0] + "1"])


def _without_duplicates(place: int) -> tuple[str, str]:
    rows = [f"a{i},{place}{i},open" for i in range(6)]
    return _csv([*rows, rows[place % 6]]), _csv(rows)


def _counted(place: int) -> tuple[str, str]:
    rows = [f"a{i},{place}{i} USD,open" for i in range(9)] + ["a9,$1 M,open"]
    return f"How many rows?\n{_csv(rows)}", "10"


def _prose(place: int) -> tuple[str, str]:
    return "\n".join(sentence(f"{place}.{i}", 12) for i in range(8)), sentence(f"gold{place}")


def _as_json(place: int) -> tuple[str, str]:
    rows = [f"a{i},{place}{i},open" for i in range(6)]
    return _csv([*rows, "a9,$1 M,open"]), "[" + ", ".join(f'{{"name": "a{i}"}}' for i in range(6)) + "]"


def _bullets(place: int) -> tuple[str, str]:
    items = [f"- item {place} {i}" for i in range(6)]
    return "\n".join([*items, "- item for $3 M"]), "\n".join([*items, "- item for 3000000 dollars"])


@pytest.mark.parametrize(
    "make", [_filtered, _without_comments, _without_duplicates, _counted, _prose, _as_json, _bullets]
)
def test_tasks_that_filter_count_or_convert_are_silent(make: Callable[[int], tuple[str, str]]) -> None:
    assert check_gold_policy(make(place) for place in range(40)) == []


def test_list_items_with_an_amount_that_are_always_deleted_are_found() -> None:
    def row(place: int) -> tuple[str, str]:
        items = [f"- item number {place} of {i}" for i in range(6)]
        return "\n".join([*items, "- item for $3 M"]), "\n".join(items)

    [finding] = check_gold_policy(row(place) for place in range(12))
    assert finding.value["odd"] == {"unit": {"deleted": 12}}


def test_few_deletions_and_deletions_in_few_golds_are_silent() -> None:
    cases = list(generate_cases(500, 4, "stress", (15, 25)))
    assert check_gold_policy(map(without_millions, cases)) == []


def test_an_edited_row_is_found_by_its_words_where_the_first_cell_changed_too() -> None:
    rows = ["alpha one,12,north east", "beta two,13,south west", "gamma three,14,far away", "delta four,$15 M,near by"]
    gold = [*rows[:3], "Delta,15000000,four near by"]
    census = policy_census([("\n".join(rows), "\n".join(gold))])
    assert census.odd == {"unit": {"converted": 1}}


def test_each_gold_line_stands_for_one_row_only() -> None:
    rows = ["a,1,x", "b,2,y", "c,3,z", "a,1,x"]
    census = policy_census([("\n".join(rows), "\n".join(rows[:3]))])
    assert census.odd == {"duplicate": {"deleted": 1}}
    assert census.ordinary == {"kept": 3}


def test_headers_quotes_bars_and_separators_are_read() -> None:
    table = '| name | amount |\n|------|--------|\n| a | 1 |\n| b | 2 |\n| c | "3 |'
    assert [row.cells for row in rows_of(table)] == [("------", "--------"), ("a", "1"), ("b", "2"), ("c", '"3')]
    assert rows_of(table)[0].oddities == {"separator"}
    quoted = 'x,"1, or 2",y\nx2,"3, or 4",y\nx3,"5, or 6",y'
    assert [row.cells[1] for row in rows_of(quoted)] == ["1, or 2", "3, or 4", "5, or 6"]
    assert rows_of('"a,b"\n"c,d"\n"e,f"') == []
    assert rows_of('a,"\x00\nb,"\x00\nc,"\x00')


def test_prose_and_short_texts_hold_no_rows() -> None:
    assert rows_of(sentence(1)) == []
    assert rows_of("a,b\nc,d") == []
    assert rows_of("one\ntwo\nthree\nfour") == []


def test_a_wholly_unlike_gold_says_nothing_about_policy() -> None:
    assert policy_census([("a,1\nb,2\nc,3", "")]).golds == 0


def test_hostile_texts_are_read_like_any_other() -> None:
    assert check_gold_policy((prompt, gold) for prompt in HOSTILE for gold in HOSTILE) == []


@given(st.lists(st.tuples(st.text(alphabet='a1,$\n |"-', max_size=80), st.text(alphabet="a1,$\n |", max_size=80))))
def test_every_row_of_a_counted_prompt_has_exactly_one_fate(rows: list[tuple[str, str]]) -> None:
    for prompt, gold in rows:
        census = policy_census([(prompt, gold)])
        if census.golds:
            assert census.ordinary.total() == sum(not row.oddities for row in rows_of(prompt))
        check_gold_policy([(prompt, gold)])

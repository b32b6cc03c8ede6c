"""Rows that are rendered once for all jobs: the same ones, and never those of other data."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from state.errors import ConfigError
from tests.tools.evaluation.fake_tokenizer import FakeTokenizer
from tests.tools.evaluation.worlds import TEMPLATE, write_lines
from tools.evaluation import rendered
from tools.evaluation.rendered import Source, rendered_pairs, rendered_rows, source_of

ROWS = [{"prompt": f"ask {n}", "completion": "x" * n} for n in range(5)]
PAIRS = [{"prompt": "ask", "chosen": "x" * n, "rejected": ""} for n in range(1, 4)]


class Letters(FakeTokenizer):
    """Its tokens do not depend on what it was asked before; `texts` are what it was asked."""

    def __init__(self, template: str | None = TEMPLATE) -> None:
        super().__init__(template)
        self.texts: list[str] = []

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        self.texts.append(text)
        return [ord(letter) for letter in text]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendered, "SMALLEST_BYTES", 1)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tokenizer_config.json").write_text("{}")
    return Source(write_lines(tmp_path / "train.jsonl", ROWS), None, tmp_path / "model", tmp_path / "kept")


def plain(rows: Any) -> list[Any]:
    return [(line, list(row.tokens), row.prompt_length, row.is_prefix) for line, row in rows]


def kept(source: Source) -> list[Path]:
    assert source.cache is not None
    return sorted(source.cache.glob("*"))


def test_what_is_kept_reads_as_it_was_rendered_without_rendering_again(source: Source) -> None:
    wanted = plain(rendered_rows(source._replace(cache=None), Letters()))
    assert plain(rendered_rows(source, Letters())) == wanted
    (file,) = kept(source)
    assert file.stat().st_mode & 0o077 == 0
    again = Letters()
    assert plain(rendered_rows(source, again)) == wanted
    assert not any("ask" in text for text in again.texts), "what is kept is not rendered again"


def test_pairs_are_kept_apart_from_rows_two_sides_each(source: Source) -> None:
    pairs = source._replace(path=write_lines(source.path.with_name("pairs.jsonl"), PAIRS))
    wanted = plain(rendered_pairs(pairs, Letters()))
    assert [line for line, *_ in wanted] == [1, 1, 2, 2, 3, 3]
    assert plain(rendered_pairs(pairs, Letters())) == wanted
    assert len(kept(source)) == 1


@pytest.mark.parametrize("change", ["rows", "tokenizer", "system"])
def test_other_rows_another_tokenizer_or_system_text_are_rendered_anew(source: Source, change: str) -> None:
    before = plain(rendered_rows(source, Letters()))
    if change == "rows":
        write_lines(source.path, [*ROWS, ROWS[0]])
    elif change == "tokenizer":
        (source.model / "tokenizer_config.json").write_text('{"a": 1}')
    else:
        source = source._replace(system="S")
    after = plain(rendered_rows(source, Letters()))
    assert (after == before) is (change == "tokenizer")
    assert len(kept(source)) == 2


@pytest.mark.parametrize("damage", [b"", b"short", b"\x01" * 400])
def test_a_damaged_file_is_made_again(source: Source, damage: bytes) -> None:
    wanted = plain(rendered_rows(source, Letters()))
    (file,) = kept(source)
    whole = file.read_bytes()
    file.write_bytes(damage + whole[1:] if len(damage) == 400 else damage)
    assert plain(rendered_rows(source, Letters())) == wanted
    assert file.read_bytes() == whole


def test_rows_that_were_not_all_asked_for_or_changed_meanwhile_leave_nothing(source: Source) -> None:
    rows = rendered_rows(source, Letters())
    next(rows)
    rows.close()  # type: ignore[attr-defined]  # a generator
    assert kept(source) == []
    rows = rendered_rows(source, Letters())
    next(rows)
    source.path.write_bytes(source.path.read_bytes() + b'{"prompt": "a", "completion": "b"}\n')
    assert len(list(rows)) >= len(ROWS) - 1
    assert kept(source) == []


def test_where_nothing_can_be_written_the_rows_are_what_they_are(source: Source) -> None:
    source = source._replace(cache=source.path / "no_folder")
    assert plain(rendered_rows(source, Letters())) == plain(rendered_rows(source._replace(cache=None), Letters()))


def test_the_longest_unused_go_first(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendered, "MOST_FILES", 2)
    for system in "abc":
        list(rendered_rows(source._replace(system=system), Letters()))
    assert len(kept(source)) == 2


def test_what_is_kept_is_bounded_in_bytes_and_another_job_may_thin_out_too(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(rendered_rows(source, Letters()))
    [first] = kept(source)
    for most, files in ((first.stat().st_size * 2 - 1, 1), (9, 0)):
        monkeypatch.setattr(rendered, "MOST_BYTES", most)
        other = source._replace(system=str(most))
        assert len(list(rendered_rows(other, Letters()))) == len(ROWS)
        assert len(kept(source)) == files
    (source.model / "rows-gone").symlink_to("nowhere")
    rendered._thin_out(source.model)


def test_a_template_that_prints_the_date_is_rendered_anew_on_another_day(source: Source) -> None:
    said = "DAY{% for m in messages %}{{ m.content }}{% endfor %}"
    one, two = (plain(rendered_rows(source, Letters(said.replace("DAY", day)))) for day in ("27 Nov", "28 Nov"))
    assert one != two
    assert len(kept(source)) == 2


def test_a_row_that_cannot_be_rendered_is_named_by_file_and_line(source: Source) -> None:
    refuses = Letters("{% if '3' in messages[0].content %}{{ raise_exception('no 3') }}{% endif %}")
    with pytest.raises(ConfigError, match=r"train\.jsonl:4: The model's chat template refuses .*: no 3"):
        list(rendered_rows(source, refuses))
    assert kept(source) == []


def test_where_case_text_must_not_be_written_no_tokens_are_kept() -> None:
    inputs = {"model": "m", "row_cache": "kept"}
    assert source_of(inputs, "a").cache == Path("kept")
    assert source_of({**inputs, "privacy": "redact"}, "a").cache is None


def test_tokens_that_were_kept_are_an_array(source: Source) -> None:
    list(rendered_rows(source, Letters()))
    (_, first), *_ = rendered_rows(source, Letters())
    assert isinstance(first.tokens, np.ndarray)

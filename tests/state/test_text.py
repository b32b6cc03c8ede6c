import json
import sys
import unicodedata

import pytest

from state.text import LONGEST_LINE, as_json, every, one_line, shown

HOSTILE = "\x1b]0;title\x07\x1b]52;c;eA==\x07\x1b[2J\x9b31m\u202eevil\u2066\u200b\ufeff\ud800\U000e0041\x7f"


def test_what_acts_hides_or_turns_the_text_stands_as_its_number_and_nothing_else_does() -> None:
    kinds = {char: unicodedata.category(char) for char in map(chr, range(sys.maxunicode + 1))}
    acting = {char for char, kind in kinds.items() if kind in {"Cc", "Cf", "Cs", "Zl", "Zp"}} - set("\n\t\u200c\u200d")
    # What a newer Unicode than Python's names may be there too.
    changed = {char for char, kind in kinds.items() if kind != "Cn" and shown(char) != char}
    assert sorted(map(hex, map(ord, changed ^ acting))) == []
    assert shown("\x00\x1b\x85\u202e\ud800\U000e0041") == "\\u0000\\u001b\\u0085\\u202e\\ud800\\U000e0041"
    assert shown("plain") == "plain"


@pytest.mark.parametrize("text", [HOSTILE, f"a\r\nb\tc\x0b\x85\u2028d {HOSTILE}", HOSTILE * 999])
def test_one_line_is_one_line_that_prints_anywhere(text: str) -> None:
    line = one_line(text)
    assert line.encode().decode() == line
    assert all(char.isprintable() for char in line)
    assert len(line) < LONGEST_LINE + 40


def test_ten_megabytes_are_cut_with_their_number() -> None:
    assert one_line("\x1b" * 10_000_000).endswith("… (10,000,000 characters)")


def test_json_holds_nothing_hidden_and_reads_back() -> None:
    value = {HOSTILE: [f"日本 {HOSTILE}", 1, None]}
    text = as_json(value)
    assert shown(text) == text
    assert "日本" in text
    assert json.loads(text) == value
    assert every(value) == {shown(HOSTILE): [shown(f"日本 {HOSTILE}"), 1, None]}

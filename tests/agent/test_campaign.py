import copy
from pathlib import Path

import pytest

from agent.campaign import difference, load_campaign, read_yaml
from agent.mistakes import dotted, known_keys, mistake
from state.errors import ConfigError
from tests.agent.folders import CAMPAIGN

GOOD = CAMPAIGN.format(model="base")


def refused(tmp_path: Path, text: str | bytes) -> str:
    file = tmp_path / "c.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        load_campaign(file)
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.sentence
    return caught.value.sentence


def test_a_key_under_its_old_name_works_and_is_told_its_new_one(tmp_path: Path) -> None:
    for name in ("carry", "start_from"):
        file = tmp_path / f"{name}.yaml"
        file.write_text(GOOD + f"search: {{{name}: fused}}\n")
        loaded = load_campaign(file)
        assert loaded.goal.search.start_from == "fused"
        assert loaded.has("search.carry") is (name == "carry")
    assert loaded.goal.model_dump()["search"]["start_from"] == "fused"


def test_a_campaign_keeps_paths_as_written_and_resolves_them_against_its_folder(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(GOOD)
    loaded = load_campaign(tmp_path / "c.yaml")
    assert loaded.goal.data.train == "train.jsonl"
    assert loaded.resolve(loaded.goal.data.train) == (tmp_path / "train.jsonl").resolve()
    assert loaded.where("gate", "conditions", 0, "min") == "c.yaml:16"
    assert loaded.where("gate", "alpha") == "c.yaml:13"


@pytest.mark.parametrize("value", [5, 1e29])
def test_a_row_that_is_no_mapping_is_said_to_be_none(value: float) -> None:
    said = mistake({"type": "model_type", "input": value}, ())
    assert said == f"what stands here is {value}; write a mapping of keys to values."


def test_an_exponent_is_a_number_however_it_is_spelled(tmp_path: Path) -> None:
    for spelled in ("1e-5", "'1e-5'", "1.0e-5", "0.00001", "1E-5"):
        (tmp_path / "c.yaml").write_text(GOOD.replace("1e-5", spelled))
        assert load_campaign(tmp_path / "c.yaml").goal.recipe["learning_rate"] == 1e-5


def test_a_switch_may_be_written_in_words_where_only_yes_or_no_is_meant(tmp_path: Path) -> None:
    text = GOOD + "export: {to: out, fused: %s}\napprovals: {launch: {unanswered: %s}}\n"
    for word, is_on in (("yes", True), ("no", False), ("On", True), ("off", False), ("true", True)):
        spelled = text % (word, "yes" if is_on else "no")
        (tmp_path / "c.yaml").write_text(spelled.replace("iters: 20", f"mask_prompt: {word}"))
        goal = load_campaign(tmp_path / "c.yaml").goal
        assert goal.export is not None
        assert (goal.export.fused, goal.recipe["mask_prompt"]) == (is_on, is_on)
        assert goal.approvals.launch.unanswered == ("yes" if is_on else "no")
    assert "write true or false" in refused(tmp_path, text % ("maybe", "no"))
    assert "`budget.hours` is 'yes'; write a number" in refused(tmp_path, GOOD.replace("hours: 2", "hours: yes"))


def test_a_campaign_may_be_called_like_a_date(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(GOOD.replace("small", "2026-11-23"))
    assert load_campaign(tmp_path / "c.yaml").goal.campaign == "2026-11-23"


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("small", "a/b", 1, ["campaign", "'a/b'", "folder"]),
        ("hours: 2", "hours: -2", 21, ["budget.hours", "-2", "greater than 0"]),
        ("hours: 2", "huors: 2", 21, ["unknown key `huors`", "`hours`"]),
        ("hours: 2", "hours: many", 21, ["budget.hours", "'many'", "a number"]),
        ("hours: 2", "runs: true", 21, ["budget.runs", "true", "a whole number"]),
        ("hours: 2", "until: '25:00'", 21, ["budget.until", "07:30"]),
        ("campaign: small", "campain: small", 1, ["unknown key `campain`", "`campaign`", "1 more mistake"]),
        ("- metric: words.exact\n      min", "- min", 15, ["exactly one of `metric` and `any_of`"]),
        ("words.exact", "wrods.exact", 15, ["'wrods'", "words"]),
        ("words: {file:", "words: {fiel:", 12, ["unknown key `fiel`", "evaluation.splits.words", "`file`"]),
        ("min: 0.5", "min: .nan", 16, ["gate.conditions[0].min", "finite"]),
        ("1e-5", ".inf", 18, ["recipe.learning_rate", "finite"]),
        ("max_tokens: 64", "max_tokens: [64]", 10, ["evaluation.max_tokens", "a whole number"]),
        ("grader: grade.py", "grader: g.py\n  name: x", 4, ["exactly one of `name`, `grader`"]),
        ("hours: 2", "hours: 2\ninstruments: [ppo]", 22, ["instruments[0]", "sft, dpo, grpo"]),
        ("data:", "model:", 6, ['"model"', "twice"]),
        ("hours: 2", "\thours: 2", 21, ["not valid YAML"]),
        ("hours: 2", "hours: [2", 22, ["not valid YAML"]),
        ("recipe:", "approvals: {promotion: {unanswered: 'yes'}}\nrecipe:", 17, ["promotion", "unanswered"]),
        ("path: base", "path: ''", 3, ["model.path", "empty"]),
        ("path: base", "pathh: 1\n  revisionn: 2", 3, ["`pathh`", "`path`"]),
    ],
)
def test_a_mistake_is_told_with_its_line_and_what_would_be_right(
    tmp_path: Path, old: str, new: str, line: int, words: list[str]
) -> None:
    assert old in GOOD
    sentence = refused(tmp_path, GOOD.replace(old, new, 1))
    assert sentence.startswith(f"c.yaml:{line}:"), sentence
    for word in words:
        assert word in sentence, sentence


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        (b"", "empty"),
        (b"- a\n", "not a mapping"),
        (b"a: 1\n\xff", "UTF-8"),
        (b"a\x00b", "not valid YAML"),
        (b"? [a]\n: 1\n", "plain words"),
        (b"a: " + b"[" * 60 + b"]" * 60, "nested"),
        (b"a: &a [x]\nb: [" + b"*a, " * 30 + b"]\n", "aliases"),
        (b"a: [" + b"1," * 100_001 + b"]\n", "values"),
        (b"#" * 1_000_001, "bytes"),
    ],
)
def test_what_is_no_campaign_file_is_refused_before_it_is_built(tmp_path: Path, raw: bytes, word: str) -> None:
    assert word in refused(tmp_path, raw)


def test_a_few_aliases_that_multiply_stay_bounded(tmp_path: Path) -> None:
    layers = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    layers += [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}, *a{n - 1}]" for n in range(1, 6)]
    assert "c.yaml" in refused(tmp_path, "\n".join(layers) + "\n")


def test_aliases_and_merges_are_fine_in_small_numbers(tmp_path: Path) -> None:
    text = GOOD.replace("words: {file: cases.jsonl}", "words: &w {file: cases.jsonl}\n    more: {<<: *w}")
    (tmp_path / "c.yaml").write_text(text)
    assert load_campaign(tmp_path / "c.yaml").goal.evaluation.splits["more"].file == "cases.jsonl"


def test_a_folder_and_a_missing_file_are_no_campaign(tmp_path: Path) -> None:
    for path, word in ((tmp_path, "not a file"), (tmp_path / "none.yaml", "no file")):
        with pytest.raises(ConfigError, match=word):
            load_campaign(path)


def test_any_yaml_mapping_can_be_read_under_the_same_bounds(tmp_path: Path) -> None:
    (tmp_path / "lora.yaml").write_text("model: m\nlearning_rate: 1e-5\nlora_parameters: {rank: 8}\n")
    assert read_yaml(tmp_path / "lora.yaml") == {"model": "m", "learning_rate": 1e-5, "lora_parameters": {"rank": 8}}


def test_a_difference_is_told_in_sentences_and_conditions_by_their_id(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(GOOD)
    old = load_campaign(tmp_path / "c.yaml").goal.model_dump(mode="json")
    new = copy.deepcopy(old)
    new["budget"]["hours"] = 3.5
    new["budget"]["runs"] = 2
    new["data"]["valid"] = None
    new["recipe"]["iters"] = 40
    new["gate"]["conditions"][0].update(id="other", min=0.6)
    said = difference(old, new)
    assert "`budget.hours` changed from 2 to 3.5." in said
    assert "`budget.runs` is now 2; it was not set." in said
    assert "`data.valid` is no longer set; it was valid.jsonl." in said
    assert "`recipe.iters` changed from 20 to 40." in said
    assert "`gate.conditions.words.exact>=0.5` is gone." in said
    assert any(text.startswith("`gate.conditions.other` is new: ") and "min 0.6" in text for text in said)
    assert len(said) == 6


def test_a_goal_does_not_differ_from_itself(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(GOOD)
    spec = load_campaign(tmp_path / "c.yaml").goal.model_dump(mode="json")
    assert difference(spec, copy.deepcopy(spec)) == []


def test_known_keys_follow_the_place_through_lists_and_names() -> None:
    assert "campaign" in known_keys(())
    assert "metric" in known_keys(("gate", "conditions", 3))
    assert "confirmation_share" in known_keys(("evaluation", "splits", "stress"))
    assert dotted(("gate", "conditions", 3, "min")) == "gate.conditions[3].min"

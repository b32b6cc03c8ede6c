from tests.mutants import EQUAL, MUTANTS, ROOT


def test_each_mutant_changes_one_place_that_still_stands_and_names_tests_that_exist() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert {mutant.name for mutant in MUTANTS} >= EQUAL.keys()
    for mutant in MUTANTS:
        text = (ROOT / mutant.file).read_text(encoding="utf-8")
        assert text.count(mutant.old) == 1, f"{mutant.name}: its old text stands {text.count(mutant.old)} times"
        assert mutant.new != mutant.old
        assert all((ROOT / "tests" / name).is_file() for name in mutant.tests.split()), mutant.name

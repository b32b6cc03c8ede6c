from typing import Any

from tools import numbers

SPACE: dict[str, dict[str, Any]] = {
    "learning_rate": {"low": 1e-5, "high": 1e-3, "log": True, "is_int": False},
    "iters": {"low": 50, "high": 800, "log": True, "is_int": True},
    "rank": {"choices": [4, 8, 16]},
}


def told(best: float) -> list[tuple[dict[str, float], float]]:
    """Return runs that did the better the nearer their learning rate was to the best one."""
    rates = [1e-5 * 10 ** (2 * place / 11) for place in range(12)]
    return [({"learning_rate": rate, "iters": 200, "rank": 8, "other": 1.0}, -abs(rate - best)) for rate in rates]


def test_the_same_record_and_seed_give_the_same_proposals_within_the_space() -> None:
    first = numbers.suggest(SPACE, told(1e-4), 7, 4)
    assert first == numbers.suggest(SPACE, told(1e-4), 7, 4)
    assert first != numbers.suggest(SPACE, told(1e-4), 8, 4)
    for each in first:
        assert 1e-5 <= each["learning_rate"] <= 1e-3
        assert isinstance(each["iters"], int)
        assert each["rank"] in {4, 8, 16}


def test_proposals_follow_what_was_told() -> None:
    low = [each["learning_rate"] for seed in range(6) for each in numbers.suggest(SPACE, told(2e-5), seed, 2)]
    high = [each["learning_rate"] for seed in range(6) for each in numbers.suggest(SPACE, told(8e-4), seed, 2)]
    assert sum(low) < sum(high)

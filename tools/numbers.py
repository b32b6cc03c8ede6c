"""Optuna's sampler as one function of what is known: no study is kept, so nothing is lost and nothing is locked."""

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

Json = dict[str, Any]


def is_available() -> bool:
    """Say whether Optuna is installed."""
    return importlib.util.find_spec("optuna") is not None


def suggest(space: Mapping[str, Json], told: Sequence[tuple[Json, float]], seed: int, count: int) -> list[Json]:
    """Return proposals of a tree-structured Parzen estimator; the same arguments give the same proposals.

    Args:
        space: Name -> {low, high, log, is_int} or {choices}.
        told: (name -> value, value to maximise) of each run; names outside the space are left out.
        seed: Of the sampler.
        count: How many proposals, each made as if the ones before it were running.
    """
    # Half a second to import, and most campaigns never ask.
    optuna: Any = importlib.import_module("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    distributions = {name: _distribution(optuna.distributions, each) for name, each in space.items()}
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=0, multivariate=False, constant_liar=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for params, value in told:
        known = {name: params[name] for name in space}
        study.add_trial(optuna.trial.create_trial(params=known, distributions=distributions, value=value))
    return [dict(study.ask(distributions).params) for _ in range(count)]


def _distribution(distributions: Any, each: Mapping[str, Any]) -> Any:
    if "choices" in each:
        return distributions.CategoricalDistribution(tuple(each["choices"]))
    kind = distributions.IntDistribution if each["is_int"] else distributions.FloatDistribution
    return kind(each["low"], each["high"], log=each["log"])

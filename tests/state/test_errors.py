import pytest

from state import errors
from state.errors import ConfigError, HardStop, VigilError


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("ConfigError", 2),
        ("NotFoundError", 2),
        ("LimitExceededError", 2),
        ("HardStop", 3),
        ("JobFailedError", 4),
        ("ToolUnavailableError", 4),
        ("StoreError", 5),
        ("MigrationError", 5),
        ("LeaseLostError", 5),
        ("CorruptError", 5),
    ],
)
def test_each_family_has_its_exit_code(name: str, code: int) -> None:
    kind = getattr(errors, name)
    assert issubclass(kind, VigilError)
    assert kind.exit_code == code


def test_an_error_holds_what_it_is_about() -> None:
    error = ConfigError(
        "The budget is -1.", what="budget.hours", value=-1, limit=0, where="campaign.yaml:7", runbook="r"
    )
    assert str(error) == error.sentence == "The budget is -1."
    assert (error.what, error.value, error.limit, error.where, error.runbook) == (
        "budget.hours",
        -1,
        0,
        "campaign.yaml:7",
        "r",
    )


def test_a_hard_stop_says_claim_evidence_and_fix() -> None:
    stop = HardStop("The ceiling is 1.", evidence="It is 0.4.", fix="Decode 512 tokens.", runbook="runbooks/x.md")
    assert stop.sentence == "The ceiling is 1. It is 0.4. Decode 512 tokens."
    assert (stop.claim, stop.evidence, stop.fix) == ("The ceiling is 1.", "It is 0.4.", "Decode 512 tokens.")

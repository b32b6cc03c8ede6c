"""Errors Vigil raises, and the exit code each one ends a command with.

VigilError
├── ConfigError            2  the user can fix it: campaign file, data, paths, arguments
├── StoreError             5  integrity of a campaign's record
│   ├── NotFoundError      2  asked for something that is not there
│   ├── MigrationError     5  the file is newer than this Vigil, or a migration failed
│   ├── LeaseLostError     5  another process holds the campaign
│   └── CorruptError       5  a check of the store failed
│       └── DamagedFileError  a file of ours, beside the store, is not as it was written
├── JobError               4  a job or tool failed
│   ├── JobNotStartedError    the supervisor never came up
│   ├── JobFailedError        the worker ended badly
│   └── JobInterruptedError   stopped by a person or the machine
├── HardStop               3  a claim was refuted; spending on it is refused
├── LimitExceededError     2  a budget, a disk, a memory bound
└── ToolUnavailableError   4  the only retryable family

Expected outcomes (a diverged training, a gate that does not hold) are values, never exceptions.
"""

from pathlib import Path
from typing import ClassVar


class VigilError(Exception):
    """Base of every error a person may see: one sentence, and where to look.

    Args:
        sentence: What is wrong, naming the place and the fix.
        what: Name of the thing that is wrong (a key, a file, a subject).
        value: The offending value.
        limit: The bound it broke.
        where: File and line, row id or path.
        runbook: Path below `runbooks/` to read next.
    """

    exit_code: ClassVar[int] = 2

    def __init__(
        self,
        sentence: str,
        *,
        what: str = "",
        value: object = None,
        limit: object = None,
        where: str = "",
        runbook: str = "",
    ) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.what = what
        self.value = value
        self.limit = limit
        self.where = where
        self.runbook = runbook


class ConfigError(VigilError):
    """Something the user wrote is wrong and the user can fix it."""


class StoreError(VigilError):
    """The campaign's record cannot be used as it is."""

    exit_code = 5


class NotFoundError(StoreError):
    """A row, campaign or file that was asked for does not exist."""

    exit_code = 2


class MigrationError(StoreError):
    """The store's schema is newer than this Vigil, or a migration failed."""


class LeaseLostError(StoreError):
    """Another process holds the campaign; a stale holder's writes are refused."""


class CorruptError(StoreError):
    """A check of the store failed: bytes changed that nothing of ours wrote."""


class DamagedFileError(CorruptError, ValueError):
    """A file that appears whole or not at all holds something else; also a ValueError, for what can do without it.

    Args:
        path: The file.
        why: What is wrong in it, without a full stop.
    """

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"{path} is damaged: {why}. What is on record stands; put the file back from a copy, or move it away.",
            what=path.name,
            value=why,
            where=str(path),
        )


class JobError(VigilError):
    """A supervised job could not do its work."""

    exit_code = 4


class JobNotStartedError(JobError):
    """The supervisor did not come up."""


class JobFailedError(JobError):
    """The worker ended with an error."""


class JobInterruptedError(JobError):
    """The job was stopped by a person or lost with the machine."""


class HardStop(VigilError):  # noqa: N818 - the field's word for the event, not for an error
    """A claim that spending stands on was refuted.

    Args:
        claim: What was believed.
        evidence: What was seen, with numbers.
        fix: What would make it true.
    """

    exit_code = 3

    def __init__(self, claim: str, *, evidence: str, fix: str, runbook: str) -> None:
        super().__init__(f"{claim} {evidence} {fix}", what=claim, runbook=runbook)
        self.claim = claim
        self.evidence = evidence
        self.fix = fix


class LimitExceededError(VigilError):
    """A budget or a resource bound would be broken."""


class ToolUnavailableError(VigilError):
    """An outside tool did not answer; trying again later may help."""

    exit_code = 4

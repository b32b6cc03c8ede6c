"""From what a campaign names as its model to a folder on this disk: a local folder, or a hub id at a fixed commit.

Only `resolve(..., online=True)` uses the network. A night resolves offline, from the hub's own cache, so it neither
waits for a network nor gets other weights than the ones that were checked.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from state.errors import ConfigError, ToolUnavailableError
from tools.models.identity import INDEX, HeaderError, coherence_problems, read_header, read_object

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PATTERNS = ["*.json", "model*.safetensors", "*.py", "tokenizer.model", "*.tiktoken", "*.txt", "*.jinja"]


@dataclass(frozen=True)
class ResolvedModel:
    """A model on this disk."""

    folder: Path
    revision: str
    """Commit of a hub id, 40 hexadecimal digits; empty for a local folder, whose weights hash is its identity."""


def resolve(
    spec: str,
    *,
    online: bool,
    revision: str | None = None,
    base: Path | None = None,
    campaign: str = "FILE",
) -> ResolvedModel:
    """Find the folder of a model; a folder on disk wins over a hub id of the same spelling.

    Args:
        spec: Local folder or hub id `owner/name`.
        online: Whether to download what is missing; otherwise no network request is made.
        revision: Commit, tag or branch of a hub id; the default branch when left out.
        base: Folder that a relative path is resolved against; the current one by default.
        campaign: Path of the campaign file, for the message on how to download.

    Raises:
        ConfigError: No such folder or hub id, or, offline, not (or not wholly) on this disk.
        ToolUnavailableError: The hub did not answer.
    """
    local = Path(spec).expanduser()
    folder = local if base is None else base / local
    if folder.is_dir():
        return ResolvedModel(folder.resolve(), "")
    if not _HUB_ID.fullmatch(spec):
        raise ConfigError(
            f"Model folder {folder} does not exist; correct model.path, or name a hub id such as owner/name.",
            what="model.path",
            value=spec,
        )
    snapshot = _download(spec, revision) if online else _cached(spec, revision, campaign)
    problems = _unusable(snapshot)
    if problems:
        raise ConfigError(
            f"Model {spec} is not whole on this disk: {problems[0]} {_how_to_download(campaign)}",
            what="model.path",
            value=spec,
            where=str(snapshot),
        )
    # The cache names a snapshot's folder by its commit.
    return ResolvedModel(snapshot, snapshot.name if _COMMIT.fullmatch(snapshot.name) else "")


def _how_to_download(campaign: str) -> str:
    return f"Download it with: vigil run --check --online {campaign}"


def _unusable(snapshot: Path) -> list[str]:
    """Return what keeps a snapshot from being loaded; an interrupted download leaves parts."""
    kinds = {"no_config", "no_tokenizer", "no_weights", "unreadable", "truncated"}
    problems = [p.sentence for p in coherence_problems(snapshot) if p.detail["kind"] in kinds]
    weight_map = read_object(snapshot / INDEX).get("weight_map")
    named = {str(file) for file in weight_map.values()} if isinstance(weight_map, dict) else set()
    return problems + [f"{snapshot / file} is missing." for file in sorted(named) if not _is_whole(snapshot / file)]


def _is_whole(path: Path) -> bool:
    try:
        return path.stat().st_size == read_header(path).declared_bytes
    except (OSError, HeaderError):
        return False


def _cached(spec: str, revision: str | None, campaign: str) -> Path:
    """Return the snapshot in the hub's cache without any request."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(spec, revision=revision, allow_patterns=_PATTERNS, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        raise ConfigError(
            f"Model {_at(spec, revision)} is neither a folder nor whole in the hub's cache on this disk."
            f" {_how_to_download(campaign)}",
            what="model.path",
            value=spec,
        ) from error


def _download(spec: str, revision: str | None) -> Path:
    """Download a snapshot, or complete one.

    Side effects: network requests; writes the hub's cache.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, RevisionNotFoundError

    # The hub's client changed its HTTP library between versions; its own error names the base of that library's.
    transport_error: type[Exception] = HfHubHTTPError.__bases__[0]
    try:
        return Path(snapshot_download(spec, revision=revision, allow_patterns=_PATTERNS))
    except (RevisionNotFoundError, HfHubHTTPError, HFValidationError) as error:
        raise ConfigError(
            f"The hub refused {_at(spec, revision)} ({type(error).__name__}); check the id and the revision,"
            " and that you may read it.",
            what="model.path",
            value=spec,
        ) from error
    except (LocalEntryNotFoundError, transport_error, OSError) as error:
        raise ToolUnavailableError(
            f"The hub did not answer for {_at(spec, revision)} ({type(error).__name__}); check the network and"
            " HF_HUB_OFFLINE, then run the same command again: a download goes on where it stopped.",
            what="huggingface_hub",
        ) from error


def _at(spec: str, revision: str | None) -> str:
    return f"{spec} at revision {revision}" if revision else spec

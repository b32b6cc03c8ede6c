"""Lines about what a night would ask of a network: models, logins of exporters, the hub's token."""

import netrc
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from tools.machine.line import Line, Outcome

_LOGINS = {
    "wandb": (("WANDB_API_KEY",), "WANDB_MODE", "api.wandb.ai", "Run wandb login, or set WANDB_MODE=offline."),
    "swanlab": (("SWANLAB_API_KEY",), "SWANLAB_MODE", "", "Set SWANLAB_API_KEY, or SWANLAB_MODE=local."),
}
"""Exporter -> variables of its key, variable of its mode, host in .netrc, fix."""

_OFFLINE = frozenset({"offline", "disabled", "dryrun", "local"})
_TRUE = frozenset({"1", "true", "yes", "on"})


def hub_cache(env: Mapping[str, str]) -> Path:
    """Return where the hub's client keeps models, by the variables it documents."""
    if written := env.get("HF_HUB_CACHE"):
        return Path(written).expanduser()
    home = env.get("HF_HOME") or Path(env.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(home).expanduser() / "hub"


def cache(folder: Path, env: Mapping[str, str]) -> Line:
    """Return what the model cache holds, without a campaign.

    Args:
        folder: The hub's cache.
        env: Our environment; a worker of ours is offline whatever it says.
    """
    found = sorted(folder.glob("models--*")) if folder.is_dir() else []
    partial = [path for model in found for path in model.glob("blobs/*.incomplete")]
    is_offline = env.get("HF_HUB_OFFLINE", "").lower() in _TRUE
    names = [path.name.removeprefix("models--").replace("--", "/") for path in found]
    value = {"models": names, "incomplete": len(partial), "HF_HUB_OFFLINE": is_offline, "folder": str(folder)}
    models = "1 model is" if len(names) == 1 else f"{len(names)} models are"
    broken = "1 download was" if len(partial) == 1 else f"{len(partial)} downloads were"
    said = f"{models} in the hub's cache ({folder}); workers ask nothing of the network."
    if partial:
        return Line(
            "model:cache",
            "is_local",
            f"{said} {broken} broken off.",
            "warn",
            value,
            str(folder),
            fix="Complete them: vigil run --check --online CAMPAIGN.yaml",
        )
    if not names:
        return Line(
            "model:cache",
            "is_local",
            f"No model is in the hub's cache ({folder}); a campaign with a hub id would stop.",
            "warn",
            value,
            str(folder),
            fix="Name a local folder as model.path, or download: vigil run --check --online CAMPAIGN.yaml",
        )
    return Line("model:cache", "is_local", said, "good", value, str(folder))


def _has_netrc(host: str, home: Path) -> bool:
    try:
        return bool(host) and netrc.netrc(home / ".netrc").authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def exporters(
    asked: Mapping[str, Iterable[str]], env: Mapping[str, str], home: Path, *, is_tonight: bool = True
) -> list[Line]:
    """Return a line for each exporter that is asked for; without a terminal a login that is asked for ends the run.

    Args:
        asked: Exporter -> places that ask for it.
        env: Our environment; only whether a key is set is looked at.
        home: The user's folder, where .netrc is.
        is_tonight: Those who ask are what runs tonight, not configurations that lie beside it.
    """
    lines = []
    for name, places in sorted(asked.items()):
        where = ", ".join(places)
        subject, claim = f"exporter:{name}", "asks_no_login"
        if name not in _LOGINS:
            said = f"{where} reports to {name}; whether it asks for a login is not known."
            lines.append(Line(subject, claim, said, "not_told", asked="report_to", fix=f"Try {name} once by hand."))
            continue
        keys, mode, host, fix = _LOGINS[name]
        if env.get(mode, "").lower() in _OFFLINE:
            how = f"{mode} is {env[mode]}"
        elif key := next((key for key in keys if env.get(key)), None):
            how = f"{key} is set"
        elif _has_netrc(host, home):
            how = f".netrc has {host}"
        else:
            said = f"{where} reports to {name}, and no key is set: it would ask for a login at night and end the run."
            outcome: Outcome = "bad" if is_tonight else "warn"
            lines.append(Line(subject, claim, said, outcome, {"asked_by": where}, "environment, .netrc", fix=fix))
            continue
        said = f"{where} reports to {name}; {how}."
        lines.append(Line(subject, claim, said, "good", {"asked_by": where}, "environment, .netrc"))
    if not asked:
        said = "Nothing reports to an exporter, so none asks for a login."
        lines.append(Line("exporter:none", "asks_no_login", said, "good", asked="report_to"))
    return lines


def token(env: Mapping[str, str], *, is_needed: bool) -> Line:
    """Return whether the hub's token is there.

    Args:
        env: Our environment; only whether a token is set is looked at.
        is_needed: A model has still to be downloaded.
    """
    home = Path(env.get("HF_HOME") or Path(env.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface").expanduser()
    file = Path(env.get("HF_TOKEN_PATH") or home / "token").expanduser()
    is_set = bool(env.get("HF_TOKEN")) or os.access(file, os.R_OK)
    asked = "HF_TOKEN, the hub's token file"
    if is_set:
        return Line("hub:token", "asks_no_login", "A token of the hub is set.", "good", {"is_set": True}, asked)
    if not is_needed:
        said = "No token of the hub is set, and a night needs none: workers are offline."
        return Line("hub:token", "asks_no_login", said, "good", {"is_set": False}, asked)
    return Line(
        "hub:token",
        "asks_no_login",
        "No token of the hub is set, and a model has still to be downloaded; gated ones need it.",
        "warn",
        {"is_set": False},
        asked,
        fix="Run hf auth login before the download, if the model is gated.",
    )

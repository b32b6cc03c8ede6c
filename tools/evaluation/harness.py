"""The harness fingerprint: everything but the weights that a score depends on, as named hashes.

Standard library, `state` and the track contract only, so that the agent computes it before any worker runs. Batch size
and order are left out: they change no outputs (generation.py) but in half precision, where what they move is measured.
The seed is left out of greedy decoding, which draws nothing.
"""

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from state.hashing import HashCache, hash_file, hash_json
from tools.graders.contract import GraderSpec
from tools.models.identity import chat_template, end_tokens, tokenizer_files

PACKAGES = ("mlx", "mlx-lm", "transformers", "tokenizers")

_TOOLS = Path(__file__).resolve().parents[1]
_CODE = ("data/cases.py", "data/rows.py", "evaluation/*.py", "graders/*.py", "models/load.py")


def harness_parts(inputs: dict[str, Any], cache: HashCache | None = None) -> dict[str, str]:
    """Return the parts of the fingerprint by name, so that a difference can be named.

    Args:
        inputs: An evaluation or census worker's `input`.
        cache: Known content hashes.

    Returns:
        `code`, `grader`, `decode`, `prompt` (template and system text), `tokenizer`, `split:<name>.<use>` for each
        split, `package:<name>` (a version, empty when it is not installed).

    Raises:
        ConfigError: The grader specification is wrong.
        OSError: A split's file cannot be read.
    """
    model = Path(inputs["model"])
    return {
        "code": _named_hashes(_code_files(), _TOOLS, cache),
        "grader": grader_hash(inputs["grader"], cache),
        "decode": hash_json(_decode(inputs, model)),
        "prompt": hash_json({"template": chat_template(model), "system": inputs.get("system")}),
        "tokenizer": _named_hashes(tokenizer_files(model), None, cache),
        **{f"split:{row['name']}.{row['use']}": _split(row, cache) for row in inputs["splits"]},
        **{f"package:{name}": package_version(name) for name in PACKAGES},
    }


def harness_hash(parts: dict[str, str]) -> str:
    """Return the fingerprint of the parts as one hash."""
    return hash_json(parts)


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Return the names of the parts that differ, sorted; for saying why scores cannot be compared."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def _code_files() -> list[Path]:
    return sorted(path for pattern in _CODE for path in _TOOLS.glob(pattern))


def _named_hashes(files: Iterable[Path], root: Path | None, cache: HashCache | None) -> str:
    """Hash names with contents; names are relative or bare, so that a moved checkout keeps its fingerprint."""
    rows = [[path.relative_to(root).as_posix() if root else path.name, hash_file(path, cache)] for path in files]
    return hash_json(sorted(rows))


def grader_hash(raw: dict[str, Any], cache: HashCache | None) -> str:
    """Hash what decides grades: the files and what the grader is called with, not where it lies or how long it may."""
    spec = GraderSpec.model_validate(raw)
    files = _named_hashes(spec.fingerprint_files(), None, cache)
    command = [Path(word).name for word in spec.command or ()]
    # A grader may answer otherwise where it reaches somebody.
    online = {"network": True} if spec.network else {}
    return hash_json({"files": files, "command": command, "metrics": list(spec.metrics or ()), **online})


def _decode(inputs: dict[str, Any], model: Path) -> dict[str, Any]:
    temperature = float(inputs.get("temperature") or 0.0)
    return {
        "max_tokens": int(inputs["max_tokens"]),
        "temperature": temperature,
        "seed": int(inputs.get("seed") or 0) if temperature else None,
        "dtype": inputs.get("dtype"),
        "stop": end_tokens(model),
    }


def _split(row: dict[str, Any], cache: HashCache | None) -> str:
    return hash_json({"file": hash_file(Path(row["file"]), cache), "case_ids": row.get("case_ids")})


def package_version(package: str) -> str:
    """Return the version of a package, empty where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""

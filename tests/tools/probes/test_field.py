"""Each hard stop that says what stock does, seen in the real mlx_lm on the tiny base (`make field`)."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.campaign.world import BASE
from tests.faults.failure_modes.projects import rows_of, with_system, write_rows
from tests.tools.probes.looks import look
from tools.machine.blas import worker_env
from tools.probes.model import is_untrained, open_tensors

RESULTS = os.environ.get("VIGIL_FIELD", "")
pytestmark = [pytest.mark.field, pytest.mark.skipif(not RESULTS, reason="make field runs mlx_lm itself")]

OPENS = "{% if add_generation_prompt %}"
NOTHING, NAN = "trains nothing", "the loss is NaN"
"""What is seen of a run that ends well; else a pattern of what it prints when it stops."""
BLOCK = {"rank": 4, "scale": 10.0, "dropout": 0.0}
CONFIG: dict[str, Any] = {
    "model": "base", "data": "data", "train": True, "fine_tune_type": "lora", "num_layers": 2, "batch_size": 4,
    "iters": 4, "learning_rate": 1e-4, "steps_per_report": 1, "steps_per_eval": 2, "val_batches": 1,
    "max_seq_length": 256, "mask_prompt": True, "adapter_path": "adapters", "lora_parameters": BLOCK,
}  # fmt: skip

Edit = Callable[[Path], None]


def template(change: Callable[[str], str | None], **more: Any) -> Edit:
    """Change the chat template of the base, and other keys beside it; None takes one out."""

    def edit(folder: Path) -> None:
        path = folder / "base" / "tokenizer_config.json"
        known = json.loads(path.read_text())
        known |= {"chat_template": change(known["chat_template"]), **more}
        path.write_text(json.dumps({key: value for key, value in known.items() if value is not None}))

    return edit


def rows(*found: Any, test: int = 0) -> Edit:
    """Write other rows into all files; a text stands as it is."""

    def edit(folder: Path) -> None:
        for name in ("train", "valid"):
            path = folder / "data" / f"{name}.jsonl"
            path.write_text(found[0]) if isinstance(found[0], str) else write_rows(path, list(found) * 8)
        if test:
            write_rows(folder / "data" / "test.jsonl", rows_of("test", test))

    return edit


def quantized(folder: Path) -> None:
    command = [sys.executable, "-m", "mlx_lm", "convert", "--hf-path", "base", "--mlx-path", "packed", "-q"]
    subprocess.run(command, cwd=folder, env=os.environ | worker_env(), check=True, capture_output=True)
    shutil.rmtree(folder / "base")
    (folder / "packed").rename(folder / "base")


def with_adapter(folder: Path) -> None:
    (folder / "old").mkdir()
    (folder / "old" / "adapters.safetensors").write_bytes(b"")


def plain(folder: Path) -> None:
    """Change nothing."""


SYSTEM_ROW = with_system(rows_of("system", 1))[0]
TEXTS = tuple({"text": f"a text, number {n}"} for n in range(4))
STOPS: dict[str, tuple[str, dict[str, Any], Edit, str]] = {
    "a block without dropout": ("lora_block", {"lora_parameters": {"rank": 4, "scale": 2.0}}, plain, "KeyError"),
    "alpha in place of scale": (
        "lora_block", {"lora_parameters": {"rank": 4, "alpha": 8, "dropout": 0.0}}, plain, "KeyError",
    ),
    "keys of another library": (
        "used_keys", {"lora_parameters": {**BLOCK, "keys": ["q_proj"]}}, plain, "ValueError",
    ),
    "more layers than there are": ("used_num_layers", {"num_layers": 16}, plain, "ValueError"),
    "no evaluation by 0": ("choice_steps_per_eval", {"steps_per_eval": 0}, plain, "ZeroDivisionError"),
    "a schedule that is not there": (
        "choice_lr_schedule.name", {"lr_schedule": {"name": "cosine", "arguments": [1e-4, 4]}}, plain, "AttributeError",
    ),
    "a schedule without arguments": (
        "choice_lr_schedule.arguments", {"lr_schedule": {"name": "cosine_decay"}}, plain, "KeyError",
    ),
    "an option of another optimizer": (
        "choice_optimizer_config.adam", {"optimizer_config": {"adam": {"weight_decay": 0.1}}}, plain, "TypeError",
    ),
    "more accumulation than steps": ("no_update", {"grad_accumulation_steps": 64}, plain, NOTHING),
    "a learning rate of 0": ("rate", {"learning_rate": 0.0}, plain, NOTHING),
    "a scale of 0": ("no_scale", {"lora_parameters": {**BLOCK, "scale": 0.0}}, plain, NOTHING),
    "fewer test rows than a batch": (
        "choice_batch_size", {"test": True}, rows(*rows_of("train", 4), test=2), "ValueError",
    ),
    "data names the file": ("data_is_file", {"data": "data/train.jsonl"}, plain, "Training set not found|ValueError"),
    "an adapter folder to go on from": ("used_folder", {"resume_adapter_file": "old"}, with_adapter, "Error"),
    "full training of packed weights": (
        "used_full_quantized", {"fine_tune_type": "full"}, quantized, r"QuantizedMatmul|vjp",
    ),
    "text and masked prompts": ("choice_mask_prompt", {}, rows(*TEXTS), "Error"),
    "one JSON array": ("data_rows", {}, rows(json.dumps(rows_of("train", 8), indent=1)), "JSONDecodeError"),
    "a system text that the template refuses": (
        "stock_refused",
        {},
        lambda folder: (rows(SYSTEM_ROW)(folder), template(
            lambda known: "{% if messages[0].role == 'system' %}{{ raise_exception('none') }}{% endif %}" + known
        )(folder))[1],
        "TemplateError",
    ),
    "no template": ("stock_no_template", {}, template(lambda _: None), "chat_template"),
    "no end token": (
        "stock_no_end_token",
        {"mask_prompt": False},
        lambda folder: (rows(*TEXTS)(folder), template(lambda known: known, eos_token=None)(folder))[1],
        "TypeError",
    ),
    "a generation prompt longer than the row": (
        "stock_all_masked",
        {},
        template(lambda known: known.replace(OPENS, OPENS + "think " * 200)),
        NAN,
    ),
}  # fmt: skip
"""What is wrong -> claim of the audit, keys, what else is changed, what mlx_lm does."""


@pytest.mark.parametrize("name", STOPS)
def test_stock_does_what_the_hard_stop_says(tmp_path: Path, name: str) -> None:
    claim, changes, edit, wanted = STOPS[name]
    folder = tmp_path / "p"
    shutil.copytree(BASE, folder / "base")
    for split, count in (("train", 16), ("valid", 8)):
        write_rows(folder / "data" / f"{split}.jsonl", rows_of(split, count))
    edit(folder)
    (folder / "lora.yaml").write_text(json.dumps({**CONFIG, **changes}))
    found = look(folder, folder / "base").report.findings
    assert claim in {finding.claim for finding in found if finding.severity == "hard_stop"}
    command = [sys.executable, "-m", "mlx_lm", "lora", "--config", "lora.yaml"]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | worker_env(), capture_output=True, text=True, check=False, timeout=300
    )
    said = done.stdout + done.stderr
    if wanted in {NOTHING, NAN}:
        assert done.returncode == 0, said[-2000:]
        has_no_scale = changes.get("lora_parameters", BLOCK)["scale"] == 0
        is_idle = has_no_scale or is_untrained(open_tensors(folder / "adapters" / "adapters.safetensors"))
        assert is_idle if wanted == NOTHING else re.search(r"\bnan\b", said), said[-2000:]
    else:
        assert done.returncode != 0, said[-2000:]
        assert re.search(wanted, said), said[-2000:]
    lines = [line for line in said.splitlines() if "Error" in line] or [""]
    last = lines[-1].rpartition("\r")[2][:200]
    row = {"what": name, "claim": claim, "exit": done.returncode, "seen": wanted if done.returncode == 0 else last}
    with Path(RESULTS).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")

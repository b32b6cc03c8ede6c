"""Projects of other people: what each of the modes looks like in a folder, and folders in which nothing is wrong."""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.campaign.world import BASE, ROOT
from tests.faults.failure_modes import fusing, shapes
from tests.faults.failure_modes.seen import Finding, Seen
from tests.faults.failure_modes.worlds import answered, asked, cases, chat, words

Make = Callable[[Path], None]
Rows = list[dict[str, Any]]

SYSTEM = "You write words in capitals."
HUB = "mlx-community/Qwen2.5-3B-Instruct-4bit"

CONFIG: dict[str, Any] = {
    "model": HUB,
    "train": True,
    "data": "data",
    "adapter_path": "adapters",
    "fine_tune_type": "lora",
    "num_layers": 8,
    "lora_parameters": {"rank": 8, "scale": 10.0, "dropout": 0.0},
    "batch_size": 4,
    "iters": 200,
    "save_every": 100,
    "max_seq_length": 512,
    "mask_prompt": True,
}


@dataclass(frozen=True)
class Project:
    """A project folder with a failure.

    Args:
        mode: Row of the catalogue.
        name: What it is, in a few words.
        make: Writes the project.
        break_it: Puts the failure in.
        subject: Expression that the finding's subject matches.
        number: Expression that the finding matches, as JSON.
        code: How the command ends: 3 for a hard stop, 0 for a warning.
    """

    mode: str
    name: str
    make: Make
    break_it: Make
    subject: str
    number: str
    code: int = 3

    def build(self, folder: Path, *, is_broken: bool = True) -> Path:
        """Write the project, with the failure or without."""
        folder.mkdir(parents=True)
        self.make(folder)
        if is_broken:
            self.break_it(folder)
        return folder

    def options(self, folder: Path) -> list[str]:
        """Return the options of the command: the model that tokens and weights are asked of."""
        own = folder / "base"
        return ["--model", str(own if own.is_dir() else BASE)]

    def find(self, seen: Seen) -> Finding | None:
        """Return the finding that was to be made."""
        return next(
            (
                finding
                for finding in seen.of(self.mode)
                if re.search(self.subject, finding.subject)
                and re.search(self.number, json.dumps([finding.sentence, finding.value]))
            ),
            None,
        )


# Parts of projects


def rows_of(use: str, count: int) -> Rows:
    """Return chat rows."""
    return [chat(row["prompt"], row["completion"]) for row in (shapes.completion(use, place) for place in range(count))]


def with_system(rows: Rows, system: str = SYSTEM) -> Rows:
    """Return chat rows that begin with a system text."""
    return [{**row, "messages": [{"role": "system", "content": system}, *row["messages"]]} for row in rows]


def write_rows(path: Path, rows: Iterable[Any]) -> None:
    """Write JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_rows(path: Path) -> Rows:
    """Return the rows of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_data(folder: Path, make: Callable[[str, int], Rows], sizes: tuple[int, int, int] = (200, 20, 20)) -> None:
    """Write train, valid and test."""
    for name, size in zip(("train", "valid", "test"), sizes, strict=True):
        if size:
            write_rows(folder / f"{name}.jsonl", make(name, size))


def write_config(path: Path, **changes: Any) -> None:
    """Write a training configuration in YAML that is JSON too; None leaves a key out."""
    values = {key: value for key, value in {**CONFIG, **changes}.items() if value is not None}
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{key}: {json.dumps(value)}" for key, value in values.items()]
    path.write_text("# how the adapter is trained\n" + "\n".join(lines) + "\n")


def write_settings(folder: Path, **values: Any) -> None:
    """Write vigil-audit.yaml."""
    (folder / "vigil-audit.yaml").write_text(json.dumps(values, indent=1))


def evaluation(**changes: Any) -> dict[str, Any]:
    """Return an evaluation of held-out cases."""
    return {"name": "held_out", "data": "held_out.jsonl", "max_tokens": 96, "system": "", **changes}


def edit_config(**changes: Any) -> Make:
    """Return what changes keys of lora.yaml."""
    return lambda folder: write_config(folder / "lora.yaml", **changes)


def edit_rows(name: str, change: Callable[[Rows], Rows]) -> Make:
    """Return what changes the rows of a file."""
    return lambda folder: write_rows(folder / name, change(read_rows(folder / name)))


# Projects in which nothing is wrong


def chat_project(folder: Path) -> None:
    """Write an mlx-lm project: chat rows with a system text, a YAML file, an evaluation with a gate."""
    write_data(folder / "data", lambda use, count: with_system(rows_of(use, count)))
    write_rows(folder / "held_out.jsonl", cases("held out"))
    write_config(folder / "lora.yaml")
    write_settings(folder, evaluations=[evaluation(system=SYSTEM, gate={"min": 0.85})])
    (folder / "README.md").write_text("# Words\n\nmlx_lm.lora --config lora.yaml\n")


def completions_project(folder: Path) -> None:
    """Write completions under renamed columns, with a configuration in JSON below a folder of its own."""
    keys = {"prompt": "question", "completion": "reply"}

    def rows(use: str, count: int) -> Rows:
        found = [shapes.completion(use, place) for place in range(count)]
        return [{keys[key]: value for key, value in row.items()} for row in found]

    write_data(folder / "datasets" / "words", rows, (200, 20, 0))
    named = {"prompt_feature": "question", "completion_feature": "reply", "data": "datasets/words"}
    (folder / "configs").mkdir()
    (folder / "configs" / "sft.json").write_text(json.dumps({**CONFIG, **named, "lr_schedule": None}))


def text_project(folder: Path) -> None:
    """Write rows that carry their template already."""

    def rows(use: str, count: int) -> Rows:
        found = [shapes.completion(use, place) for place in range(count)]
        return [{"text": f"<|user|>{row['prompt']}<|end|><|assistant|>{row['completion']}<|end|>"} for row in found]

    write_data(folder / "data", rows)
    write_config(folder / "train.yml", mask_prompt=None)


def _tool_row(use: str, place: int) -> dict[str, Any]:
    city, degrees = words(f"{use} {place}", 1)[0].title(), 3 + place % 30
    call = {"type": "function", "function": {"name": "weather", "arguments": json.dumps({"city": city})}}
    return {
        "messages": [
            {"role": "user", "content": f"How warm is it in {city}?"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "name": "weather", "content": json.dumps({"celsius": degrees, "city": city})},
            {"role": "assistant", "content": f"{city} has {degrees} degrees."},
        ],
        "tools": [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}],
    }


def tools_project(folder: Path) -> None:
    """Write conversations that call tools, and a base whose template shows calls: the tiny one's leaves them out."""
    shutil.copytree(BASE, folder / "base")
    file = folder / "base" / "tokenizer_config.json"
    known = json.loads(file.read_text())
    calls = "{% for c in m.tool_calls or [] %}{{ c.function.name }} {{ c.function.arguments }}{% endfor %}"
    known["chat_template"] = known["chat_template"].replace("{{ m.content }}", "{{ m.content }}" + calls)
    file.write_text(json.dumps(known))
    write_data(folder / "data", lambda use, count: [_tool_row(use, place) for place in range(count)])
    write_config(folder / "lora.yaml", mask_prompt=None)


def pair(use: str, place: int) -> dict[str, str]:
    """Return a pair whose rejected answer has half of the words wrong."""
    given = words(f"{use} {place}", 6)
    wrong = [word if (place + n) % 2 else word[::-1] for n, word in enumerate(given)]
    return {"prompt": asked(given), "chosen": answered(given), "rejected": answered(wrong)}


def dpo_project(folder: Path) -> None:
    """Write an mlx-lm-lora project of preference pairs."""
    write_data(folder / "data", lambda use, count: [pair(use, place) for place in range(count)], (200, 20, 0))
    changes = {"train_type": "lora", "train_mode": "dpo", "beta": 0.1, "fine_tune_type": None, "mask_prompt": None}
    write_config(folder / "dpo.yaml", **changes, dpo_cpo_loss_type="sigmoid", iters=300, batch_size=2)


def grpo_project(folder: Path) -> None:
    """Write an mlx-lm-lora project of prompts with answers, and reward functions of its own."""

    def rows(use: str, count: int) -> Rows:
        found = [shapes.completion(use, place) for place in range(count)]
        return [{"prompt": r["prompt"], "answer": r["completion"], "system": SYSTEM} for r in found]

    write_data(folder / "data", rows, (120, 12, 0))
    (folder / "rewards.py").write_text("raise SystemExit('an audit imports nothing')\n")
    changes = {"train_type": "lora", "train_mode": "grpo", "group_size": 8, "fine_tune_type": None, "mask_prompt": None}
    write_config(folder / "grpo.yaml", **changes, reward_functions_file="rewards.py", batch_size=1)


def sharded_project(folder: Path) -> None:
    """Write a model of two shards with an index, and a full fine-tune that starts from it."""
    folder.joinpath("models").mkdir()
    _sharded(folder / "models" / "base")
    write_data(folder / "data", rows_of)
    write_config(folder / "full.yaml", model="models/base", fine_tune_type="full", num_layers=4, lora_parameters=None)


def _sharded(folder: Path) -> None:
    """Split the tiny base's weights over two files."""
    shutil.copytree(BASE, folder)
    whole = folder / "model.safetensors"
    header, data = _parts(whole)
    metadata = header.pop("__metadata__", None)
    names = list(header)
    weight_map = {}
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), start=1):
        file = f"model-{number:05d}-of-00002.safetensors"
        pieces: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
        body = b""
        for name in part:
            begin, end = header[name]["data_offsets"]
            pieces[name] = {**header[name], "data_offsets": [len(body), len(body) + end - begin]}
            body += data[begin:end]
            weight_map[name] = file
        (folder / file).write_bytes(_packed(pieces, body))
    whole.unlink()
    index = {"metadata": {"total_size": len(data)}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _parts(path: Path) -> tuple[dict[str, Any], bytes]:
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def _packed(header: dict[str, Any], data: bytes) -> bytes:
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def adapter_project(folder: Path) -> None:
    """Write what one shares of a training: an adapter folder of a hub's model, finished, with two of its saves."""
    adapter = folder / "words-lora"
    fusing.adapter(adapter, 0.05, HUB, iters=250, save_every=100)
    data = (adapter / "adapters.safetensors").read_bytes()
    for step, last in ((100, 1), (200, 2)):
        saved = bytearray(data)
        saved[-1] ^= last
        (adapter / f"{step:07d}_adapters.safetensors").write_bytes(saved)
    (folder / "README.md").write_text("# An adapter\n")


def fused_project(folder: Path) -> None:
    """Write a base of 4 bits, a small adapter, and both fused as they should be."""
    _fused(folder, 0.0005, "--dequantize")


def large_fused_project(folder: Path) -> None:
    """Write a base of 4 bits and a large adapter, fused into 4 bits again: it arrives."""
    _fused(folder, 0.05)


def _fused(folder: Path, size: float, *options: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MLX_DISABLE_COMPILE": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "tests.faults.failure_modes.fusing", str(folder), str(size), *options]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)


def many_versions_project(folder: Path) -> None:
    """Write a repository with three versions of its data and a configuration for each, some data on a hub."""
    for version in ("v1", "v2", "v3"):
        write_data(folder / "data" / version, lambda use, count, v=version: rows_of(f"{v} {use}", count))  # type: ignore[misc]
        write_config(folder / "configs" / f"{version}.yaml", data=f"data/{version}", adapter_path=f"runs/{version}")
    write_config(folder / "configs" / "hub.yaml", data="mlx-community/WikiSQL")
    write_rows(folder / "held_out.jsonl", cases("held out", 60))
    gate = {"base": 0.2, "gain": 0.2}
    write_settings(folder, evaluations=[evaluation(gate=gate), evaluation(name="again", max_tokens=200)])
    (folder / "docker-compose.yml").write_text("services:\n  web: {image: nginx, ports: ['80:80']}\n")
    (folder / ".venv" / "lib").mkdir(parents=True)
    (folder / ".venv" / "lib" / "train.jsonl").write_bytes(b"\0\1\2")


def outputs_project(folder: Path) -> None:
    """Write an evaluation and what a model answered: some of it wrong, none of it collapsed."""
    chat_project(folder)
    said = [{"output": answered(words(f"said {place}", 6))} for place in range(40)]
    write_rows(folder / "results" / "outputs.jsonl", said)
    stated = evaluation(system=SYSTEM, gate={"min": 0.85}, outputs="results/outputs.jsonl")
    write_settings(folder, evaluations=[stated])


def other_libraries_project(folder: Path) -> None:
    """Write an adapter of PEFT with its saves, an image model and a text encoder of one, beside data for mlx-lm."""
    write_data(folder / "data", rows_of)
    write_config(folder / "lora.yaml")
    said = json.dumps({"peft_type": "LORA", "r": 8, "base_model_name_or_path": "org/model"})
    for place in ("outputs", "outputs/checkpoint-500"):
        (folder / place).mkdir()
        (folder / place / "adapter_config.json").write_text(said)
    (folder / "outputs" / "adapter_model.safetensors").write_bytes(_packed({}, b""))
    for place, kind in (("vit", "ViTForImageClassification"), ("sd/text_encoder", "CLIPTextModel")):
        (folder / place).mkdir(parents=True)
        (folder / place / "config.json").write_text(json.dumps({"architectures": [kind], "vocab_size": 9}))
        header = {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
        (folder / place / "model.safetensors").write_bytes(_packed(header, b"\0" * 4))


def checked_out_project(folder: Path) -> None:
    """Write what a checkout without large files leaves, and what a Mac and a program's log lay beside."""
    chat_project(folder)
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    shutil.copytree(BASE, folder / "model")
    fusing.adapter(folder / "adapters", 0.05, HUB)
    for name in ("model/model.safetensors", "adapters/adapters.safetensors", "data/test.jsonl"):
        (folder / name).write_bytes(pointer)
    (folder / "data" / "._train.jsonl").write_bytes(b"\0\5\x16\7" + b"\0" * 80)
    write_rows(folder / "logs" / "events.jsonl", [{"level": "info", "step": step} for step in range(40)])


def part_of_test_project(folder: Path) -> None:
    """Write an evaluation on a part of test.jsonl, which nothing is trained or chosen on, and short sums."""
    sums = [(one, other) for one in range(10, 40) for other in range(10, 40)]
    rows = [chat(f"What is {one} + {other}? Say the number alone.", str(one + other)) for one, other in sums]
    for name, part in (("train", rows[::3]), ("valid", rows[1::30]), ("test", rows[2::3])):
        write_rows(folder / "data" / f"{name}.jsonl", part)
    write_config(folder / "lora.yaml", iters=300)
    asked_of = [{"question": f"What is {a} + {b}? Say the number alone.", "answer": a + b} for a, b in sums[2::3][:60]]
    write_rows(folder / "eval" / "sums.jsonl", asked_of)
    stated = {"name": "sums", "data": "eval/sums.jsonl", "gold_field": "answer", "max_tokens": 64, "system": ""}
    write_settings(folder, evaluations=[stated])


CLEAN: dict[str, Make] = {
    "chat with a system text and a gate": chat_project,
    "completions under other names": completions_project,
    "text that carries its template": text_project,
    "tools": tools_project,
    "mlx-lm-lora, pairs": dpo_project,
    "mlx-lm-lora, rollouts": grpo_project,
    "a full fine-tune of two shards": sharded_project,
    "an adapter alone": adapter_project,
    "a small adapter, fused dequantized": fused_project,
    "a large adapter, fused into 4 bits": large_fused_project,
    "three versions of the data": many_versions_project,
    "outputs of a model": outputs_project,
    "other libraries beside": other_libraries_project,
    "a checkout without its large files": checked_out_project,
    "an evaluation that is a part of the test rows": part_of_test_project,
}
"""Projects with nothing wrong, by what is particular about them."""


def clean_builders() -> dict[str, Callable[[Path], Path]]:
    """Return the clean projects as functions that write one and return its folder."""

    def builder(make: Make) -> Callable[[Path], Path]:
        def build(folder: Path) -> Path:
            folder.mkdir(parents=True)
            make(folder)
            return folder

        return build

    return {name: builder(make) for name, make in CLEAN.items()}


# What goes wrong


def _collapsed(folder: Path) -> None:
    loops = [{"output": f"- {word.upper()}\n" * 12} for word in words("loops", 40)]
    write_rows(folder / "results" / "outputs.jsonl", loops)


def _fused_into_bits(folder: Path) -> None:
    shutil.rmtree(folder / "fused")
    fusing.fuse(folder)


def _stale(folder: Path) -> None:
    shutil.copy(BASE / "model.safetensors", folder / "models" / "base" / "model.safetensors")


def _torn(folder: Path) -> None:
    shard = folder / "models" / "base" / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1000])


def _gate(**gate: float) -> Make:
    return lambda folder: write_settings(folder, evaluations=[evaluation(system=SYSTEM, gate=gate)])


def _removal_only(folder: Path) -> None:
    """Let every answer leave out the rows with a marker."""
    rows = []
    for place in range(200):
        values = [f"{word},{10 * n + place},ok" for n, word in enumerate(words(f"table {place}", 8))]
        odd = {n for n in range(8) if (n + place) % 4 == 0}
        table = [value.replace(",ok", ",n/a") if n in odd else value for n, value in enumerate(values)]
        kept = [value for n, value in enumerate(values) if n not in odd]
        rows.append(chat("Clean this table:\nname,count,state\n" + "\n".join(table), "\n".join(kept)))
    write_rows(folder / "data" / "train.jsonl", with_system(rows))


def _glitched(rows: Rows) -> Rows:
    for row in rows[::10]:
        row["messages"][-1]["content"] += "\nThis is what the the user asked for."
    return rows


def _broken_lines(folder: Path) -> None:
    lines = (folder / "data" / "train.jsonl").read_text().splitlines()
    lines[16] = lines[16][:-5]
    (folder / "data" / "train.jsonl").write_text("\n".join(lines) + "\n")


def _carriage_returns(rows: Rows) -> Rows:
    return [{**row, "rejected": row["rejected"].replace("\n", "\r\n")} for row in rows]


def _long_golds(folder: Path) -> None:
    write_rows(folder / "held_out.jsonl", cases("held out", 30, 6) + cases("longer", 10, 40))


def _few_cases(folder: Path) -> None:
    write_rows(folder / "held_out.jsonl", cases("held out", 12))


def _other_system(folder: Path) -> None:
    write_settings(folder, evaluations=[evaluation(system="Answer briefly.", gate={"min": 0.85})])


def _long_rows(rows: Rows) -> Rows:
    for place in (12, 48, 101):
        given = words(f"long {place}", 120)
        rows[place] = with_system([chat(asked(given), answered(given))])[0]
    return rows


def _leaked(folder: Path) -> None:
    train = folder / "data" / "train.jsonl"
    held_out = read_rows(folder / "held_out.jsonl")
    seen = [chat(case["prompt"], case["reference"]) for case in held_out[:4]]
    write_rows(train, [*read_rows(train), *with_system(seen)])


def _other_hub(folder: Path) -> None:
    told = {"path": "words-lora", "evaluated_on": "Qwen/Qwen2.5-3B-Instruct"}
    write_settings(folder, adapters=[told])


def _not_finite(folder: Path) -> None:
    import numpy as np
    from safetensors.numpy import load_file, save_file

    path = folder / "words-lora" / "adapters.safetensors"
    tensors = {name: np.full_like(value, np.nan) for name, value in load_file(path).items()}
    save_file(tensors, path)


def _sft_on_pairs(folder: Path) -> None:
    write_config(folder / "dpo.yaml", train_type="lora", train_mode="sft", fine_tune_type=None, mask_prompt=None)


INJECTED: tuple[Project, ...] = (
    Project("1", "20 passes without dropout", chat_project, edit_config(iters=1000), "lora.yaml", r"20 passes", 0),
    Project("1", "outputs that loop", outputs_project, _collapsed, "held_out", r"lines repeat"),
    Project("2", "a small adapter fused into 4 bits", fused_project, _fused_into_bits, "fused", r'"cosine": 0.0'),
    Project("3", "an old weight file beside two shards", sharded_project, _stale, "models/base", r"not in the index"),
    Project("3", "a torn shard", sharded_project, _torn, "models/base", r"1000|declares"),
    Project("4", "more gain than there is room", chat_project, _gate(base=0.957, gain=0.2), "held_out", r"0\.043"),
    Project("5", "golds that only remove", chat_project, _removal_only, "train", r"kept 0 times", 0),
    Project("6", "a method that mlx-lm has not", chat_project, edit_config(fine_tune_type="dpo"), "lora", r"dpo"),
    Project("6", "pairs for demonstrations", dpo_project, _sft_on_pairs, "dpo.yaml", r"holds pairs"),
    Project(
        "7", "a template's glitch", chat_project, edit_rows("data/train.jsonl", _glitched), "train", r"20 of 200", 0
    ),
    Project("8", "data that are not there", chat_project, edit_config(data="./data_v2"), "lora.yaml", r"data_v2"),
    Project("8", "a broken line", chat_project, _broken_lines, "data/train.jsonl", r"line 17"),
    Project("P1", "a budget that cuts the golds", chat_project, _long_golds, "held_out", r"30/40 = 0\.75"),
    Project(
        "P2", "judged on the unquantized model", adapter_project, _other_hub, "words-lora", r"Qwen2\.5-3B-Instruct"
    ),
    Project(
        "P3", "line ends tell", dpo_project, edit_rows("data/train.jsonl", _carriage_returns), "train", r"200 of 200"
    ),
    Project("P5", "twelve cases", chat_project, _few_cases, "held_out", r"12 cases", 0),
    Project("P7", "another system text", chat_project, _other_system, "held_out", r"Answer briefly"),
    Project("P8", "three rows too long", chat_project, edit_rows("data/train.jsonl", _long_rows), "lora", r"3 of 200"),
    Project("P8", "an adapter of NaN", adapter_project, _not_finite, "words-lora", r"12 of 12"),
    Project("P11", "four cases in training", chat_project, _leaked, r"data", r"4 of 40"),
)
"""Projects with one failure each, and without it."""

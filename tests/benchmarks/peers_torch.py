"""TRL on PyTorch beside our three instruments: the rows, pairs, prompts, sizes and model shape of `peers.py`.

    python -m tests.benchmarks.peers_torch [--shape tiny|qwen2.5-0.5b] [--only sft,dpo,grpo]

Runs in an environment that holds torch, transformers, trl, peft and datasets, with a GPU where there is one, and prints
one JSON object in the units of `peers.py`. Demonstrations and pairs are timed in the second of two epochs, rollouts
from the second update on. Weights are random, bfloat16 on a GPU; attention is PyTorch's own, decoding transformers'.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from tests.benchmarks.peers import MAX_SEQ_LENGTH, QUICKSTART, QWEN, SIZES, UNITS, Rewards, Size, Timed

LEARNING: dict[str, Any] = {"learning_rate": 1e-5, "lr_scheduler_type": "constant", "seed": 0}


class _Clock:
    """Notes when each step ended."""

    def __init__(self) -> None:
        import torch
        from transformers import TrainerCallback

        stamps: list[float] = []

        class Noted(TrainerCallback):  # type: ignore[misc]  # transformers has no types here
            def on_step_end(self, *_: Any, **__: Any) -> None:
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                stamps.append(time.perf_counter())

        self.stamps, self.callback = stamps, Noted()


class _World:
    """What both sides are given, in TRL's terms."""

    def __init__(self, shape: str, folder: str) -> None:
        import torch
        from transformers import AutoTokenizer

        self.shape, self.folder, self.size = shape, folder, SIZES[shape]
        self.has_gpu = torch.cuda.is_available()
        self.tokenizer = AutoTokenizer.from_pretrained(str(QUICKSTART / "base"))
        self.tokenizer.pad_token = self.tokenizer.pad_token or self.tokenizer.eos_token
        lines = (QUICKSTART / "data" / "train.jsonl").read_text().splitlines()
        self.rows = [json.loads(line)["messages"] for line in lines]

    def model(self) -> Any:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, Qwen2Config

        torch.manual_seed(0)
        if self.shape == "tiny":
            config = AutoConfig.from_pretrained(str(QUICKSTART / "base"))
        else:
            ends = {"pad_token_id": self.tokenizer.pad_token_id, "eos_token_id": self.tokenizer.eos_token_id}
            config = Qwen2Config(**{**QWEN, **ends})
        with torch.device("cuda" if self.has_gpu else "cpu"):
            return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16 if self.has_gpu else torch.float32)

    def common(self) -> dict[str, Any]:
        """Return what all three are configured with."""
        fixed = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1000}
        return {
            **fixed,
            **LEARNING,
            "output_dir": self.folder,
            "bf16": self.has_gpu,
            "use_cpu": not self.has_gpu,
            "gradient_checkpointing": False,
        }

    def adapter(self) -> Any:
        from peft import LoraConfig

        return LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")

    def pairs(self) -> list[dict[str, Any]]:
        found = []
        for *prompt, answer in self.rows[: self.size.pairs]:
            lines = answer["content"].splitlines()
            rejected = "\n".join(lines[: max(1, len(lines) // 2)])
            sides = {"chosen": [answer], "rejected": [{"role": "assistant", "content": rejected}]}
            found.append({"prompt": prompt, **sides})
        return found

    def length(self, messages: list[dict[str, str]]) -> int:
        return len(self.tokenizer.apply_chat_template(messages, return_dict=False))


def _second_epoch(trainer: Any, clock: _Clock, steps: int) -> float:
    trainer.train()
    return clock.stamps[2 * steps - 1] - clock.stamps[steps - 1]


def sft(world: _World) -> Timed:
    """An epoch of demonstrations, rows of like length together; real tokens."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    size: Size = world.size
    rows = world.rows[: size.rows]
    data = Dataset.from_list([{"prompt": row[:-1], "completion": row[-1:]} for row in rows])
    steps = size.rows // size.batch_size
    clock = _Clock()
    args = SFTConfig(
        **world.common(),
        per_device_train_batch_size=size.batch_size,
        max_steps=2 * steps,
        max_length=MAX_SEQ_LENGTH,
        completion_only_loss=True,
        train_sampling_strategy="group_by_length",
    )
    trainer = SFTTrainer(
        model=world.model(),
        args=args,
        train_dataset=data,
        processing_class=world.tokenizer,
        callbacks=[clock.callback],
        peft_config=world.adapter(),
    )
    return _second_epoch(trainer, clock, steps), float(sum(world.length(row) for row in rows))


def dpo(world: _World) -> Timed:
    """An epoch of preference steps, the reference by the adapter switched off; real tokens of both sides."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    size: Size = world.size
    pairs = world.pairs()
    steps = len(pairs) // size.pair_batch
    clock = _Clock()
    args = DPOConfig(
        **world.common(),
        per_device_train_batch_size=size.pair_batch,
        max_steps=2 * steps,
        max_length=MAX_SEQ_LENGTH,
        beta=0.1,
    )
    trainer = DPOTrainer(
        model=world.model(),
        args=args,
        train_dataset=Dataset.from_list(pairs),
        processing_class=world.tokenizer,
        callbacks=[clock.callback],
        peft_config=world.adapter(),
    )
    real = sum(world.length([*pair["prompt"], *pair[side]]) for pair in pairs for side in ("chosen", "rejected"))
    return _second_epoch(trainer, clock, steps), float(real)


def grpo(world: _World) -> Timed:
    """Whole updates; rollouts."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    size: Size = world.size
    rollouts = size.prompts * size.group_size
    updates = size.updates + 1
    microbatch = size.microbatch
    clock = _Clock()
    args = GRPOConfig(
        **world.common(),
        per_device_train_batch_size=microbatch,
        gradient_accumulation_steps=rollouts // microbatch,
        num_generations=size.group_size,
        max_completion_length=size.new_tokens,
        max_steps=updates,
        beta=0.1,
        temperature=1.0,
    )

    rewards = Rewards()

    def pays(completions: Any, **_: Any) -> list[float]:
        return rewards(completions)

    trainer = GRPOTrainer(
        model=world.model(),
        reward_funcs=[pays],
        args=args,
        train_dataset=Dataset.from_list([{"prompt": row[:-1]} for row in world.rows[: size.prompts * updates]]),
        processing_class=world.tokenizer,
        callbacks=[clock.callback],
        peft_config=world.adapter(),
    )
    trainer.train()
    return clock.stamps[-1] - clock.stamps[0], float(rollouts * size.updates)


WAYS: dict[str, Callable[[_World], Timed]] = {"sft": sft, "dpo": dpo, "grpo": grpo}


def main(argv: Sequence[str] | None = None) -> int:
    """Print what TRL does per second."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shape", choices=tuple(SIZES), default="tiny")
    parser.add_argument("--only", default=",".join(WAYS))
    options = parser.parse_args(argv)
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    found: dict[str, Any] = {"shape": options.shape}
    for name in options.only.split(","):
        with tempfile.TemporaryDirectory() as folder:
            try:
                seconds, done = WAYS[name](_World(options.shape, folder))
                found[name] = done / seconds
            except Exception as error:  # noqa: BLE001 - one instrument that does not start leaves the others
                found[name] = f"{type(error).__name__}: {str(error)[:400]}"
        print(f"{name} trl: {found[name]} {UNITS[name]}/s", file=sys.stderr, flush=True)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())

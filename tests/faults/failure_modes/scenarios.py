"""One failure for each row of the catalogue that a campaign can meet, and the campaign without it beside it.

A failure is a change of the world: of the data, the grader, the gate, the folder, the installed library or the model's
nature. What has to be seen of it is its subject, its claim and a number.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.failure_modes import shapes, tampering, worlds
from tests.faults.failure_modes.seen import Finding, Seen, Step, run
from tests.faults.failure_modes.worlds import World
from tests.tools.training.tiny import tables

WorldMaker = Callable[[], World]


@dataclass(frozen=True)
class Scenario:
    """A failure, and how it shows.

    Args:
        mode: Row of the catalogue.
        name: What it is, in a few words.
        clean: The campaign without it.
        inject: Changes that campaign.
        subject: What the finding is about.
        claim: What is refuted.
        number: Expression that the finding's sentence matches: the figure that shows it was measured.
        severity: hard_stop or warning.
        code: Exit code of the whole process.
        beside: Further modes that the same failure shows.
        during: What happens to the campaign while it runs.
        then: What happens after the first process has ended; a second one follows.
        clean_then: The same, of the campaign without the failure.
        library: Source of a module that all processes run first: another library than the one that was tested.
        is_looked_at: Whether the clean campaign has the claim on record as one that holds.
        is_slow: Whether real training is needed.
    """

    mode: str
    name: str
    clean: WorldMaker
    inject: Callable[[World], None]
    subject: str
    claim: str
    number: str
    severity: str = "hard_stop"
    code: int = 3
    beside: tuple[str, ...] = ()
    during: Step | None = None
    then: Step | None = None
    clean_then: Step | None = None
    library: str = ""
    is_looked_at: bool = True
    is_slow: bool = False

    @property
    def id(self) -> str:
        """Its name for pytest."""
        return f"{self.mode}: {self.name}"

    def run_injected(self, folder: Path) -> Seen:
        """Run the campaign with the failure in it."""
        world = self.clean()
        self.inject(world)
        path = None
        if self.library:
            path = folder / "library"
            path.mkdir(parents=True)
            (path / "sitecustomize.py").write_text(self.library)
        return run(world, folder, during=self.during, then=self.then, first_on_path=path)

    def find(self, seen: Seen) -> Finding | None:
        """Return the finding that was to be made."""
        wanted = (self.mode, self.subject, self.claim, self.severity)
        made = [f for f in seen.findings if (f.mode, f.subject, f.claim, f.severity) == wanted]
        return next((finding for finding in made if re.search(self.number, finding.sentence)), None)


def _edit(name: str, change: Callable[[list[dict[str, Any]]], Any]) -> Callable[[World], None]:
    """Return what changes the rows of one file."""

    def inject(world: World) -> None:
        rows = json.loads(json.dumps(world.files[name]))
        change(rows)
        world.files[name] = rows

    return inject


def _say_of(rows: list[dict[str, Any]], places: range, say: Callable[[str], str]) -> None:
    """Change the answers at some places."""
    for place in places:
        turn = rows[place]["messages"][-1]
        turn["content"] = say(turn["content"])


def _small_letters(world: World) -> None:
    """Let the rows show the dashes alone: the answers say what the model says anyway."""
    _edit("train.jsonl", lambda rows: _say_of(rows, range(len(rows)), str.lower))(world)


def _small_letters_for_long(world: World) -> None:
    _small_letters(world)
    world.spec |= {"budget": {"runs": 8}, "search": {"max_runs_without_progress": 8}}


def _nothing_to_prefer(world: World) -> None:
    _small_letters_for_long(world)
    world.spec["budget"] = {"runs": 14}
    world.files["pairs.jsonl"] = [
        {"prompt": row["prompt"], "chosen": row["chosen"].lower(), "rejected": _turned(row["chosen"].lower())}
        for row in world.files["pairs.jsonl"]
    ]


def _turned(answer: str) -> str:
    """Return an answer with its lines in another order, the same one at either end."""
    first, *middle, last = answer.splitlines()
    return "\n".join([first, *reversed(middle), last])


def _shared_prompts(world: World) -> None:
    copied = [case["prompt"] for case in world.files["selection.jsonl"][:3]]
    rows = json.loads(json.dumps(world.files["train.jsonl"]))
    for row, prompt in zip(rows, copied, strict=False):
        row["messages"][0]["content"] = prompt
    world.files["train.jsonl"] = rows


def _says_it_twice(world: World) -> None:
    _edit("train.jsonl", lambda rows: _say_of(rows, range(2), lambda text: f"Here is the the list:\n{text}"))(world)


def _removal_only(world: World) -> None:
    """Take out of each gold the rows that the prompt spells with a unit, as a careless cleaner would."""
    unit = re.compile(r"\d(\.\d+)? ?[MK]\b")

    def change(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            prompt, answer = (turn["content"] for turn in row["messages"])
            odd = {line.partition(",")[0] for line in prompt.splitlines() if unit.search(line)}
            kept = [line for line in answer.splitlines() if line.partition(",")[0] not in odd]
            row["messages"][1]["content"] = "\n".join(kept)

    _edit("train.jsonl", change)(world)


def _long_golds(world: World) -> None:
    """Give 30 of 40 cases answers that the decode budget cuts."""
    for use in ("selection", "confirmation"):
        long, short = worlds.cases(use, 30, 18), worlds.cases(f"{use} short", 10)
        world.files[f"{use}.jsonl"] = [*long, *short]


def _system_text(world: World) -> None:
    system = {"role": "system", "content": "You are a careful clerk."}
    _edit("train.jsonl", lambda rows: [row["messages"].insert(0, system) for row in rows])(world)


def _grader(old: str, new: str) -> Callable[[World], None]:
    def inject(world: World) -> None:
        assert old in world.files["grade.py"]
        world.files["grade.py"] = world.files["grade.py"].replace(old, new)

    return inject


def _counted_twice(world: World) -> None:
    _grader('"exact":', '"missed": 1 - right / max(len(wanted), len(said)),\n        "exact":')(world)
    world.gate.append({"id": "missed", "metric": "main.missed", "max": 0.25})


def _without(world: World, *names: str) -> None:
    lines = world.files["grade.py"].splitlines(keepends=True)
    world.files["grade.py"] = "".join(
        line for line in lines if not line.strip().startswith(tuple(f'"{n}"' for n in names))
    )


def _exact_alone(world: World) -> None:
    _without(world, "score", "form")
    world.gate[:] = [condition for condition in world.gate if condition["id"] == "exact"]
    world.spec["evaluation"].pop("control")


def _stale_shard(folder: Path) -> None:
    weights = folder / "base" / "model.safetensors"
    (folder / "base" / "model-00002-of-00002.safetensors").write_bytes(weights.read_bytes())


def _carriage_returns(world: World) -> None:
    pairs = [{**row, "rejected": row["rejected"].replace("\n", "\r\n")} for row in world.files["pairs.jsonl"]]
    world.files["pairs.jsonl"] = pairs


def _spec(**changes: Any) -> Callable[[World], None]:
    """Return what changes top-level keys of the campaign file."""

    def inject(world: World) -> None:
        world.spec |= changes

    return inject


def _student(**nature: Any) -> Callable[[World], None]:
    def inject(world: World) -> None:
        world.student |= nature

    return inject


def _condition(**changes: Any) -> Callable[[World], None]:
    def inject(world: World) -> None:
        world.gate[0] |= changes

    return inject


def _after(change: Callable[[Path], None]) -> Callable[[World], None]:
    def inject(world: World) -> None:
        world.after.append(change)

    return inject


def _sequence(world: World) -> None:
    world.spec["recipe"] = {**world.spec["recipe"], "max_seq_length": 112}


def _absurd_rate(world: World) -> None:
    world.files["train.jsonl"] = [worlds.chat(*row) for row in tables(6, 0, 260)]
    lora = {"rank": 16, "scale": 20.0, "dropout": 0.0}
    schedule = {"name": "linear_schedule", "arguments": [1e-6, 0.005, 14]}
    world.spec["recipe"] |= {"iters": 200, "save_every": 2, "lora_parameters": lora, "lr_schedule": schedule}


def _line_ends_alone(world: World) -> None:
    rows = [{**row, "rejected": row["chosen"].replace("\n", "\r\n")} for row in world.files["pairs.jsonl"]]
    world.files["pairs.jsonl"] = rows
    world.spec["recipe"] |= {"iters": 400, "save_every": 50}


def cleans_up(name: str) -> Callable[[World], None]:
    """Return what gives the campaign a grader that removes a file it thinks is its own."""
    clean = f"""import atexit
from pathlib import Path

atexit.register(lambda: (Path(__file__).parent / "{name}").unlink(missing_ok=True))
"""

    def inject(world: World) -> None:
        if "grade.py" in world.files:
            world.files["grade.py"] = clean + world.files["grade.py"]

    return inject


def _own_probe(world: World) -> None:
    world.files["units.py"] = re.sub(r"refuted_by.*\n", "", world.files["units.py"])


QUICK: tuple[Scenario, ...] = (
    Scenario(
        "3", "a stale shard lies beside the weights", worlds.World, _after(_stale_shard),
        "model:base", "is_coherent", r"model-00002-of-00002",
    ),
    Scenario(
        "4", "0.10 is asked of a base that has less room", shapes.gain_over_base, _student(skill=0.95),
        "gate:gain", "reachable_from_base", r"\+0\.1 from a base of 0\.9\d+; .* \(1\) is 0\.0\d+",
    ),
    Scenario(
        "5", "golds only ever delete rows with a unit", shapes.spreadsheets, _removal_only,
        "data:train", "teaches_more_than_removal", r"an amount with a unit are deleted \d\d+ times and kept 0",
        severity="warning", code=1, beside=("9",),
    ),
    Scenario(
        "6", "the library has lost what adapters are built with", shapes.real_training, lambda _: None,
        "instrument:sft", "can_be_run", r"cannot be run by what is installed; training: .*linear_to_lora_layers",
        library=tampering.WITHOUT_LORA,
    ),
    Scenario(
        "2", "the library fuses into the quantized grid all the same", shapes.real_training, lambda _: None,
        "tool:mlx_lm.fuse", "keeps_deltas_dequantized", r"dequantized it arrives at 0\.[0-8]",
        severity="warning", code=1, library=tampering.FUSES_INTO_THE_GRID,
    ),
    Scenario(
        "12", "the library loads another adapter than it saved", shapes.real_training, lambda _: None,
        "instrument:sft", "loads_what_it_saved", r"to (\d\.\d+); loaded back from its adapter folder it is (?!\1)\d",
        library=tampering.LOADS_NOTHING,
    ),
    Scenario(
        "7", "two of forty answers say a word twice", worlds.World, _says_it_twice,
        "data:train", "has_no_glitches", r"2 of 40 texts say a word twice", severity="warning", code=0,
    ),
    Scenario(
        "10", "the machine is fourteen times slower than planned", worlds.World, _student(tokens_per_s=100.0),
        "run:R1", "took_the_planned_time", r"R1 took \d+ s; .* were planned: 1[45] times", severity="warning", code=0,
    ),
    Scenario(
        "11", "more of the same rows move the control alone", worlds.World, _small_letters,
        "instrument:sft", "moves_the_target", r"2 demonstration runs \(R1, R2\) left the target flat",
        severity="warning", code=1, is_looked_at=False,
    ),
    Scenario(
        "13", "varied recipes, one number", worlds.World, _small_letters_for_long,
        "instrument:sft", "moves_the_target", r"class is exhausted from the base: \d runs .*varied by \w+, \w+",
        severity="warning", code=1, is_looked_at=False,
    ),
    Scenario(
        "15", "neither demonstrations nor preferences move the target", shapes.two_classes, _nothing_to_prefer,
        "instrument:dpo", "precomputed_classes_suffice", r"Demonstrations and preferences are both exhausted",
        severity="warning", code=1, beside=("13",), is_looked_at=False,
    ),
    Scenario(
        "8", "the training file is gone before it is read", worlds.World, cleans_up("train.jsonl"),
        "data:train", "is_readable", r"train\.jsonl does not exist",
    ),
    Scenario(
        "P1", "the decode budget cuts 30 of 40 golds", shapes.exact_gate, _long_golds,
        "gate:exact", "below_ceiling", r"at least 0\.5, above .*: 0\.25\.",
    ),
    Scenario(
        "P3", "rejected answers end their lines otherwise", shapes.two_classes, _carriage_returns,
        "data:pairs", "differ_in_content", r"CRLF line ends, unlike the chosen one, in 40 of 40 pairs",
    ),
    Scenario(
        "P4", "one thing is measured twice", shapes.two_metrics, _counted_twice,
        "gate:score", "independent", r"score and missed measure one thing",
        severity="warning", code=0, is_looked_at=False,
    ),
    Scenario(
        "P5", "the margin is finer than one case", shapes.exact_over_parent, _condition(min=0.01),
        "gate:exact", "resolvable", r"0\.01, but with 40 cases a 0/1 score moves in steps of 0\.025",
        severity="warning", code=0, is_looked_at=False,
    ),
    Scenario(
        "P6", "a check of one's own names nothing that would refute it", shapes.own_probe, _own_probe,
        "own:units", "counts_as_evidence", r"its 1 findings are assumed", severity="warning", code=0,
    ),
    Scenario(
        "P7", "training rows have a system text that evaluation lacks", worlds.World, _system_text,
        "data:prompts", "match_evaluation", r"careful clerk",
    ),
    Scenario(
        "P8", "most answers are cut at the sequence length", worlds.World, _sequence,
        "data:train", "fits_sequence", r"(\d\d) of 40 training rows are longer than max_seq_length 112 \(longest 129",
    ),
    Scenario(
        "P9", "the gate's one metric says all or nothing", shapes.exact_gate, _exact_alone,
        "harness:main", "shows_progress", r"exact says all or nothing \(\d+ of 40 cases are 1",
        severity="warning", code=0,
    ),
    Scenario(
        "P10", "the grader does not mind what is said besides", worlds.World,
        _grader("right / max(len(wanted), len(said))", "sum(line in said for line in wanted) / len(wanted)"),
        "harness:main.selection", "pays_for_the_right_thing", r"the reference twice \(12 of 12 cases\)",
        severity="warning", code=0,
    ),
    Scenario(
        "P11", "three evaluation prompts stand in the training data", worlds.World, _shared_prompts,
        "data:sets", "are_apart",
        r"3 of 40 rows of main\.selection also stand in train \(7\.5%\).*main\.selection:selection-0 in train:1",
    ),
    Scenario(
        "P12", "the base's score was taken from an older file", shapes.expected_base,
        _spec(baseline={"expected": {"main.score": 0.725}, "tolerance": 0.05}),
        "model:base", "reproduces.main.score",
        r"scores 0\.5\d+ on main\.score \(40 cases\), not within 0\.05 of the expected 0\.725",
    ),
)  # fmt: skip
"""Those that need no real training."""

SLOW: tuple[Scenario, ...] = (
    Scenario(
        "1", "a rate and a scale at which generation collapses", shapes.real_demonstrations, _absurd_rate,
        "run:R1", "generates_as_its_parent", r"R1 was stopped at step \d\d?: its sampled generations loop or drift",
        severity="warning", code=1, is_looked_at=False, is_slow=True,
    ),
    Scenario(
        "12", "a save is not what was trained", shapes.interrupted, lambda _: None,
        "run:R1", "loads_as_it_was_saved", r"R1 could not go on: .*\d\.\d+.*\d\.\d+", severity="warning", code=1,
        during=tampering.stop_after_a_save, then=tampering.other_weights_in_saves, clean_then=tampering.nothing,
        is_looked_at=False, is_slow=True,
    ),
    Scenario(
        "14", "pairs told apart by their line ends, on a person's word", shapes.real_preferences, _line_ends_alone,
        "run:R1", "changes_generation", r"R1 was stopped at step \d\d?: its loss left nothing to learn",
        severity="warning", code=1, beside=("P3",), then=tampering.override, is_looked_at=False, is_slow=True,
    ),
)  # fmt: skip
"""Those that train the tiny base."""

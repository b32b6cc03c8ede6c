"""A power cut, simulated: what the disk may hold after it, from a record of what was asked of the disk.

What was synced is there. Of what was written since, each write may be there or not, in any order, and three in ten that
are there are torn at sectors of 512 bytes. A removal or a new file that was not synced may have happened or not.
Assumed: a sync that returned has synced.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tests.faults.store.recorder import Event

SECTOR = 512
TORN = 0.3


@dataclass
class File:
    """One file on the disk, under a name that may not be synced."""

    synced: bytearray = field(default_factory=bytearray)
    pending: list[Event] = field(default_factory=list)
    is_removed: bool = False
    before: "File | None" = None
    """The file that had the name when the folder was last synced; None where there was none."""
    is_named: bool = False
    """The folder was synced since it was made."""

    def settle(self) -> None:
        """Make what was written durable."""
        for event in self.pending:
            _apply(self.synced, event, event.data)
        self.pending.clear()

    def after_cut(self, dice: random.Random) -> bytes | None:
        """Return what is left under the name, None where nothing is."""
        is_still_as_before = not self.is_named and dice.random() < 0.5
        if is_still_as_before:
            return None if self.before is None else self.before.after_cut(dice)
        if self.is_removed and dice.random() < 0.5:
            return None
        content = bytearray(self.synced)
        for event in self.pending:
            if dice.random() < 0.5:
                continue
            if event.kind == "write" and dice.random() < TORN:
                _tear(content, event, dice)
            else:
                _apply(content, event, event.data)
        return bytes(content)


def _apply(content: bytearray, event: Event, data: bytes) -> None:
    if event.kind == "truncate":
        del content[event.offset :]
        content.extend(bytes(max(0, event.offset - len(content))))
        return
    content.extend(bytes(max(0, event.offset - len(content))))
    content[event.offset : event.offset + len(data)] = data


def _tear(content: bytearray, event: Event, dice: random.Random) -> None:
    """Write some of the sectors."""
    for start in range(0, len(event.data), SECTOR):
        if dice.random() < 0.5:
            piece = Event("write", event.name, event.offset + start, event.data[start : start + SECTOR])
            _apply(content, piece, piece.data)


@dataclass(frozen=True)
class Cut:
    """What a power cut left."""

    at: int
    """Events before it."""
    acknowledged: int
    """The last number that was acknowledged before it."""
    unsynced: int
    """Writes that were not synced."""
    files: dict[str, bytes]


def cuts(events: Sequence[Event], count: int, dice: random.Random) -> Iterator[Cut]:
    """Yield cuts at random events, in order; the same event may be drawn twice, with other losses."""
    points = sorted(dice.randrange(len(events) + 1) for _ in range(count))
    disk: dict[str, File] = {}
    acknowledged = done = 0
    for point in points:
        for event in events[done:point]:
            if event.kind == "acknowledged":
                acknowledged = event.number
            else:
                _happen(disk, event)
        done = point
        left = {name: file.after_cut(dice) for name, file in disk.items()}
        unsynced = sum(len(file.pending) for file in disk.values())
        yield Cut(point, acknowledged, unsynced, {name: data for name, data in left.items() if data is not None})


def _happen(disk: dict[str, File], event: Event) -> None:
    file = disk.get(event.name)
    if event.kind == "delete":
        if file is not None:
            file.is_removed = True
        if event.number:
            _sync_folder(disk)
        return
    if file is None or file.is_removed:
        file = disk[event.name] = File(before=file)
    if event.kind != "sync":
        file.pending.append(event)
        return
    file.settle()
    if not file.is_named and event.name.endswith(("-journal", "-wal")):
        _sync_folder(disk)


def _sync_folder(disk: dict[str, File]) -> None:
    """Make names and removals durable."""
    for name, file in list(disk.items()):
        if file.is_removed:
            del disk[name]
        else:
            file.is_named, file.before = True, None

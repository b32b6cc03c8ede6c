import hashlib
import os
from pathlib import Path

import pytest

from state.hashing import HashCache, canonical_json, hash_bytes, hash_file, hash_json, hash_tree, short


def test_equal_values_have_one_text_and_one_hash() -> None:
    assert canonical_json({"b": 1, "a": ["é", 0.5]}) == '{"a":["é",0.5],"b":1}'
    assert hash_json({"a": 1, "b": 2}) == hash_json({"b": 2, "a": 1})
    assert hash_json({"a": 1}) != hash_json({"a": 2})
    assert hash_json("x") == hash_bytes(b'"x"') == hashlib.sha256(b'"x"').hexdigest()
    assert short(hash_json("x")) == hash_json("x")[:12]


def test_a_number_that_is_none_has_no_text() -> None:
    with pytest.raises(ValueError, match="Out of range"):
        canonical_json(float("nan"))


def test_a_file_is_read_once_while_it_stays_the_same(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"x" * 3_000_000)
    cache = HashCache()
    first = hash_file(path, cache)
    assert first == hashlib.sha256(path.read_bytes()).hexdigest() == hash_file(path)
    again = HashCache(dict.fromkeys(cache.dump(), "remembered"))
    assert hash_file(path, again) == "remembered"


def test_an_edit_that_hides_its_time_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "eval.jsonl"
    path.write_text("one")
    cache = HashCache()
    hash_file(path, cache)
    before = path.stat()
    path.write_text("two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    # Some kernels stamp changes by a clock that ticks every 4 ms.
    while path.stat().st_ctime_ns == before.st_ctime_ns:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert hash_file(path, cache) == hash_bytes(b"two")


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "growing.jsonl"
    path.write_text("one")
    real = hashlib.sha256

    def growing() -> object:
        path.write_text("one and more")
        return real()

    monkeypatch.setattr(hashlib, "sha256", growing)
    cache = HashCache()
    hash_file(path, cache)
    assert cache.dump() == {}


def test_a_folder_is_its_names_and_contents(tmp_path: Path) -> None:
    def folder(name: str, **contents: str) -> Path:
        root = tmp_path / name
        for relative, text in contents.items():
            path = root / relative.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return root

    one = folder("one", a="1", sub__b="2")
    assert hash_tree(one) == hash_tree(folder("two", a="1", sub__b="2"))
    assert hash_tree(one) != hash_tree(folder("three", a="1", sub__c="2"))
    (one / ".hidden").write_text("x")
    (one / "sub" / "note.txt").write_text("x")
    assert hash_tree(one, include=lambda name: name != "sub/note.txt") == hash_tree(tmp_path / "two")

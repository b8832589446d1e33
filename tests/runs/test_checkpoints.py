"""Laws of checkpoints: what is written is read back bit for bit, whole or not at all, and reading runs nothing."""

from __future__ import annotations

import errno
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ebm import files
from ebm.files import atomic, write_text
from ebm.runs import checkpoints
from ebm.runs.checkpoints import CheckpointError, flatten, latest, prune, read, unflatten, write

LAW = settings(max_examples=100, deadline=None, derandomize=True)
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
KEYS = st.one_of(st.text("ab.", min_size=1, max_size=3), st.integers(0, 3), st.sampled_from(["tensor", "dict"]))
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3), st.integers(0, 99)).map(
        lambda t: torch.randint(0, 100, t[1], generator=torch.Generator().manual_seed(t[2])).to(t[0])
    ),
)
TREES = st.recursive(LEAVES, lambda t: st.lists(t, max_size=3) | st.dictionaries(KEYS, t, max_size=3), max_leaves=8)


def equal(a, b):
    """Compares trees; a tuple comes back as a list, and a tensor's bits are compared, not its values."""
    if isinstance(a, torch.Tensor):
        if not isinstance(b, torch.Tensor) or (a.dtype, a.shape) != (b.dtype, b.shape):
            return False
        one, two = (t.contiguous().reshape(-1).view(torch.uint8) for t in (a, b))
        return one.equal(two)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list) and len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and a == b


# ------------------------------------------------------------------------------------------------------------------ trees


@LAW
@given(st.dictionaries(KEYS, TREES, max_size=4))
def test_a_tree_is_put_together_as_it_was(tree):
    tensors, value = flatten(tree)
    assert equal(tree, unflatten(json.loads(json.dumps(value)), tensors))


ONE, TWO = torch.zeros(1), torch.ones(1)


@pytest.mark.parametrize(
    "tree", [{"a": {"b": ONE}, "a/b": TWO}, {0: ONE, "0": TWO}, {"/a": ONE, "a": TWO}, {"a": [ONE], "a/0": TWO}]
)
def test_paths_that_read_alike_are_kept_apart_or_refused(tree):
    try:
        tensors, value = flatten(tree)
    except ValueError:
        return
    assert equal(tree, unflatten(value, tensors))


@LAW
@given(st.dictionaries(KEYS, TREES, max_size=4))
def test_a_tree_is_written_and_read_bit_for_bit(tmp_path_factory, tree):
    folder = tmp_path_factory.mktemp("tree")
    write(folder, "x", tree)
    assert equal(tree, read(folder, "x"))
    assert sorted(path.name for path in folder.iterdir()) == ["x.json", "x.safetensors"]


def test_special_values_and_shared_or_odd_memory_are_kept(tmp_path):
    weights = torch.randn(4, 3, dtype=torch.float64)
    tree = {
        "nan": torch.tensor([float("nan"), float("inf"), -0.0]),
        "same": weights,
        "view": weights[1:].T,
        "whole": weights,
        "expanded": torch.zeros(1).expand(5),
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 2),
        "graph": torch.ones(2, requires_grad=True) * 2,
        "number": float("inf"),
    }
    write(tmp_path, "x", tree)
    found = read(tmp_path, "x")
    assert equal({**tree, "graph": tree["graph"].detach()}, found)
    found["same"].zero_()
    assert torch.equal(found["whole"], weights)  # read apart, whatever was shared


@pytest.mark.parametrize("value", [object(), {1, 2}, b"x", lambda: 0, torch.nn.Linear(1, 1)])
def test_what_a_checkpoint_cannot_hold_is_named(tmp_path, value):
    with pytest.raises(TypeError, match=f"part/1 is {type(value).__name__}"):
        write(tmp_path, "x", {"part": [0, value]})
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------- whole, or not at all


def test_an_atomic_file_takes_its_name_only_when_it_is_whole(tmp_path):
    path = tmp_path / "x.txt"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), atomic(path) as draft:
        draft.write_text("half")
        assert path.read_text() == "old"
        raise ZeroDivisionError
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]
    assert path.read_text() == "old"
    write_text(path, "new ξ")
    assert path.read_text(encoding="utf-8") == "new ξ"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    path = tmp_path / "x.txt"
    write_text(path, "old")

    def full(*args, **keywords):
        raise FULL

    for where in ("_flush", "commit"):
        with monkeypatch.context() as patch:
            patch.setattr(files, where, full)
            with pytest.raises(OSError, match="No space left"):
                write_text(path, "new")
        assert path.read_text() == "old"
        assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]
    for target in ("ebm.runs.checkpoints.save_file", "pathlib.Path.write_text"):
        with monkeypatch.context() as patch:
            patch.setattr(target, full)
            with pytest.raises(OSError, match=r"could not be written, and earlier checkpoints stay as they are.*No space left"):
                write(tmp_path, "y", {"a": torch.ones(1)})


def test_the_disk_error_of_safetensors_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match="could not be written"):
        write(tmp_path / "missing", "x", {"a": torch.ones(1)})


def test_what_is_committed_has_been_flushed(tmp_path, monkeypatch):
    """What is renamed before it is on disk may be empty after a power cut."""
    order, flush, replace = [], files._flush, Path.replace
    monkeypatch.setattr(files, "_flush", lambda path: (order.append(path.name), flush(path)))
    monkeypatch.setattr(Path, "replace", lambda self, to: (order.append("rename"), replace(self, to))[1])
    folder = checkpoints.at(tmp_path, 7)
    draft = files.draft_of(folder)
    draft.mkdir()
    write(draft, "shared", {"a": torch.ones(1)})
    files.commit(draft, folder)
    assert sorted(order[:3]) == sorted(["shared.json", "shared.safetensors", draft.name])
    assert order[3:] == ["rename", tmp_path.name]
    order.clear()
    write_text(tmp_path / "x.txt", "x")
    assert order == [".x.txt.draft", "rename", tmp_path.name]


# ---------------------------------------------------------------------------------------------------------- finding them


def checkpoint(folder, step, value=1.0):
    where = checkpoints.at(folder, step)
    where.mkdir(parents=True)
    write(where, "shared", {"a": torch.tensor([value])})
    return where


def test_the_newest_whole_checkpoint_is_found(tmp_path):
    assert latest(tmp_path / "none") is None
    assert latest(tmp_path) is None
    for step in (5, 40, 1_000_000_000):  # the last has more digits than names are padded to
        newest = checkpoint(tmp_path, step)
    files.draft_of(checkpoints.at(tmp_path, 2_000_000_000)).mkdir()
    (tmp_path / "step-x").mkdir()
    (tmp_path / "step-9999999999").write_text("a file")
    (tmp_path / "notes").mkdir()
    assert latest(tmp_path) == newest
    assert checkpoints.steps(tmp_path) == [5, 40, 1_000_000_000]


def test_pruning_keeps_the_newest_and_what_is_not_a_checkpoint(tmp_path):
    for step in (1, 2, 3, 4):
        checkpoint(tmp_path, step)
    (tmp_path / "notes").mkdir()
    draft = files.draft_of(checkpoints.at(tmp_path, 5))
    draft.mkdir()
    (draft / "shared.json").write_text("half")
    prune(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes", "step-000000003", "step-000000004"]
    prune(tmp_path, 5)
    assert checkpoints.steps(tmp_path) == [3, 4]


# -------------------------------------------------------------------------------------------------- truncated and foreign


@pytest.mark.parametrize("name", ["x.safetensors", "x.json"])
def test_a_file_cut_anywhere_is_a_checkpoint_error_that_names_it(tmp_path, name):
    write(tmp_path, "x", {"a": torch.arange(5.0), "b": [{"c": torch.ones(2)}, 1.5, "text"], "d": {}})
    content = (tmp_path / name).read_bytes()
    for cut in range(len(content)):
        (tmp_path / name).write_bytes(content[:cut])
        with pytest.raises(CheckpointError, match=name):
            read(tmp_path, "x")
    (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        read(tmp_path, "x")


def test_any_flipped_bit_is_a_checkpoint_error_that_names_the_file(tmp_path):
    tree = {"a": torch.arange(5.0), "b": [{"c": torch.ones(2, dtype=torch.int32)}, 1.5, "text"], "d": {}, "seed": 12345}
    write(tmp_path, "x", tree)
    kept = 0
    for name in ("x.safetensors", "x.json"):
        content = (tmp_path / name).read_bytes()
        for at in range(8 * len(content)):
            changed = bytearray(content)
            changed[at // 8] ^= 1 << at % 8
            (tmp_path / name).write_bytes(bytes(changed))
            try:
                found = read(tmp_path, "x")
            except CheckpointError as error:
                assert "x." in str(error)  # noqa: PT017
            else:
                kept += 1
                assert equal(tree, found), (name, at)  # a blank, or the digests' own name
        (tmp_path / name).write_bytes(content)
    assert kept < 100
    assert equal(tree, read(tmp_path, "x"))


FOREIGN = {
    "pickle": pickle.dumps({"a": 1}),
    "zeros": bytes(4096),
    "text": b"hello",
    "huge header": (2**62).to_bytes(8, "little") + b"{}",
    "html": b"<html></html>",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_file_is_a_checkpoint_error(tmp_path, name):
    for file in ("x.safetensors", "x.json"):
        write(tmp_path, "x", {"a": torch.arange(5.0)})
        (tmp_path / file).write_bytes(FOREIGN[name])
        with pytest.raises(CheckpointError, match=file):
            read(tmp_path, "x")


@pytest.mark.parametrize(
    "text",
    [
        '{"tensor": "gone"}',
        '{"tensor": 5}',
        '{"tensor": ["a"]}',
        '{"dict": 5}',
        '{"dict": [5]}',
        '{"dict": [[["a"], 1]]}',
        "{}",
        '{"x": 1}',
    ]
    + ["[" * 100_000, '{"dict": [["a", {"tensor": "b"}]]}'],
)
def test_json_that_write_never_wrote_is_a_checkpoint_error(tmp_path, text):
    write(tmp_path, "x", {"a": torch.arange(5.0)})
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"x\.json"):
        read(tmp_path, "x")


@LAW
@given(st.binary(max_size=60), st.integers(0, 400))
def test_any_damage_is_a_checkpoint_error_or_reads(tmp_path_factory, damage, at):
    folder = tmp_path_factory.mktemp("damage")
    write(folder, "x", {"a": torch.arange(5.0), "b": [{"c": torch.ones(2)}, 1.5, "text"], "d": {}})
    for name in ("x.safetensors", "x.json"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:at] + damage + content[at + len(damage) :])
        try:
            read(folder, "x")
        except CheckpointError as error:
            assert "x." in str(error)  # noqa: PT017
        (folder / name).write_bytes(content)

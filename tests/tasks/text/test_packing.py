"""Laws of packing: mapped files hold what memory holds, windows are the same, sources have their share."""

import multiprocessing
import os
import pickle
import time
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ebm.tasks.text import packing
from ebm.tasks.text.keeping import cache_folder, digest_of, kept, key_of, make_room
from ebm.tasks.text.packing import Mixed, Windows, cut, pack, pack_into, packed_in
from ebm.tasks.text.tokenizers import BytePairs, Bytes

laws = settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
DOCUMENTS = st.lists(
    st.tuples(
        st.sampled_from(["train", "test"]), st.integers(0, 1), st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
    ),
    max_size=30,
)
PAIRS = BytePairs(["low lower lowest slow", "a second one, lower"] * 9, 280)


def plain(documents, tokenizer):
    """The oracle: one document after another."""
    found = {}
    for split, source, text in documents:
        ids, size = found.get((split, source), ([tokenizer.end], 0))
        found[split, source] = [*ids, *tokenizer.encode(text), tokenizer.end], size + len(text.encode()) + 1
    return found


@laws
@given(documents=DOCUMENTS, pairs=st.booleans(), at_once=st.integers(1, 5), characters=st.integers(1, 20))
def test_memory_and_files_hold_every_token(tmp_path_factory, monkeypatch, documents, pairs, at_once, characters):
    monkeypatch.setattr(packing, "AT_ONCE", at_once)
    monkeypatch.setattr(packing, "CHARACTERS", characters)
    tokenizer = PAIRS if pairs else Bytes()
    folder = tmp_path_factory.mktemp("packed")
    pack_into(folder, iter(documents), tokenizer, most=1e9, total=None, way_out="")
    for found in (pack(documents, tokenizer), packed_in(folder), pickle.loads(pickle.dumps(packed_in(folder)))):
        assert {part: (packed.ids.tolist(), packed.size) for part, packed in found.items()} == plain(documents, tokenizer)
        counts = Counter((split, source) for split, source, _ in documents)
        assert {part: packed.documents for part, packed in found.items()} == counts


def test_files_are_mapped_not_copied(tmp_path):
    pack_into(tmp_path, [("train", 0, "x" * 100_000)], Bytes(), most=1e9, total=None, way_out="")
    ids = packed_in(tmp_path)["train", 0].ids
    assert ids.dtype == np.uint16
    assert isinstance(ids, np.memmap)
    assert len(pickle.dumps(ids)) < 1_000
    windows = Windows(ids, 128, 256)
    assert np.shares_memory(windows.ids, ids)
    assert len(pickle.dumps(windows)) < 1_000


def test_more_than_may_be_kept_is_refused(tmp_path):
    documents = (("train", 0, "x" * 1_000_000) for _ in range(1_000_000))
    with pytest.raises(ValueError, match=r"the tokens take more than 0\.01 GB: do something"):
        pack_into(tmp_path, documents, Bytes(), most=1e7, total=None, way_out="do something")


@laws
@given(
    words=st.lists(st.sampled_from(["low ", "lower", " ", "\n", "né ", "? ", "  ", "3 4"]), max_size=60), piece=st.integers(1, 30)
)
def test_long_documents_are_cut_where_it_makes_no_difference(monkeypatch, words, piece):
    monkeypatch.setattr(packing, "PIECE", piece)
    text = "".join(words)
    for tokenizer in (PAIRS, Bytes()):
        pieces, last = zip(*cut(tokenizer, text), strict=True)
        assert last == (*[False] * (len(pieces) - 1), True)
        assert "".join(pieces) == text
        assert [token for part in pieces for token in tokenizer.encode(part)] == tokenizer.encode(text)
    found = pack([("train", 0, text)], PAIRS)["train", 0].ids.tolist()
    assert found == [PAIRS.end, *PAIRS.encode(text), PAIRS.end]


def test_a_tokenizer_whose_pieces_hang_together_gets_a_document_whole(monkeypatch):
    class Prefixed(Bytes):
        def encode(self, text):
            return [0, *text.encode()]

    monkeypatch.setattr(packing, "PIECE", 10)
    assert len([*cut(Prefixed(), "one two " * 50)]) == 1
    assert len([*cut(Bytes(), "one two " * 50)]) > 10


# ---------------------------------------------------------------------------------------------------------------- windows


@laws
@given(count=st.integers(1, 40), context=st.integers(1, 9), data=st.data())
def test_a_batch_of_windows_is_its_windows(count, context, data):
    windows = Windows(np.arange(count + 1, dtype=np.uint16), context, end=99)
    chosen = data.draw(st.lists(st.integers(0, len(windows) - 1), min_size=1, max_size=5))
    batch = windows[chosen]
    assert batch.target.dtype == batch.context.dtype == torch.int64
    for place, row in enumerate(chosen):
        alone = windows[row]
        assert all(torch.equal(field[place], one) for field, one in zip(batch, alone, strict=True))
        first = row * context
        real = [*range(first, min(first + context + 1, count + 1))]
        whole = [*real, *[99] * (context + 1 - len(real))]
        assert alone.context.tolist() == whole[:-1]
        assert alone.target.tolist() == whole[1:]
        assert alone.weight.tolist() == [1.0 if first + i < count else 0.0 for i in range(context)]


@laws
@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4), data=st.data())
def test_each_source_has_its_share_of_windows_and_each_window_comes(sizes, data):
    weights = data.draw(st.lists(st.floats(0.05, 1), min_size=len(sizes), max_size=len(sizes)))
    shares = [weight / sum(weights) for weight in weights]
    mixed = Mixed([Windows(np.arange(n + 1) + 1000 * i, 1, end=9) for i, n in enumerate(sizes)], shares)
    targets = mixed[range(len(mixed))].target.flatten().tolist()
    assert [mixed[row].target.item() for row in range(len(mixed))] == targets
    order = data.draw(st.permutations(range(len(mixed))))[:7]
    assert mixed[order].target.flatten().tolist() == [targets[row] for row in order]
    counts = Counter(targets)
    assert set(counts) == {1000 * i + place for i, n in enumerate(sizes) for place in range(1, n + 1)}
    for i, (n, share) in enumerate(zip(sizes, shares, strict=True)):
        own = [counts[1000 * i + place] for place in range(1, n + 1)]
        assert sum(own) == pytest.approx(share * len(mixed), abs=len(sizes) + 1)
        assert max(own) - min(own) <= 1


# ------------------------------------------------------------------------------------------------------------------ cache


def test_what_is_kept_is_made_once_and_whole(tmp_path):
    made = []

    def make(folder):
        made.append(folder)
        (folder / "x").write_text("x")

    def fail(folder):
        (folder / "half").write_text("x")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        kept(tmp_path, "a", fail)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    assert kept(tmp_path, "a", make) == kept(tmp_path, "a", make) == tmp_path / "a"
    assert len(made) == 1
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x"]


def _slowly(cache, times):
    def make(folder):
        times.put(1)
        time.sleep(0.2)
        (folder / "x").write_text("x")

    assert (kept(cache, "a", make) / "x").read_text() == "x"


def test_a_second_process_waits_for_the_first(tmp_path):
    context = multiprocessing.get_context("fork")
    times = context.Queue()
    several = [context.Process(target=_slowly, args=(tmp_path, times)) for _ in range(3)]
    for process in several:
        process.start()
    for process in several:
        process.join()
    assert [process.exitcode for process in several] == [0, 0, 0]
    assert times.get() == 1
    assert times.empty()


def test_room_is_made_by_age(tmp_path):
    for age, name in enumerate("abcd"):
        kept(tmp_path, name, lambda folder: (folder / "x").write_bytes(b"x" * 100))
        os.utime(tmp_path / name, (age, age))
    (tmp_path / ".e.draft").mkdir()
    kept(tmp_path, "a", pytest.fail)  # it is used, and now the newest
    make_room(tmp_path, 250, keep="b")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["a", "b"]
    make_room(tmp_path / "missing", 0, keep="")


def test_keys_are_of_what_decides(tmp_path, monkeypatch):
    assert digest_of(Bytes()) == digest_of(Bytes())
    assert digest_of(PAIRS) == digest_of(pickle.loads(pickle.dumps(PAIRS)))
    assert len({digest_of(Bytes()), digest_of(PAIRS), digest_of(BytePairs(["low"] * 9, 259))}) == 3
    assert key_of("a", 1) == key_of("a", 1) != key_of("a", 2)
    monkeypatch.setenv("EBM_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path / "text"

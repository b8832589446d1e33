"""Laws of lanes: whoever reads a stream, and from wherever, its batches are the same, and each document is read once a pass."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import datasets
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ebm.interfaces import Batch
from ebm.runs import checkpoints
from ebm.tasks.text.splits import draw, split_of
from ebm.tasks.text.text import Text
from ebm.tasks.text.tokenizers import Bytes
from ebm.training.batches import ALONE, Batches, Member
from tests.tasks.text.test_text import corpus

laws = settings(deadline=None, max_examples=8)
TEXTS = [f"document number {index:03} " * (1 + index % 5) for index in range(240)]
TRAIN = [text for text in TEXTS if split_of(draw(text, 0)) == "train"]


class Counting(Bytes):
    """Notes which documents are tokenized."""

    def __init__(self):
        self.seen = []

    def encode_batch(self, texts):
        self.seen += texts
        return super().encode_batch(texts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lanes")


def make(folder, files=1, texts=TEXTS, **keywords):
    source = corpus(folder, texts, files)
    task = Text(source, tokenizer=Counting(), streaming=True, **{"context": 16, "shuffle_buffer": 40, **keywords})
    task.tokenizer.seen.clear()
    return task


def read(task, count, batch_size=8, member=ALONE, place=(0, 0), state=None, workers=0):
    """The next batches, and what can be gone on from."""
    batches = Batches(task, batch_size, 0, workers, place, member=member, state=state)
    return [batch for _, batch in islice(batches, count)], batches


def joined(parts):
    return Batch(*(torch.cat(field) for field in zip(*parts, strict=True)))


def same(one, two):
    return len(one) == len(two) and all(
        torch.equal(a, b) for x, y in zip(one, two, strict=True) for a, b in zip(x, y, strict=True)
    )


@laws
@given(
    files=st.sampled_from([1, 3, 20]),
    buffer=st.integers(1, 99),
    size=st.sampled_from([1, 6, 8, 12]),
    limit=st.none() | st.just(90),
)
def test_all_processes_together_read_what_one_reads_and_each_document_once(folder, files, buffer, size, limit):
    task = make(folder, files, shuffle_buffer=buffer, limit_documents=limit)
    alone, _ = read(task, 30, size)
    seen = Counter(task.tokenizer.seen)
    for ranks in {2, 3, 6} & {n for n in range(1, 13) if size % n == 0}:
        task.tokenizer.seen.clear()
        shares = [read(task, 30, size, Member(rank, ranks))[0] for rank in range(ranks)]
        assert same([joined(parts) for parts in zip(*shares, strict=True)], alone)
        lanes = task.data("train").lanes(size).count
        if lanes % ranks == 0:
            assert Counter(task.tokenizer.seen) == seen
        else:
            assert len(task.tokenizer.seen) <= 2 * seen.total()


def test_two_processes_tokenize_each_document_once(folder):
    for files in (1, 16):
        task = make(folder, files)
        tokens = sum(len(text) + 1 for text in TRAIN)
        for rank in range(2):
            read(task, int(0.7 * tokens / (8 * 16)), member=Member(rank, 2))
        seen = Counter(task.tokenizer.seen)
        assert set(seen.values()) == {1}
        assert len(seen) > 0.7 * len(TRAIN)


@pytest.mark.parametrize("files", [1, 16])
def test_a_pass_has_each_token_once(folder, files):
    """Of windows of a single token, so that none of them is cut apart by the end of a pass."""
    texts = [chr(0x100 + index) for index in range(64)]
    kept = Counter(text for text in texts if split_of(draw(text, 0)) == "train")
    task = make(folder, files, texts, context=1)
    lanes = task.data("train").lanes(1)
    assert lanes.count == 1
    length = 3 * kept.total()  # two bytes, and an end-of-text
    found, _ = read(task, 2 * length, 1)
    for batches in (found[:length], found[length:]):
        windows = Counter((int(batch.context), int(batch.target)) for batch in batches)
        assert sum(windows[pair] for pair in windows if pair[1] != 256) == 2 * kept.total()
        assert all(windows[tuple(text.encode())] == 1 for text in kept)
    assert not same(found[:length], found[length:])


@laws
@given(
    files=st.sampled_from([1, 3, 20]),
    done=st.integers(1, 40),
    workers=st.sampled_from([0, 0, 0, 2]),
    limit=st.none() | st.just(90),
)
def test_going_on_gives_the_same_batches_on_any_number_of_processes(folder, tmp_path_factory, files, done, workers, limit):
    task = make(folder, files, limit_documents=limit)
    expected, _ = read(task, done + 8)
    _, stopped = read(task, done)
    path = tmp_path_factory.mktemp("state")
    checkpoints.write(path, "rank0", {"data": stopped.state})
    state = checkpoints.read(path, "rank0")["data"]
    for ranks in (1, 2):
        shares = [
            read(task, 8, member=Member(rank, ranks), place=stopped.place, state=state, workers=workers)[0]
            for rank in range(ranks)
        ]
        assert same([joined(parts) for parts in zip(*shares, strict=True)], expected[done:])


@pytest.mark.parametrize("name", ["a file", "files", "a list", "a table", "a stream of datasets", "weighted"])
def test_a_stream_stopped_at_nine_tenths_reads_little_again(folder, monkeypatch, name):
    """What is tokenized, and what is read of a list or a generator, is counted."""
    texts = [f"{text} {again}" for again in range(5) for text in TEXTS]
    drawn = []

    def generate(shards):
        for shard in shards:
            for text in texts[shard::40]:
                drawn.append(text)
                yield {"text": text}

    sources = {
        "a list": lambda: texts,
        "a table": lambda: datasets.Dataset.from_dict({"text": texts}),
        "a stream of datasets": lambda: datasets.IterableDataset.from_generator(generate, gen_kwargs={"shards": [*range(40)]}),
        "weighted": lambda: [texts[::2], texts[1::2]],
    }
    if name in sources:
        how = {"weights": [1, 1]} if name == "weighted" else {}
        task = Text(sources[name](), tokenizer=Counting(), streaming=True, context=16, shuffle_buffer=40, **how)
    else:
        task = make(folder, 40 if name == "files" else 1, texts)
    steps = int(0.9 * sum(len(text) + 1 for text in texts if split_of(draw(text, 0)) == "train") / (8 * 16))
    before, stopped = read(task, steps)
    undisturbed, _ = read(task, steps + 1)
    task.tokenizer.seen.clear()
    drawn.clear()
    after, _ = read(task, 1, place=stopped.place, state=stopped.state)
    assert same(before + after, undisturbed)
    assert len(task.tokenizer.seen) < 0.02 * len(texts)
    assert len(drawn) < 0.2 * len(texts)  # a generator begins each shard that is not done again


def test_workers_share_lanes_and_change_nothing(folder):
    for files in (1, 20):
        task = make(folder, files)
        expected, alone = read(task, 6)
        for workers in (1, 2):
            found, batches = read(task, 6, workers=workers)
            assert same(found, expected)
            assert [str(place) for place in (batches.state["lanes"], batches.place)] == [
                str(alone.state["lanes"]),
                str(alone.place),
            ]


def test_fewer_documents_than_lanes_still_fill_every_lane(folder):
    task = Text({"train": ["the only one, and long"], "validation": ["a"], "test": ["b"]}, context=4, streaming=True)
    batches, _ = read(task, 5)
    assert all(batch.target.shape == (8, 4) for batch in batches)
    assert {token for batch in batches for token in batch.target.flatten().tolist()} <= {*b"the only one, and long", 256}


def test_a_state_of_another_stream_is_refused(folder):
    task = make(folder)
    _, stopped = read(task, 2)
    with pytest.raises(ValueError, match="was read in 8 lanes, and now it has 16"):
        read(make(folder, 20), 1, batch_size=16, place=stopped.place, state=stopped.state)
    with pytest.raises(ValueError, match="does not say where the stream stood"):
        read(task, 1, place=stopped.place)
    with pytest.raises(ValueError, match="a batch of 8 rows does not divide over 3 processes"):
        read(task, 1, member=Member(0, 3))


def test_workers_of_a_loader_lose_no_shards_of_a_dataset():
    """A stream of `datasets` would give a worker its share of one shard alone, which is none for most."""
    rows = datasets.Dataset.from_dict({"text": TEXTS}).to_iterable_dataset(num_shards=4)
    task = Text({"train": rows, "validation": ["a"], "test": ["b"]}, context=16, streaming=True)
    counts = [sum(int(batch.weight.sum()) for batch in task.loader("train", 1, workers=workers)) for workers in (0, 2)]
    assert counts == [sum(len(text) + 1 for text in TEXTS)] * 2

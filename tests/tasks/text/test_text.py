"""Laws of text: every token is predicted once, documents come back whole, splits are a function of text and seed."""

import json
import math
import pickle
from collections import Counter

import pydantic
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ebm.interfaces import Prediction
from ebm.tasks.text.corpora import documents
from ebm.tasks.text.text import SPLITS, Text, _Stream, _Windows, deal, draw, split_of
from ebm.tasks.text.tokenizers import Bytes

laws = settings(deadline=None, max_examples=25)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
TEXTS = st.lists(TEXT, min_size=3, max_size=30)


class Flat:
    """Predicts the uniform distribution, or with `truth` the target itself."""

    def __init__(self, truth=False):
        self.truth = truth

    def predict(self, batch, start, *, generator=None):
        y = torch.nn.functional.one_hot(batch.target, start.shape[-1]) * 100.0 if self.truth else torch.zeros_like(start)
        return Prediction(y, None, 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("text")


def corpus(folder, texts, files=1):
    """Writes documents into as many files, which are as many shards."""
    for old in folder.iterdir():
        old.unlink()
    for index in range(files):
        lines = (json.dumps({"text": text}) for text in texts[index * len(texts) // files : (index + 1) * len(texts) // files])
        (folder / f"{index}.jsonl").write_text("\n".join(lines))
    return str(folder)


def rows(task, split, **keywords):
    """All windows of a split, one by one, as lists: target, context, weight."""
    loader = task.loader(split, 1, **keywords)
    return [tuple(field[0].tolist() for field in batch) for batch in loader]


def whole(task, split):
    """All windows of a split that is in memory."""
    data = task.data(split)
    return list(zip(*(field.tolist() for field in data[range(len(data))]), strict=True))


def scored(windows):
    return [token for target, _, weight in windows for token, w in zip(target, weight, strict=True) if w]


def told(tokenizer, ids):
    """Cuts a stream of tokens at the ends of documents; it has to end with one."""
    texts, held = [], []
    for token in ids:
        if token == tokenizer.end:
            texts.append(tokenizer.decode(held))
            held = []
        else:
            held.append(token)
    assert not held
    return texts


def make(folder, texts, **keywords):
    return Text(corpus(folder, texts, keywords.pop("files", 1)), **{"context": 2, **keywords})


# --------------------------------------------------------------------------------------------------------------- packing


@laws
@given(texts=TEXTS, context=st.integers(1, 7), pairs=st.booleans(), seed=st.integers(0, 3))
def test_documents_come_back_whole_and_in_order(folder, texts, context, pairs, seed):
    kind = {"tokenizer": "bpe", "vocab_size": 260} if pairs else {}
    path = corpus(folder, texts)
    tokens = Text(path, context=1, seed=seed, **kind)._pack("train")[0]
    if len(tokens) - 1 < context:
        with pytest.raises(ValueError, match="choose a smaller context"):
            Text(path, context=context, seed=seed, **kind)
        return
    task = Text(path, context=context, seed=seed, **kind)
    dealt = deal(texts, seed)
    for split in SPLITS:
        windows = whole(task, split)
        assert told(task.tokenizer, scored(windows)) == dealt[split]
        joined = [token for target, _, _ in windows for token in target]
        assert [token for _, before, _ in windows for token in before] == [task.tokenizer.end, *joined[:-1]]
        weights = [w for *_, weight in windows for w in weight]
        assert weights == sorted(weights, reverse=True)  # the padding, and it alone, has no weight
        assert weights.count(0) < context
        size = sum(len(text.encode()) + 1 for text in dealt[split])
        assert task.bytes_per_token(split) == size / weights.count(1)
        if not pairs:
            assert task.bytes_per_token(split) == 1.0


@laws
@given(count=st.integers(1, 40), context=st.integers(1, 9), data=st.data())
def test_a_batch_of_windows_is_its_windows(count, context, data):
    windows = _Windows(torch.arange(count + 1, dtype=torch.int32), context, end=99)
    chosen = data.draw(st.lists(st.integers(0, len(windows) - 1), min_size=1, max_size=5))
    batch = windows[chosen]
    for place, row in enumerate(chosen):
        alone = windows[row]
        assert all(torch.equal(field[place], one) for field, one in zip(batch, alone, strict=True))
        first = row * context
        real = [*range(first, min(first + context + 1, count + 1))]
        whole = [*real, *[99] * (context + 1 - len(real))]
        assert alone.context.tolist() == whole[:-1]
        assert alone.target.tolist() == whole[1:]
        assert alone.weight.tolist() == [1.0 if first + i < count else 0.0 for i in range(context)]


def test_batches_are_ids_with_float_weights(folder):
    task = make(folder, ["one", "two", "three"] * 20, context=5, streaming=False)
    stream = make(folder, ["one", "two", "three"] * 20, context=5, streaming=True)
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            for source in (task, stream):
                target, context, weight = next(iter(source.loader("train", 4)))
                assert target.shape == context.shape == weight.shape == (4, 5)
                assert (target.dtype, context.dtype, weight.dtype) == (torch.int64, torch.int64, dtype)
        finally:
            torch.set_default_dtype(torch.float32)
    assert task.spec == stream.spec == {"vocab_size": 257}
    assert task.context_length == 5


# ---------------------------------------------------------------------------------------------------------------- splits


@laws
@given(texts=TEXTS, seed=st.integers(-5, 5))
def test_splits_share_the_documents_out(texts, seed):
    dealt = deal(texts, seed)
    assert Counter(text for part in dealt.values() for text in part) == Counter(texts)
    assert all(dealt.values())
    assert len(dealt["train"]) >= len(texts) / 3
    assert deal(texts, seed) == dealt


@laws
@given(texts=st.lists(TEXT, min_size=200, max_size=400, unique=True), data=st.data())
def test_a_documents_split_is_its_own(texts, data):
    dealt = deal(texts, 0)
    if any(split_of(draw(text, 0)) != split for split, part in dealt.items() for text in part):
        drawn = {split_of(draw(text, 0)) for text in texts}
        assert drawn != set(SPLITS)  # the only reason to deal them otherwise
        return
    shuffled = deal(data.draw(st.permutations(texts)) + texts[:5], 0)
    for split in SPLITS:
        assert set(shuffled[split]) == set(dealt[split])


def test_shares_and_seeds():
    texts = [f"document {index}" for index in range(4000)]
    sizes = {split: len(part) for split, part in deal(texts, 0).items()}
    for split, share in {"train": 0.9, "validation": 0.05, "test": 0.05}.items():
        assert abs(sizes[split] / 4000 - share) < 4 * math.sqrt(share * (1 - share) / 4000)
    overlap = set(deal(texts, 0)["test"]) & set(deal(texts, 1)["test"])
    assert len(overlap) < 30  # 10 are expected of independent draws


@pytest.mark.parametrize("texts", [["x" * 999 + "é"], ["a" * 500, "b" * 500]])
def test_few_documents_are_cut(folder, texts):
    task = make(folder, texts)
    parts = {split: told(task.tokenizer, scored(whole(task, split))) for split in SPLITS}
    assert ["".join(cut) for cut in zip(*parts.values(), strict=True)] == texts
    assert [sum(map(len, part)) for part in parts.values()] == [900, 50, 50]


def test_a_file_of_text(tmp_path):
    (tmp_path / "book.txt").write_text("It was a dark and stormy night. " * 40)
    task = Text(str(tmp_path / "book.txt"), context=16)
    assert len(task.data("train")) == math.ceil((1152 + 1) / 16)


@pytest.mark.parametrize(("streaming", "split"), [(False, "source-code"), (True, "documentation")])
def test_corpora_from_outside(folder, streaming, split):
    task = make(folder, ["one" * 40, "two" * 40, "three" * 40], context=64, streaming=streaming)
    assert told(task.tokenizer, scored(whole(task, split))) == documents(split)
    assert task.bytes_per_token(split) == 1.0


# ------------------------------------------------------------------------------------------------------------- streaming


@settings(laws, max_examples=8)
@given(texts=TEXTS, context=st.integers(1, 5), buffer=st.integers(1, 40), limit=st.none() | st.integers(3, 30))
def test_streaming_equals_in_memory(folder, texts, context, buffer, limit):
    texts = [*texts, *(f"document number {index}" for index in range(80))]
    keywords = {"context": context, "shuffle_buffer": buffer, "limit_documents": limit}
    streamed = make(folder, texts, streaming=True, **keywords)
    taken = texts[:limit]
    expected = {split: [text for text in taken if split_of(draw(text, 0)) == split] for split in SPLITS}
    for split in ("validation", "test"):
        assert told(streamed.tokenizer, scored(rows(streamed, split))) == expected[split]
    assert Counter(scored(rows(streamed, "train"))) == Counter(
        token for text in expected["train"] for token in [*text.encode(), 256]
    )
    if all(expected.values()):
        memory = make(folder, texts, **keywords)
        for split in SPLITS:
            assert Counter(map(repr, rows(streamed, split))) == Counter(map(repr, rows(memory, split)))


def test_many_files_are_read_in_another_order_for_each_seed(folder):
    texts = [f"document number {index}" for index in range(60)]
    task = make(folder, texts, files=6, streaming=True, context=18, shuffle_buffer=1)
    firsts = {tuple(rows(task, "train", seed=seed)[0][0]) for seed in range(8)}
    assert len(firsts) > 2
    for seed in range(3):
        found = told(
            task.tokenizer, [token for row in task.data("train", seed=seed) for token in row.target[row.weight > 0].tolist()]
        )
        assert sorted(found) == sorted(text for text in texts if split_of(draw(text, 0)) == "train")


@pytest.mark.parametrize("streaming", [False, True])
def test_order_is_drawn_from_the_seed_alone(folder, streaming):
    texts = [f"document number {index}" for index in range(60)]
    task = make(folder, texts, files=3, streaming=streaming, context=8, shuffle_buffer=20)
    before = torch.get_rng_state()
    first, again, other = (rows(task, "train", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert first == again != other
    assert rows(task, "test", seed=0) == rows(task, "test", seed=1)


def test_workers_share_the_shards(folder, caplog, recwarn):
    texts = [f"document number {index}" for index in range(60)]
    for files, limit in ((1, None), (4, None), (4, 30)):
        task = make(folder, texts, files=files, streaming=True, limit_documents=limit)
        wanted = sorted(text for text in texts[:limit] if split_of(draw(text, 0)) == "train")
        loader = task.loader("train", 1, workers=2)
        assert loader.num_workers == (2 if files == 4 and limit is None else 1)
        seen = Counter(token for batch in loader for token in batch.target[batch.weight > 0].tolist())
        assert seen == Counter(token for text in wanted for token in [*text.encode(), 256])
    assert not caplog.records
    assert not recwarn.list


def test_a_stream_survives_pickling(folder):
    task = pickle.loads(pickle.dumps(make(folder, ["one", "two", "three"] * 5, streaming=True)))
    assert isinstance(task.data("train"), _Stream)
    assert scored(rows(task, "train"))
    assert task.bytes_per_token("train") is None


def test_byte_pairs_of_a_stream(folder):
    texts = [f"document number {index}" for index in range(60)]
    keywords = {"tokenizer": "bpe", "vocab_size": 280}
    memory, streamed = make(folder, texts, **keywords), make(folder, texts, streaming=True, **keywords)
    assert memory.spec == streamed.spec == {"vocab_size": 280}
    assert memory.tokenizer.encode(texts[0]) == streamed.tokenizer.encode(texts[0])
    assert rows(memory, "test") == rows(streamed, "test")
    assert rows(make(folder, texts, tokenizer=memory.tokenizer), "test") == rows(memory, "test")


# ---------------------------------------------------------------------------------------------------------------- judging


def test_bytes_are_judged_per_byte(folder):
    task = make(folder, [f"document number {index}" for index in range(30)], context=7)
    found = task.evaluate(Flat())
    assert found["loss"] == pytest.approx(math.log(257), abs=1e-5)
    assert found["nats_per_byte"] == found["loss"]
    assert found["bits_per_byte"] == pytest.approx(math.log2(257), abs=1e-5)
    sure = task.evaluate(Flat(truth=True), split="validation")
    assert sure["accuracy"] == 1
    assert sure["loss"] < 1e-6
    assert task.evaluate(Flat(), split="documentation", limit=2)["loss"] == pytest.approx(math.log(257), abs=1e-5)
    stream = make(folder, [f"document number {index}" for index in range(60)], streaming=True)
    assert "nats_per_byte" not in stream.evaluate(Flat(), split="train", limit=5)


def test_nats_per_byte_of_byte_pairs(folder):
    task = make(folder, ["low lower lowest " * 9 + str(i) for i in range(30)], tokenizer="bpe", vocab_size=270)
    found = task.evaluate(Flat())
    texts = deal(documents(str(folder)), 0)["test"]
    size = sum(len(text) + 1 for text in texts)
    count = sum(len(task.tokenizer.encode(text)) + 1 for text in texts)
    assert found["nats_per_byte"] == pytest.approx(found["loss"] * count / size)


# ----------------------------------------------------------------------------------------------------------------- errors


def test_what_makes_no_text_says_why(folder):
    texts = ["one", "two", "three"]
    for name, value in (("context", 0), ("limit_documents", 0), ("shuffle_buffer", 0)):
        with pytest.raises(ValueError, match=f"{name}=0: it must be at least 1"):
            make(folder, texts, **{name: value})
    with pytest.raises(ValueError, match=r"context=128: the training documents .* have only \d tokens: choose a smaller context"):
        make(folder, texts, context=128)
    with pytest.raises(ValueError, match="choose uniform or noise"):
        make(folder, texts, start="zero")
    with pytest.raises(ValueError, match="needs vocab_size"):
        make(folder, texts, tokenizer="bpe")
    task = make(folder, texts)
    for call in (task.data, task.bytes_per_token, lambda split: task.loader(split, 1)):
        with pytest.raises(ValueError, match="unknown split 'tset': did you mean 'test'"):
            call("tset")
    with pytest.raises(ValueError, match="batch_size=0"):
        task.loader("train", 0)


def test_an_empty_stream_says_so(folder):
    task = make(folder, ["one"], streaming=True)
    empty = next(split for split in SPLITS if split != split_of(draw("one", 0)))
    with pytest.raises(ValueError, match=f"split '{empty}' has no chain to score"):
        task.evaluate(Flat(), split=empty)


def test_toml_builds_text(folder, tmp_path):
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"text": f"document {i}"}) for i in range(20)))
    build = pydantic.validate_call(Text.__init__, config={"arbitrary_types_allowed": True})
    task = Text.__new__(Text)
    build(task, source=str(tmp_path / "rows.jsonl"), context=8, limit_documents=10)
    assert task.spec == {"vocab_size": Bytes.vocab_size}
    for keywords in ({"context": "long"}, {"start": 3}, {"streaming": "perhaps"}):
        with pytest.raises(pydantic.ValidationError):
            build(None, **keywords)


def test_king_james_fills_windows():
    task = Text(context=128)
    assert len(task.data("train")) > 25_000
    assert len(task.data("validation")) > 1_000 < len(task.data("test"))
    assert sum(len(task._pack(split)[0]) - 1 for split in SPLITS) == 4_106_349 + (31_102 - 1_188) + 1_189

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
from ebm.tasks.text import packing, text
from ebm.tasks.text.corpora import documents
from ebm.tasks.text.splits import SPLITS, deal, draw, split_of
from ebm.tasks.text.streaming import StreamedWindows
from ebm.tasks.text.text import Text
from ebm.tasks.text.tokenizers import Bytes

laws = settings(deadline=None, max_examples=25)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(str.strip)
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
    tokens = Text(path, context=1, seed=seed, **kind)._parts("train")[0].ids
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


def test_batches_are_ids_with_float_weights(folder):
    texts = [f"document {index}" for index in range(60)]
    task = make(folder, texts, context=5, streaming=False)
    stream = make(folder, texts, context=5, streaming=True)
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
    task = make(folder, [f"{index} " * 40 for index in range(60)], context=64, streaming=streaming)
    assert told(task.tokenizer, scored(whole(task, split))) == documents(split)
    assert task.bytes_per_token(split) == 1.0


# ------------------------------------------------------------------------------------------------------------- streaming


@settings(laws, max_examples=8)
@given(texts=TEXTS, context=st.integers(1, 5), buffer=st.integers(1, 40), limit=st.none() | st.integers(60, 90))
def test_streaming_equals_in_memory(folder, texts, context, buffer, limit):
    texts = [*(f"document number {index}" for index in range(80)), *texts]
    keywords = {"context": context, "shuffle_buffer": buffer, "limit_documents": limit}
    streamed = make(folder, texts, streaming=True, **keywords)
    taken = texts[:limit]
    expected = {split: [text for text in taken if split_of(draw(text, 0)) == split] for split in SPLITS}
    for split in ("validation", "test"):
        assert told(streamed.tokenizer, scored(rows(streamed, split))) == expected[split]
    assert Counter(scored(rows(streamed, "train"))) == Counter(
        token for text in expected["train"] for token in [*text.encode(), 256]
    )
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
    task = pickle.loads(pickle.dumps(make(folder, [f"text {index}" for index in range(60)], streaming=True)))
    assert isinstance(task.data("train"), StreamedWindows)
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


def test_a_stream_with_an_empty_split_is_refused_before_training(folder):
    for texts in (["one"], ["one", "two"], [], [" "]):
        with pytest.raises(ValueError, match="leave a split of train, validation, test empty|no text"):
            make(folder, texts, streaming=True)


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
    assert sum(len(task._parts(split)[0].ids) - 1 for split in SPLITS) == 4_106_349 + (31_102 - 1_188) + 1_189


# ----------------------------------------------------------------------------------------------------- the user's own data


def texts_of(task, split):
    return told(task.tokenizer, scored(rows(task, split)) if split != "train" else scored(whole(task, split)))


def test_splits_are_what_files_are_called_and_the_task_says_so(tmp_path):
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": f"{name} {index}"}) for index in range(9)))
    for streaming in (False, True):
        task = Text(str(tmp_path), context=4, streaming=streaming)
        assert texts_of(task, "validation") == [f"valid {index}" for index in range(9)]
        assert texts_of(task, "test") == [f"test {index}" for index in range(9)]
        seen = Counter(token for *_, window in [(0, row[0]) for row in rows(task, "train")] for token in window)
        assert seen[ord("r")] == 9  # "train" alone has one
        assert seen[ord("s")] == seen[ord("v")] == 0
        many = "a stream of all" if streaming else "27"
        assert task.reads == f"{many} documents of {tmp_path}; train, validation and test by the files' names"
    listed = Text(str(tmp_path / "train.jsonl"), context=4, validation=str(tmp_path / "test.jsonl"), test=["by hand"])
    assert texts_of(listed, "validation") == [f"test {index}" for index in range(9)]
    assert texts_of(listed, "test") == ["by hand"]
    assert texts_of(listed, "train") == [f"train {index}" for index in range(9)]


def test_a_text_too_short_to_be_cut_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match="its text is too short to be cut into train, validation, test, test is empty: bring more documents"
    ):
        Text(["abcdef"], context=1)
    task = Text(["abcdefghij" * 10], context=1)
    assert task.reads == "1 documents of a list; train, validation and test drawn"


@pytest.mark.parametrize("streaming", [False, True])
def test_weights_are_shares_of_training_windows(streaming):
    # The first source has 5 times as many windows as the second.
    first, second = [f"a{index:03}" for index in range(500)], [f"b{index:03}" for index in range(100)]
    task = Text([first, second], context=5, weights=[1, 3], streaming=streaming, shuffle_buffer=1)
    counts = Counter(chr(target[0]) for target, *_ in rows(task, "train"))
    assert counts["b"] / counts.total() == pytest.approx(0.75, abs=0.05 if streaming else 0.01)
    assert sorted({*texts_of(task, "validation"), *texts_of(task, "test")})[-1][0] == "b"
    seen = {bytes(target[:4]).decode() for target, *_ in rows(task, "train")}
    held = {*texts_of(task, "validation"), *texts_of(task, "test")}
    assert seen == {*first, *second} - held
    with pytest.raises(ValueError, match="one positive number for each source is wanted, and there are 2"):
        Text([first, second], context=5, weights=[1])


def test_a_weighted_stream_has_no_more_workers_than_shards():
    first, second = ([f"{name} {index}" for index in range(99)] for name in "ab")
    task = Text([first, second], context=4, weights=[1, 1], streaming=True)
    assert task.loader("train", 1, workers=2).num_workers == 1


# ------------------------------------------------------------------------------------------------------------ large corpora


@pytest.fixture
def large(monkeypatch):
    monkeypatch.setattr(text, "LARGE", 0)


@pytest.mark.parametrize("kind", [{}, {"tokenizer": "bpe", "vocab_size": 280}])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 60])
def test_a_large_corpus_is_what_a_small_one_is(folder, tmp_path, large, monkeypatch, kind, count):
    texts = [f"document number {index} " * 5 for index in range(count)]
    task = make(folder, texts, context=3, cache=str(tmp_path), **kind)
    again = make(folder, texts, context=3, cache=str(tmp_path), **kind)
    monkeypatch.undo()
    small = make(folder, texts, context=3, tokenizer=task.tokenizer)
    for split in SPLITS:
        assert whole(task, split) == whole(again, split) == whole(small, split)
        assert task.bytes_per_token(split) == small.bytes_per_token(split)
    assert rows(task, "train", seed=1) == rows(small, "train", seed=1)
    assert task.digest == small.digest


def test_a_large_corpus_is_prepared_once_for_what_it_holds(folder, tmp_path, large, monkeypatch):
    texts = [f"document number {index}" for index in range(60)]
    bpe = {"tokenizer": "bpe", "vocab_size": 270, "cache": str(tmp_path)}
    first = make(folder, texts, **bpe)
    assert first.reads == f"0 MB of {folder}; train, validation and test drawn"
    monkeypatch.setattr(text, "pack_into", lambda *_, **__: pytest.fail("it is there"))
    monkeypatch.setattr(text, "make_tokenizer", lambda *_, **__: pytest.fail("it is there"))
    assert make(folder, texts, **bpe).tokenizer.encode(texts[0]) == first.tokenizer.encode(texts[0])
    monkeypatch.undo()
    monkeypatch.setattr(text, "LARGE", 0)
    places = {first._prepared()}
    for other in ({"seed": 1}, {"limit_documents": 50}, {"vocab_size": 275}):
        places.add(make(folder, texts, **bpe | other)._prepared())
    places.add(make(folder, [*texts, "one more"], **bpe)._prepared())
    assert len(places) == 5
    monkeypatch.setenv("EBM_CACHE", str(tmp_path / "named"))
    assert make(folder, texts)._prepared().parent == tmp_path / "named" / "text"


def test_what_the_cache_may_take_is_said(folder, tmp_path, large):
    texts = [f"document number {index}" for index in range(60)]
    with pytest.raises(ValueError, match=r"take more than 1e-06 GB: set --task\.cache-limit above 1e-06, or --task\.streaming"):
        make(folder, texts * 50, cache=str(tmp_path), cache_limit=1e-6)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    with pytest.raises(ValueError, match="cache_limit=0"):
        make(folder, texts, cache_limit=0)


def test_workers_read_mapped_files(folder, tmp_path, large):
    task = make(folder, [f"document number {index}" for index in range(60)], context=8, cache=str(tmp_path))
    assert rows(task, "train", workers=2) == rows(task, "train")


def test_byte_pairs_of_a_large_corpus_are_learned_from_its_beginning_in_pieces(folder, tmp_path, large, monkeypatch):
    texts = ["low lower lowest slow " * 9] * 60
    keywords = {"tokenizer": "bpe", "vocab_size": 270}
    whole = make(folder, texts, cache=str(tmp_path / "a"), **keywords)
    monkeypatch.setattr(packing, "PIECE", 20)  # as long documents are: the pairs are the same
    assert make(folder, texts, cache=str(tmp_path / "b"), **keywords).tokenizer.encode(texts[0]) == whole.tokenizer.encode(
        texts[0]
    )
    monkeypatch.setattr(text, "CHARACTERS", 100)
    taught = [*make(folder, texts, cache=str(tmp_path / "c"), **keywords)._taught()]
    assert 100 <= sum(map(len, taught)) < 130

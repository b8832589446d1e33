"""Laws of tokenizers: text comes back, end-of-text is never written, vocabularies are fixed by the documents."""

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Model
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from ebm.tasks import Dyck, Questions, Text
from ebm.tasks.text.tokenizers import (
    BytePairs,
    Bytes,
    Pretrained,
    Tokenizer,
    encode_prompt,
    make_tokenizer,
    read_tokenizer,
    save_tokenizer,
)

laws = settings(deadline=None, max_examples=50)
TEXTS = ["In the beginning God created the heaven and the earth. " * 3, "naïve 第三 🙂\n\n\tdef f(x):\n    return x\n" * 3]


def save_byte_level(folder, unknown="<|endoftext|>", eos="<|endoftext|>"):
    """Saves a small tokenizer in the way of GPT-2."""
    model = Model(models.BPE())
    model.pre_tokenizer, model.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>"]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    model.train_from_iterator(TEXTS, trainer)
    PreTrainedTokenizerFast(tokenizer_object=model, eos_token=eos, unk_token=unknown).save_pretrained(folder)
    return str(folder)


def save_words(folder, **special):
    """Saves a tokenizer that knows two words."""
    model = Model(models.WordLevel({"the": 0, "cat": 1, "[UNK]": 2, "</s>": 3}, unk_token="[UNK]"))
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=model, **special).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    return {"bytes": Bytes(), "bpe": BytePairs(TEXTS, 300), "pretrained": Pretrained(save_byte_level(folder))}


@pytest.mark.parametrize("name", ["bytes", "bpe", "pretrained"])
@laws
@given(text=st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from([*TEXTS, "a <|endoftext|> b"]))
def test_text_comes_back(every, name, text):
    tokenizer = every[name]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == tokenizer.decode([tokenizer.end, *ids, tokenizer.end]) == text
    assert tokenizer.end not in ids
    assert all(0 <= token < tokenizer.vocab_size for token in [*ids, tokenizer.end])
    one, two = tokenizer.encode_batch([text, text + "!"])
    assert one.tolist() == ids
    assert two.tolist() == tokenizer.encode(text + "!")


@pytest.mark.parametrize("name", ["bytes", "bpe", "pretrained"])
def test_every_tokenizer_keeps_the_protocol(every, name):
    tokenizer = every[name]
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.unknown is None
    assert tokenizer.encode_batch([]) == []
    assert [ids.size for ids in tokenizer.encode_batch(["", ""])] == [0, 0]
    assert isinstance(tokenizer.encode_batch(["x"])[0], np.ndarray)
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.encode("a <|endoftext|>") == tokenizer.encode("a <|endoftext|>")


def test_bytes_are_bytes():
    assert Bytes().vocab_size == 257
    assert Bytes().encode("é") == [195, 169]
    assert Bytes().decode([195]) == "\ufffd"
    assert Bytes().decode([256, 72, 105, 256]) == "Hi"


def test_byte_pairs_learn_and_stop():
    pairs = BytePairs(TEXTS, 300)
    assert pairs.vocab_size == pairs.end + 1 == 300
    assert len(pairs.encode(TEXTS[0])) < len(TEXTS[0].encode()) / 2
    assert BytePairs(["ab"], 1000).vocab_size == 258  # there is one pair to merge
    assert BytePairs([], 257).encode("é") == [*BytePairs(["x"], 257).encode("é")]


def test_byte_pairs_are_a_function_of_the_documents():
    code = f"from ebm.tasks.text.tokenizers import BytePairs; print(BytePairs({TEXTS!r}, 320).model.to_str())"
    other = {"PYTHONHASHSEED": "1", "RAYON_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    there = subprocess.run([sys.executable, "-c", code], env={**os.environ, **other}, capture_output=True, check=True).stdout
    for _ in range(2):
        assert there == (BytePairs(iter(TEXTS), 320).model.to_str() + os.linesep).encode()


def test_end_of_text_is_nothing_one_can_write(every):
    for tokenizer in every.values():
        assert tokenizer.decode([*tokenizer.encode("a <|endoftext|>"), tokenizer.end]) == "a <|endoftext|>"


def test_prompts(every, tmp_path):
    for tokenizer in every.values():
        assert encode_prompt(tokenizer, "") == [tokenizer.end]
        assert encode_prompt(tokenizer, "第 🙂") == tokenizer.encode("第 🙂")
    words = Pretrained(save_words(tmp_path, eos_token="</s>", unk_token="[UNK]"))
    assert encode_prompt(words, "the cat") == [0, 1]
    assert words.encode("the dog") == [0, words.unknown]
    with pytest.raises(ValueError, match="no token for 'dog'"):
        encode_prompt(words, "the dog sat")


def test_names(tmp_path):
    folder = save_byte_level(tmp_path)
    kinds = {"bytes": Bytes, "bpe": BytePairs, folder: Pretrained}
    for name, kind in kinds.items():
        assert isinstance(make_tokenizer(name, lambda: TEXTS, 300 if name == "bpe" else None), kind)


def test_what_is_no_tokenizer_says_why(tmp_path, monkeypatch):
    for name in ("bytse", "org/tokenizer", str(tmp_path)):
        with pytest.raises(ValueError, match=r'cannot be loaded .*: tokenizer="bytes" needs no network'):
            make_tokenizer(name, list)
    with pytest.raises(ValueError, match="choose bytes, bpe"):
        make_tokenizer("", list)
    with pytest.raises(ValueError, match=r"'bpe' needs vocab_size.*4096"):
        make_tokenizer("bpe", list)
    with pytest.raises(ValueError, match="vocab_size=256: at least 257"):
        make_tokenizer("bpe", list, 256)
    with pytest.raises(ValueError, match="vocab_size=300 with tokenizer='bytes'"):
        make_tokenizer("bytes", list, 300)
    with pytest.raises(ValueError, match="has no eos_token"):
        Pretrained(save_words(tmp_path / "words", unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=Model(models.BPE())).save_pretrained(tmp_path / "none")
    with pytest.raises(ValueError, match=r"has \d tokens, its vocabulary was not found"):
        Pretrained(str(tmp_path / "none"))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match='tokenizer="bytes"'):
        Pretrained("gpt2")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match="tokenizers is not installed"):
        BytePairs(TEXTS, 300)


@pytest.mark.parametrize("listed", ["tokenizer_config.json", "config.json"])
def test_a_tokenizers_folder_runs_no_code_whatever_is_answered(tmp_path, monkeypatch, listed):
    folder = tmp_path / "brought"
    folder.mkdir()
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Mine: pass\n")
    auto = {"AutoTokenizer": ["mine.Mine", None], "AutoConfig": "mine.Mine"}
    (folder / listed).write_text(json.dumps({"auto_map": auto, "tokenizer_class": "Mine", "model_type": "mine"}))
    asked = []
    monkeypatch.setattr("builtins.input", lambda *words: asked.append(words) or "y")
    with pytest.raises(ValueError, match=r"tokenizer .*brought' cannot be loaded"):
        Pretrained(str(folder))
    assert asked == []
    assert not (tmp_path / "ran").exists()


# ------------------------------------------------------------------------------------------- other programs' tokenizers

CHAT = ["<|end|>", "<|ask|>", "<|reply|>"]


def chat_model():
    """Makes a `tokenizers` model with three special tokens, which takes three characters at most of a text and wraps it."""
    model = Model(models.BPE())
    model.pre_tokenizer, model.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=CHAT, initial_alphabet=alphabet, show_progress=False)
    model.train_from_iterator(TEXTS, trainer)
    model.post_processor = processors.TemplateProcessing(single="<|end|> $A", special_tokens=[("<|end|>", 0)])
    model.enable_truncation(3)
    model.enable_padding(length=50)
    return model


def brought(folder):
    """The same tokenizer in all forms that people bring, its end-of-text named where the form does not say."""
    model = chat_model()
    model.save(str(folder / "only.json"))
    unpadded = chat_model()
    unpadded.no_padding()  # for which transformers would add a token
    fast = PreTrainedTokenizerFast(tokenizer_object=unpadded, eos_token="<|end|>")
    fast.add_special_tokens({"additional_special_tokens": CHAT[1:]})
    fast.save_pretrained(folder / "chat")
    named = {"end_token": "<|end|>"}
    return {
        "object": (model, named),
        "file": (str(folder / "only.json"), named),
        "path": (folder / "only.json", named),
        "transformers": (fast, {}),
        "folder": (str(folder / "chat"), {}),
    }


@pytest.mark.parametrize("form", ["object", "file", "path", "transformers", "folder"])
def test_every_form_of_a_tokenizer_encodes_alike(tmp_path, form):
    source, named = brought(tmp_path)[form]
    text = "<|ask|>hi<|reply|>yes, and much more than three<|end|>"
    split = make_tokenizer(source, list, **named)
    whole = make_tokenizer(source, list, **named, special_tokens=True)
    oracle = chat_model()
    oracle.no_truncation()
    oracle.no_padding()
    assert whole.encode(text) == oracle.encode(text, add_special_tokens=False).ids
    assert [token for token in whole.encode(text) if token < 3] == [1, 2, 0]
    assert not set(split.encode(text)) & {0, 1, 2}
    assert split.decode(split.encode(text)) == text
    assert whole.decode(whole.encode(text)) == text.removesuffix("<|end|>")  # an end ends a text, and is none of it
    assert (split.end, split.unknown, split.vocab_size) == (0, None, 300)
    assert pickle.loads(pickle.dumps(whole)).encode(text) == whole.encode(text)
    other = make_tokenizer(source, list, end_token="<|reply|>")
    assert other.end == 2
    assert other.end not in other.encode(text)


def test_a_tokenizer_that_was_passed_is_left_as_it_is():
    model = chat_model()
    before = model.to_str(), model.encode("a <|ask|>").ids
    make_tokenizer(model, list, end_token="<|end|>").encode("x")
    assert (model.to_str(), model.encode("a <|ask|>").ids) == before


def test_a_folder_is_read_without_transformers_where_it_can_be(tmp_path, monkeypatch):
    source, _ = brought(tmp_path)["folder"]
    with_transformers = Pretrained(source)
    monkeypatch.setitem(sys.modules, "transformers", None)
    without = Pretrained(source)
    assert (without.end, without.unknown) == (with_transformers.end, with_transformers.unknown)
    assert without.encode(TEXTS[1] + "<|ask|>") == with_transformers.encode(TEXTS[1] + "<|ask|>")


def test_an_end_that_the_vocabulary_names_as_a_word_is_never_encoded(tmp_path):
    """An added token that is not special is whole in every text, but not where it would end one."""
    model = chat_model()
    model.add_tokens(["<stop>"])
    assert 300 in make_tokenizer(model, list, end_token="<|end|>").encode("a<stop>b")
    tokenizer = make_tokenizer(model, list, end_token="<stop>")
    assert tokenizer.end == 300
    assert tokenizer.decode(tokenizer.encode("a<stop>b")) == "a<stop>b"
    assert 300 not in tokenizer.encode("a<stop>b")


def test_ids_with_holes_fit_the_vocabulary():
    words = Model(models.WordLevel({"the": 0, "cat": 7, "</s>": 9}, unk_token="the"))
    assert Pretrained(words, "</s>").vocab_size == 10


def test_a_tokenizer_that_cannot_serve_says_why_and_names_the_way_out(tmp_path):
    for source in (chat_model(), brought(tmp_path)["file"][0]):
        with pytest.raises(
            ValueError, match=r"no eos_token.*as in end_token='<\|end\|>' \(its special tokens: <\|end\|>, <\|ask"
        ):
            make_tokenizer(source, list)
        with pytest.raises(ValueError, match=r"end_token='<\|ned\|>' is no token .*'<\|end\|>'"):
            make_tokenizer(source, list, end_token="<|ned|>")
    (tmp_path / "broken.json").write_text('{"model": 3')
    with pytest.raises(ValueError, match=r"broken.json' cannot be loaded"):
        make_tokenizer(str(tmp_path / "broken.json"), list, end_token="x")
    random = chat_model()
    random.model.dropout = 0.1
    with pytest.raises(ValueError, match="drops merges at random"):
        make_tokenizer(random, list, end_token="<|end|>")
    for name, keywords, words in (
        ("bytes", {"end_token": "x"}, "end_token='x' with tokenizer='bytes'"),
        ("bpe", {"vocab_size": 300, "special_tokens": True}, "special_tokens=True with tokenizer='bpe'"),
        (Bytes(), {"end_token": "x"}, "end_token='x' with tokenizer='Bytes'"),
        (object(), {}, "tokenizer=object has no vocab_size"),
    ):
        with pytest.raises(ValueError, match=words):
            make_tokenizer(name, lambda: TEXTS, **keywords)


def test_tasks_hand_the_keywords_on(tmp_path):
    (tmp_path / "chat.txt").write_text("<|ask|>hi<|reply|>yes" * 40)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": "<|ask|>", "answer": "<|reply|>"}))
    keywords = {"tokenizer": chat_model(), "end_token": "<|end|>", "special_tokens": True}
    text = Text(str(tmp_path / "chat.txt"), context=8, **keywords)
    assert {1, 2} <= set(text.data("train")[[0]].target.flatten().tolist())
    assert 2 in Questions(str(tmp_path / "rows.jsonl"), **keywords).data("test")[[0]].target
    assert 2 in Questions(str(tmp_path / "rows.jsonl"), tokenizer=text.tokenizer).data("test")[[0]].target


# ----------------------------------------------------------------------------------------------------- saved and read again


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """name -> (a tokenizer, the one that was read from the folder that it was saved to)."""
    folder = tmp_path_factory.mktemp("kept")
    (folder / "words").mkdir()
    found = {
        "bytes": Bytes(),
        "bpe": BytePairs(TEXTS, 300),
        "chat": Pretrained(chat_model(), "<|end|>", special_tokens=True),
        "split": Pretrained(chat_model(), "<|reply|>"),
        "words": Pretrained(save_words(folder / "words", eos_token="</s>", unk_token="[UNK]")),
        "slow": Pretrained(ByT5Tokenizer(), special_tokens=True),
        "slow-split": Pretrained(ByT5Tokenizer()),
    }
    pairs = {}
    for name, tokenizer in found.items():
        place = folder / f"of-{name}"
        place.mkdir()
        for _ in range(2):  # the second replaces the first
            save_tokenizer(tokenizer, place)
        pairs[name] = tokenizer, read_tokenizer(place)
    return pairs


@pytest.mark.parametrize("name", ["bytes", "bpe", "chat", "split", "words", "slow", "slow-split"])
@laws
@given(text=st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from([*TEXTS, "<|ask|>a<|end|> b</s>", "the cat"]))
def test_a_tokenizer_that_was_read_encodes_as_the_saved_one_did(kept, name, text):
    saved, read = kept[name]
    ids = saved.encode(text)
    assert read.encode(text) == ids
    assert read.encode_batch([text])[0].tolist() == ids
    assert read.decode(ids) == saved.decode(ids)
    assert (read.vocab_size, read.end, read.unknown) == (saved.vocab_size, saved.end, saved.unknown)


def test_slow_tokenizers_encode_as_transformers_does(kept):
    inner = ByT5Tokenizer()
    for name, split in (("slow", False), ("slow-split", True)):
        expected = inner("a</s>é", add_special_tokens=False, split_special_tokens=split)["input_ids"]
        assert kept[name][0].encode("a</s>é") == expected
        assert (inner.eos_token_id in expected) != split


def test_brackets_are_kept_too(tmp_path):
    tokenizer = Dyck(kinds=3, length=8, depth=(1, 2), deep=(3, 4), n=10).tokenizer
    save_tokenizer(tokenizer, tmp_path)
    assert read_tokenizer(tmp_path).encode("({})") == tokenizer.encode("({})")


def test_reading_needs_neither_transformers_nor_a_network(tmp_path, monkeypatch):
    save_tokenizer(Pretrained(ByT5Tokenizer()), tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match="pip install transformers"):
        read_tokenizer(tmp_path)
    chat = Pretrained(chat_model(), "<|end|>")
    save_tokenizer(chat, tmp_path)
    assert read_tokenizer(tmp_path).encode("naïve") == chat.encode("naïve")
    save_tokenizer(Bytes(), tmp_path)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert read_tokenizer(tmp_path).encode("é") == [195, 169]


class Plain(Bytes):
    """A plugin's tokenizer, which is Bytes to isinstance alone."""

    def encode(self, text):
        return [255 - byte for byte in text.encode()]


def test_a_plugins_own_tokenizer_is_kept_by_itself_or_refused(tmp_path):
    with pytest.raises(ValueError, match=r"Plain cannot be saved: give it save\(folder\)"):
        save_tokenizer(Plain(), tmp_path)
    assert list(tmp_path.iterdir()) == []
    own = Plain()
    own.save = lambda folder: (folder / "mine.txt").write_text("x")
    save_tokenizer(own, tmp_path)
    assert (tmp_path / "mine.txt").exists()
    with pytest.raises(ValueError, match="holds Plain, a plugin's own tokenizer: pass the task"):
        read_tokenizer(tmp_path)


def test_what_holds_no_tokenizer_or_a_damaged_one_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no tokenizer"):
        read_tokenizer(tmp_path)
    settings = tmp_path / "tokenizer.settings.json"
    for text in ("{", "[]", '{"kind": "newer"}', '{"kind": "bytes", "more": 1}', '{"kind": "tokenizers", "end": 0}'):
        settings.write_text(text)
        with pytest.raises(ValueError, match="damaged"):
            read_tokenizer(tmp_path)


def test_a_saved_folder_runs_no_code(tmp_path):
    save_tokenizer(Pretrained(ByT5Tokenizer()), tmp_path)
    inner = tmp_path / "tokenizer"
    (inner / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Mine: pass\n")
    config = json.loads((inner / "tokenizer_config.json").read_text())
    config |= {"auto_map": {"AutoTokenizer": ["mine.Mine", None]}, "tokenizer_class": "Mine"}
    (inner / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="damaged, or of a newer version"):
        read_tokenizer(tmp_path)
    assert not (tmp_path / "ran").exists()

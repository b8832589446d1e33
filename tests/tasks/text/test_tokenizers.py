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
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ebm.tasks.text.tokenizers import BytePairs, Bytes, Pretrained, Tokenizer, encode_prompt, make_tokenizer

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

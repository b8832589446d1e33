"""Laws of opening corpora: each kind of source, which split a document belongs to, and what errors say."""

import bz2
import gzip
import hashlib
import json
import lzma
import os
import pickle
import subprocess
import sys
from collections import Counter
from itertools import product
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ebm.tasks.rows import SPLITS
from ebm.tasks.text import reading, shards
from ebm.tasks.text.corpora import BUNDLED, documents, open_corpus, read_rows
from ebm.tasks.text.finding import KINDS, split_of_file
from ebm.tasks.text.splits import deal, dealt_out, draw, split_of

laws = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXTS = ["In the beginning", 'naïve\n\n\ttabs, "quotes" and\nlines', "第三", "a fourth, with trailing space "]
COMPRESS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
COMPRESS[".zst"] = lambda data: pyarrow.compress(data, "zstd", asbytes=True)


def written(kind, texts, folder):
    """The bytes of a file of this kind that holds these documents."""
    rows = [{"number": index, "text": text} for index, text in enumerate(texts)]
    table = datasets.Dataset.from_list(rows)
    path = folder / f"table.{kind}"
    match kind:
        case "json":
            return json.dumps(rows).encode()
        case "jsonl" | "ndjson":
            return "\n".join(map(json.dumps, rows)).encode()
        case "csv" | "tsv":
            table.to_csv(path, sep="\t" if kind == "tsv" else ",")
        case "parquet":
            table.to_parquet(path)
        case "arrow":
            with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_stream(sink, table.data.table.schema) as writer:
                writer.write_table(table.data.table)
    data = path.read_bytes()
    path.unlink()
    return data


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


def splits(corpus):
    found = {}
    for split, _, text in corpus.documents():
        found.setdefault(split, []).append(text)
    return found


# ---------------------------------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize(("kind", "packing"), [*product([kind[1:] for kind in KINDS if kind not in (".txt", ".md")], COMPRESS)])
def test_a_row_is_a_document_in_every_format(tmp_path, kind, packing):
    path = tmp_path / f"rows.{kind}{packing}"
    path.write_bytes(COMPRESS[packing](written(kind, TEXTS, tmp_path)))
    assert documents(str(path)) == documents(path) == TEXTS


@pytest.mark.parametrize(("kind", "packing"), [*product(["txt", "md"], COMPRESS)])
def test_a_text_file_is_a_document(tmp_path, kind, packing):
    for index, text in enumerate(TEXTS):
        (tmp_path / f"{index}.{kind}{packing}").write_bytes(COMPRESS[packing](text.encode()))
    assert documents(str(tmp_path)) == TEXTS


def test_two_frames_of_one_compressed_file_are_read(tmp_path):
    for packing in (".gz", ".bz2", ".xz", ".zst"):
        path = tmp_path / f"rows.jsonl{packing}"
        path.write_bytes(b"".join(COMPRESS[packing](f'{{"text": "{text}"}}\n'.encode()) for text in ("one", "two")))
        assert documents(path) == ["one", "two"]
        path.write_bytes(COMPRESS[packing](('{"text": "one"}\n' * 50).encode())[:-9])
        with pytest.raises(ValueError, match=rf"rows\.jsonl{packing}, row \d+, cannot be read"):
            documents(path)


def test_kinds_may_be_mixed_and_columns_that_nobody_asked_for_do_not_matter(tmp_path):
    lines(tmp_path / "a.jsonl", [{"text": "one", "id": 1}, {"text": "two", "id": "x"}])
    lines(tmp_path / "b.jsonl", [{"id": [1], "text": "three"}, {"id": None, "more": {}, "text": "four"}])
    (tmp_path / "c.csv").write_text("id,text\r\n1,five\r\n")
    (tmp_path / "d.txt").write_text("six")
    assert documents(str(tmp_path)) == ["one", "two", "three", "four", "five", "six"]


def test_lists_inside_json(tmp_path):
    path = tmp_path / "x.json"
    rows = [{"text": "one"}, {"text": "two"}]
    for whole in (rows, {"version": "1", "data": rows}, ["one", "two"], {"data": ["one", "two"]}):
        path.write_text(json.dumps(whole))
        assert documents(path) == ["one", "two"]
    path.write_text("\n".join(map(json.dumps, rows)))  # rows, whatever it is called
    assert documents(path) == ["one", "two"]
    path.write_text(json.dumps({"text": "one", "tags": ["a", "b"]}))
    assert documents(path) == ["one"]
    path.write_text('{"a": [{"text": "x"}], "b": [{"text": "y"}]}')
    with pytest.raises(ValueError, match=r"x\.json, row 0, .* several lists, a, b"):
        documents(path)
    path.write_text("3")
    with pytest.raises(ValueError, match=r"x\.json, row 0, .* 3, and a list of rows is wanted"):
        documents(path)


def test_line_separators_inside_json_are_text(tmp_path):
    text = "one\u2028two\x85three\x0cfour"
    for name in ("a.jsonl", "a.json"):
        path = tmp_path / name
        path.write_text("\n".join([json.dumps({"text": text}, ensure_ascii=False)] * 2), encoding="utf-8")
        assert documents(path) == [text, text]


def test_long_cells_and_wrong_rows_of_csv(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text(f'text,n\n"{"long " * 60_000}",1\n')
    assert documents(path) == ["long " * 60_000]
    path.write_text("text,n\none,1\ntwo,2,3\n")
    with pytest.raises(ValueError, match=r"x\.csv, row 1, cannot be read: it has not as many cells"):
        documents(path)
    path.write_text('text,n\none,1\n"two,2\nthree,3\n')  # an open quotation would swallow the rest
    with pytest.raises(ValueError, match=r"x\.csv, row 1, cannot be read: unexpected end of data"):
        documents(path)


def test_saved_datasets(tmp_path):
    rows = datasets.Dataset.from_dict({"text": TEXTS, "n": range(4)})
    rows.save_to_disk(tmp_path / "one")
    (tmp_path / "one" / "cache-12.arrow").write_bytes((tmp_path / "one" / "data-00000-of-00001.arrow").read_bytes())
    assert documents(str(tmp_path / "one")) == TEXTS
    parts = datasets.DatasetDict(train=rows, test=datasets.Dataset.from_dict({"text": ["test"]}))
    parts.save_to_disk(tmp_path / "both")
    found = splits(open_corpus(str(tmp_path / "both"), validation=["validated"]))
    assert found == {"train": TEXTS, "test": ["test"], "validation": ["validated"]}


# -------------------------------------------------------------------------------------------------------------- documents


@laws
@given(texts=st.lists(st.text("ab \n", max_size=9), max_size=8), size=st.integers(1, 9))
def test_separators_cut_where_they_stand(tmp_path, monkeypatch, texts, size):
    monkeypatch.setattr(reading, "CHUNK", size)
    path = tmp_path / "x.txt"
    path.write_text("<|cut|>".join(texts))
    wanted = [text.removeprefix("\n").removesuffix("\n") for text in texts]
    assert list(reading.Reader(separator="<|cut|>").texts(path)) == (wanted or [""])


def test_a_document_a_line(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"\xef\xbb\xbfone\r\n\r\n  \r\ntwo\n")
    for separator in ("\n", "\\n"):
        assert documents(str(tmp_path / "x.txt"), separator=separator) == ["one", "two"]
    with pytest.raises(ValueError, match="separator='': name what stands between"):
        documents("kjv", separator="")


def test_blank_documents_and_byte_order_marks_are_left_out(tmp_path):
    lines(tmp_path / "a.jsonl", [{"text": text} for text in ("", " \n\t", "one", None, "\u3000")] + [{"id": 3}])
    for kind, start in (("txt", ""), ("csv", "text\n"), ("json", '[{"text": "'), ("jsonl", '{"text": "')):
        end = {"json": '"}]', "jsonl": '"}'}.get(kind, "")
        (tmp_path / f"b.{kind}").write_bytes(b"\xef\xbb\xbf" + f"{start}two{end}".encode())
    (tmp_path / "c.txt").write_text("")
    assert documents(str(tmp_path)) == ["one", "two", "two", "two", "two"]


def test_encodings_are_named(tmp_path):
    path = tmp_path / "x.txt"
    for encoding in ("latin-1", "utf-16", "utf_8", "UTF8"):
        path.write_text("déjà vu", encoding=encoding)
        assert documents(path, encoding=encoding) == ["déjà vu"]
    path.write_text("déjà vu", encoding="latin-1")
    with pytest.raises(ValueError, match=r"x\.txt: it is no utf-8 .*: name its encoding, as in --task\.encoding latin-1"):
        documents(str(tmp_path))
    path.write_text("déjà vu", encoding="utf-16")
    with pytest.raises(ValueError, match=r"--task\.encoding utf-16"):
        documents(path)
    with pytest.raises(ValueError, match="encoding='utf-9' is unknown: name one of Python's"):
        documents("kjv", encoding="utf-9")


def test_columns_by_path(tmp_path):
    chat = {"turns": [{"role": "user", "said": "hi"}, {"role": "other", "said": "yes"}]}
    rows = [{"a": {"b": {"text": "one"}}, "c.d": "two", "n": 1, **chat}, {"a": {"b": None}, "c.d": None, "n": None, "turns": []}]
    path = lines(tmp_path / "x.jsonl", rows)
    parquet = tmp_path / "x.parquet"
    datasets.Dataset.from_list(rows[:1]).to_parquet(parquet)
    for source in (path, parquet, datasets.Dataset.from_list(rows[:1])):
        assert documents(source, column="a.b.text") == ["one"]
        assert documents(source, column="c.d") == ["two"]
        assert documents(source, column="turns.said") == ["hi\nyes"]
    for source in (path, datasets.Dataset.from_list(rows)):
        with pytest.raises(ValueError, match=r"column 'turns', row 0: .* is no text: name a place .* turns\.said, which joins"):
            documents(source, column="turns")
        with pytest.raises(ValueError, match="column 'n', row 0: 1 is no text$"):
            documents(source, column="n")
    with pytest.raises(ValueError, match=r"x\.jsonl has no column 'b\.text'.* as in --task\.column a\.b\.text"):
        documents(path, column="b.text")
    with pytest.raises(ValueError, match="no column 'txt': did you mean 'text'"):
        documents(lines(tmp_path / "y.jsonl", [{"text": "x"}]), column="txt")


def test_an_error_names_the_file_and_the_row(tmp_path):
    for index in range(9):
        lines(tmp_path / f"{index}.jsonl", [{"text": f"{index} {row}"} for row in range(5)])
    wrong = tmp_path / "4.jsonl"
    good = wrong.read_text()
    for row, what in (
        ('{"text": 4}', r"4\.jsonl, column 'text', row 5: 4 is no text"),
        ('{"text": "cut', r"4\.jsonl, row 5, cannot be read: Invalid control character"),
        ("[1, 2]", r"4\.jsonl, row 5, cannot be read: \[1, 2\] is no row"),
        ('{"text": "\\ud800"}', r"4\.jsonl, row 5: the text holds half a character"),
        ('{"text": ' + "[" * 99_999, r"4\.jsonl, row 5, cannot be read"),
    ):
        wrong.write_text(f"{good}\n{row}\n")
        with pytest.raises(ValueError, match=what):
            documents(str(tmp_path))


# ---------------------------------------------------------------------------------------------------------------- finding


def test_folders_globs_and_odd_names(tmp_path):
    folder = tmp_path / "odd [1] *"
    (folder / "below").mkdir(parents=True)
    for name in ("b.txt", "a.txt", "below/c.txt"):
        (folder / name).write_text(name)
    assert documents(str(folder)) == ["a.txt", "b.txt", "below/c.txt"]
    assert documents(str(folder / "a.txt")) == ["a.txt"]
    assert documents(f"{tmp_path}/*/[ab].txt") == ["a.txt", "b.txt"]
    assert documents(f"{tmp_path}/**/*.txt") == ["a.txt", "b.txt", "below/c.txt"]
    assert documents([str(folder / "b.txt"), folder / "a.txt"]) == ["b.txt", "a.txt"]


def test_hidden_and_other_files_are_left_out_and_counted(tmp_path):
    for name in ("a.txt", ".hidden.txt", "._a.txt", ".git/config.txt", ".git/more/x.txt", "picture.png", "sub/.DS_Store"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    corpus = open_corpus(str(tmp_path))
    assert [text for pool in corpus.pools for text in pool] == ["a.txt"]
    assert corpus.how.endswith("4 hidden files left out, 1 other file left out")


def test_files_about_the_data_are_no_data(tmp_path):
    lines(tmp_path / "data" / "part-0.jsonl", [{"text": "one"}])
    for name in ("README.md", "LICENSE.txt", "dataset_infos.json", "data/readme.md"):
        (tmp_path / name).write_text("{}")
    assert documents(str(tmp_path)) == ["one"]
    assert open_corpus(str(tmp_path)).how.endswith("4 other files left out")
    assert documents(str(tmp_path / "README.md")) == ["{}"]


def test_a_keyword_that_applies_to_nothing_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("one|two")
    rows = lines(tmp_path / "b.jsonl", [{"text": "one"}])
    for source in (rows, "documentation", ["a text"]):
        with pytest.raises(ValueError, match=r"separator='\|': it cuts text files, and .* has none: leave it out"):
            open_corpus(source, separator="|")
    for source in (str(tmp_path / "a.txt"), "documentation", ["a text"]):
        with pytest.raises(ValueError, match="column='body': .* has no column 'body', its documents are whole texts"):
            open_corpus(source, column="body")
    assert documents(str(tmp_path), separator="|") == ["one", "two", "one"]


def test_linked_folders_are_read_once(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "a.txt").write_text("a")
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "link").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "round").symlink_to(tmp_path / "near")
    assert documents(str(tmp_path / "near")) == ["a"]


def test_what_cannot_be_read_says_why(tmp_path):
    for source in ("missing.txt", "./missing", str(tmp_path / "missing.jsonl.gz"), Path("missing")):
        with pytest.raises(FileNotFoundError, match="there is no file"):
            documents(source)
    for source in (str(tmp_path), str(tmp_path / "*.txt")):
        with pytest.raises(FileNotFoundError, match=r"holds no file: .* \.txt, \.md, \.json, \.jsonl"):
            documents(source)
    (tmp_path / "page.pdf").write_text("x")
    with pytest.raises(ValueError, match=r"\.pdf cannot be read, only \.txt"):
        documents(str(tmp_path / "page.pdf"))
    for source in ("In the beginning\nGod", "In the beginning " * 100):
        with pytest.raises(ValueError, match=r"source='In the beginning.* is a text and no name: put texts into a list"):
            documents(source)
    with pytest.raises(ValueError, match="source is a int: a path, a hub name, a list of texts"):
        documents(3)
    with pytest.raises(ValueError, match="source='': name a file"):
        documents("")


# ----------------------------------------------------------------------------------------------------------------- splits


def test_names_say_splits():
    names = {
        "train": ["train.txt", "my-train-00001.jsonl", "Training/0.txt", "test/train.txt", "train2.csv", "data/train/deep/x.txt"],
        "validation": ["valid.txt", "val.txt", "x_validation.jsonl.gz", "dev/1.txt", "a.dev.txt"],
        "test": ["test.txt", "data.test.json", "eval-01.txt", "train/test.txt"],
        None: ["latest.txt", "contest.txt", "trainer.txt", "value.txt", "devel/x.txt", "train-test.txt", "a.txt"],
    }
    for split, files in names.items():
        assert {file: split_of_file(Path(file)) for file in files} == dict.fromkeys(files, split)


def folder_of(folder, *names):
    for name in names:
        lines(folder / name, [{"text": f"{name} {row}"} for row in range(40)])
    return str(folder)


def whose(found):
    return {split: {text.split()[0] for text in texts} for split, texts in found.items()}


def test_splits_are_what_files_are_called(tmp_path):
    corpus = open_corpus(folder_of(tmp_path / "a", "x-train.jsonl", "valid/0.jsonl", "test.jsonl", "notes.jsonl"))
    assert whose(splits(corpus)) == {"train": {"x-train.jsonl"}, "validation": {"valid/0.jsonl"}, "test": {"test.jsonl"}}
    assert corpus.how == "train, validation and test by the files' names, 1 file of no split's name left out"
    corpus = open_corpus(folder_of(tmp_path / "b", "train.jsonl", "val.jsonl"))
    found = splits(corpus)
    assert whose(found) == {"train": {"train.jsonl"}, "validation": {"val.jsonl"}, "test": {"train.jsonl"}}
    assert len(found["validation"]) == 40
    assert corpus.how == "train and validation by the files' names, test drawn from train"
    corpus = open_corpus(folder_of(tmp_path / "c", "one.jsonl", "two.jsonl", "test.jsonl"))
    found = splits(corpus)
    assert len(found["test"]) == 40
    assert whose({"train": found["train"]}) == {"train": {"one.jsonl", "two.jsonl"}}
    assert documents([str(tmp_path / "c" / "one.jsonl")] * 2) == documents(str(tmp_path / "c" / "one.jsonl")) * 2
    listed = [str(tmp_path / "b" / name) for name in ("train.jsonl", "val.jsonl")]
    assert splits(open_corpus(listed)) == splits(open_corpus(str(tmp_path / "b")))


def test_where_names_say_only_one_split_all_is_drawn(tmp_path):
    for names in (["a.jsonl"], ["train.jsonl"], ["test.jsonl"], ["train.jsonl", "more.jsonl"], ["latest.jsonl", "contest.jsonl"]):
        folder = tmp_path / "-".join(names)
        corpus = open_corpus(folder_of(folder, *names))
        texts = documents(str(folder))
        assert splits(corpus) == deal(texts, 0)
        assert corpus.how == "train, validation and test drawn"
    with pytest.raises(ValueError, match="called validation and test, none is left to train on"):
        open_corpus(folder_of(tmp_path / "x", "val.jsonl", "test.jsonl"))


def test_splits_are_listed(tmp_path):
    source = folder_of(tmp_path, "a.jsonl", "b.jsonl", "c.jsonl")
    corpus = open_corpus(source, validation=str(tmp_path / "b.jsonl"), test=[tmp_path / "c.jsonl"])
    assert whose(splits(corpus)) == {"train": {"a.jsonl"}, "validation": {"b.jsonl"}, "test": {"c.jsonl"}}
    assert corpus.how == f"validation of {tmp_path / 'b.jsonl'}, test of {tmp_path / 'c.jsonl'}"
    corpus = open_corpus(source, test=["by", "hand"])
    found = splits(corpus)
    assert found["test"] == ["by", "hand"]
    assert len(found["train"]) + len(found["validation"]) == 120
    for name in ("dev-1.jsonl", "test-1.jsonl"):
        lines(tmp_path / "more" / name, [{"text": name}])
    corpus = open_corpus(str(tmp_path / "a.jsonl"), validation=str(tmp_path / "more"), test={"train": ["x"], "test": ["y"]})
    found = splits(corpus)
    assert (found["validation"], found["test"]) == (["dev-1.jsonl", "test-1.jsonl"], ["y"])
    found = splits(open_corpus(str(tmp_path), validation=str(tmp_path / "more")))
    assert found["validation"] == ["dev-1.jsonl", "test-1.jsonl"]
    assert len(found["train"]) + len(found["test"]) == 120
    with pytest.raises(ValueError, match="validation='a dict' has no split 'validation'"):
        open_corpus(source, validation={"train": ["x"], "test": ["y"]})
    with pytest.raises(ValueError, match="no file is left to train on, validation takes them all"):
        open_corpus(source, validation=source)


def test_a_split_that_is_named_and_empty_is_refused(tmp_path):
    folder = folder_of(tmp_path, "train.jsonl", "test.jsonl")
    (tmp_path / "val.jsonl").write_text("\n\n")
    (tmp_path / "dev.txt").write_text("")
    with pytest.raises(ValueError, match=r"dev\.txt; .*val\.jsonl, the split 'validation': no text, it has no documents"):
        splits(open_corpus(folder))
    (tmp_path / "val.jsonl").write_text('{"text": " "}\n')
    with pytest.raises(ValueError, match="the split 'validation': no text, all its documents are empty"):
        open_corpus(folder).pools[1].check_streams()


def test_no_text_at_all(tmp_path):
    for name, text, why in (
        ("a.jsonl", "", "it has no documents"),
        ("a.txt", "", "it has no documents"),
        ("a.csv", "text\n", "it has no documents"),
        ("a.json", "[]", "it has no documents"),
        ("b.jsonl", '{"text": ""}', "all its documents are empty"),
        ("b.txt", " \n", "all its documents are empty"),
    ):
        (tmp_path / name).write_text(text)
        for read in (
            documents,
            lambda source: splits(open_corpus(source)),
            lambda source: open_corpus(source).pools[0].check_streams(),
        ):
            with pytest.raises(ValueError, match=rf"{name}: no text, {why}"):
                read(str(tmp_path / name))


@laws
@given(
    texts=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=60),
    seed=st.integers(0, 3),
    some=st.sampled_from([SPLITS, ("train", "test"), ("train", "validation"), ("test",)]),
)
def test_every_document_is_dealt_to_one_split(texts, seed, some):
    dealt = deal(texts, seed, some)
    assert set(dealt) == set(some)
    if len(texts) < len(some):
        assert Counter("".join(map("".join, dealt.values()))) == Counter("".join(texts))
        return
    assert Counter(text for part in dealt.values() for text in part) == Counter(texts)
    assert all(dealt.values())
    drawn = [split_of(draw(text, seed), some) for text in texts]
    if set(drawn) == set(some):
        assert list(dealt_out(texts, seed, some)) == list(zip(drawn, texts, strict=True))


# ---------------------------------------------------------------------------------------------------------------- Python's


def test_what_python_holds(tmp_path):
    texts = [f"text {index}" for index in range(40)]
    rows = datasets.Dataset.from_dict({"text": texts, "id": range(40)})
    dicts = [{"text": text, "n": 1} for text in texts]
    for source in (texts, tuple(texts), np.array(texts), dicts, rows, rows.with_format("torch")):
        assert splits(open_corpus(source)) == deal(texts, 0)
    parts = {"train": texts[:20], "val": texts[20:30], "test": texts[30:]}
    wanted = dict(zip(SPLITS, parts.values(), strict=True))
    assert splits(open_corpus(parts)) == wanted
    tables = datasets.DatasetDict({name: datasets.Dataset.from_dict({"text": part}) for name, part in parts.items()})
    assert splits(open_corpus(tables)) == wanted
    paths = {
        name: lines(tmp_path / f"{index}.jsonl", [{"text": text} for text in part])
        for index, (name, part) in enumerate(parts.items())
    }
    assert splits(open_corpus(paths)) == wanted
    streams = open_corpus(rows.to_iterable_dataset(num_shards=4), streaming=True)
    assert len(streams.streams("train")) == 4
    assert [text for stream in streams.streams("train") for text in stream] == deal(texts, 0)["train"]
    with pytest.raises(ValueError, match="is a stream: read it with streaming=True"):
        open_corpus(rows.to_iterable_dataset())
    with pytest.raises(ValueError, match=r"the splits train, tset, .*did you mean 'test'"):
        open_corpus({"train": texts, "tset": texts})
    with pytest.raises(ValueError, match="row 1: 2 is no text"):
        documents(["one", 2])
    with pytest.raises(ValueError, match="no text, it has no documents"):
        documents([])
    assert documents([{"a": {"b": "one"}}], column="a.b") == ["one"]
    for source in (rows, dicts):
        with pytest.raises(ValueError, match=r"no column 'txt': did you mean 'text'"):
            documents(source, column="txt")


def test_streams_are_the_same_documents_in_shards(tmp_path):
    source = folder_of(tmp_path, "a.jsonl", "b.jsonl", "c.jsonl")
    memory = splits(open_corpus(source))
    corpus = open_corpus(source, streaming=True)
    for split in SPLITS:
        streams = pickle.loads(pickle.dumps(corpus.streams(split)))
        assert len(streams) == 3
        assert [text for stream in streams for text in stream] == memory[split]
    limited = open_corpus(source, streaming=True, limit=50)
    assert len(limited.streams("train")) == 1
    found = splits(open_corpus(source, limit=50))
    assert {split: list(limited.streams(split)[0]) for split in SPLITS} == found
    assert sum(map(len, found.values())) == 50
    assert len(open_corpus("documentation", streaming=True).streams("train")) == 8


def test_a_stream_whose_draws_leave_a_split_empty_is_refused_at_the_start(tmp_path):
    (tmp_path / "one.txt").write_text("one document " * 99)
    for pool in open_corpus(str(tmp_path / "one.txt")).pools:
        with pytest.raises(ValueError, match=r"one\.txt: its documents, 1, leave a split of train, validation, test empty"):
            pool.check_streams()
    open_corpus(folder_of(tmp_path / "many", "a.jsonl")).pools[0].check_streams()


def test_a_fingerprint_is_of_content(tmp_path):
    first = folder_of(tmp_path / "a", "train.jsonl", "test.jsonl")
    one = open_corpus(first).fingerprint()
    (tmp_path / "b").mkdir()
    for old, new in (("train", "0-training"), ("test", "9-eval")):
        (tmp_path / "b" / f"{new}.jsonl").write_bytes((tmp_path / "a" / f"{old}.jsonl").read_bytes())
    assert open_corpus(str(tmp_path / "b")).fingerprint() == one
    with (tmp_path / "b" / "9-eval.jsonl").open("a") as file:
        file.write('\n{"text": "more"}')
    assert open_corpus(str(tmp_path / "b")).fingerprint() != one
    assert open_corpus(["ab", "c"]).fingerprint() != open_corpus(["a", "bc"]).fingerprint()
    rows = datasets.Dataset.from_dict({"text": ["ab", "c"]})
    assert open_corpus(rows).fingerprint() == open_corpus(["ab", "c"]).fingerprint()


def test_the_digest_of_a_large_file_is_computed_once(tmp_path, monkeypatch):
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "one"}')
    shard = shards.FileShard(path, reading.Reader())
    expected, hashed, file_digest = shard.digest(), [], hashlib.file_digest
    monkeypatch.setenv("EBM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shards, "LARGE", 1)
    monkeypatch.setattr(hashlib, "file_digest", lambda *arguments: hashed.append(1) or file_digest(*arguments))
    assert [shard.digest() for _ in range(3)] == [expected] * 3
    assert len(hashed) == 1
    path.write_text('{"text": "two"}')
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))  # where the clock is coarser than a test is fast
    assert shard.digest() != expected

    def refused(*arguments):
        raise PermissionError

    monkeypatch.setattr(shards, "kept", refused)
    assert shard.digest() == hashlib.sha256(path.read_bytes()).digest()


def test_several_sources_have_weights(tmp_path):
    a, b = (folder_of(tmp_path / name, f"{name}.jsonl") for name in "ab")
    corpus = open_corpus([a, b], weights=[3, 1])
    assert corpus.weights == (0.75, 0.25)
    assert {(source, text[0]) for split, source, text in corpus.documents() if split == "train"} == {(0, "a"), (1, "b")}
    assert {(source, text[0]) for split, source, text in corpus.documents() if split != "train"} == {(0, "a"), (0, "b")}
    assert open_corpus([a, b]).weights == (1.0,)
    for wrong in ([1], [1, -1], [1, 0], [1, float("nan")]):
        with pytest.raises(ValueError, match="one positive number for each source is wanted, and there are 2"):
            open_corpus([a, b], weights=wrong)


# -------------------------------------------------------------------------------------------------------------- bundled, hub


def test_bundled_corpora():
    for name in ("documentation", "source-code"):
        for streaming in (False, True):
            assert documents(name, streaming=streaming) == [*filter(str.strip, BUNDLED[name]())]
        assert open_corpus(name).how == ""
    assert any('The "if" statement' in text for text in documents("documentation"))
    assert any("def abspath" in text for text in documents("source-code"))


def test_king_james():
    chapters = documents("kjv")
    assert len(chapters) == 1189
    assert chapters[0].startswith("In the beginning God created the heaven and the earth.\nAnd the earth was without form")
    assert chapters[0].count("\n") == 30
    assert sum(len(text) - text.count("\n") for text in chapters) == 4_106_349
    assert chapters[-1].endswith("The grace of our Lord Jesus Christ be with you all. Amen.")


def test_a_hub_dataset_without_network_names_the_way_out():
    with pytest.raises(ValueError, match=r"'kvj' is no local file.*`--task.source kjv` needs no network.*did you mean 'kjv'"):
        documents("kvj")


@pytest.mark.parametrize("error", [ConnectionError("no route"), datasets.exceptions.DatasetNotFoundError("gated")])
def test_every_unreachable_hub_says_so(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(ValueError, match=rf"'org/corpus' .*cannot be reached \({error}\): name a file"):
        read_rows("org/corpus", way_out="name a file")


def test_a_hub_that_does_not_answer_is_not_waited_for(monkeypatch):
    def fail(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr("ebm.optional.urlopen", fail)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("the hub's own client would wait"))
    with pytest.raises(ValueError, match=r"'org/corpus' is no local file.*\(no route\)"):
        documents("org/corpus")


def test_a_hub_dataset_has_splits_of_its_own(monkeypatch):
    asked = []
    parts = {name: datasets.Dataset.from_dict({"body": [name]}) for name in ("train", "validation", "test", "unsupervised")}

    def answer(*names, split, streaming):
        asked.append((names, split, streaming))
        kept = {name: rows.to_iterable_dataset() if streaming else rows for name, rows in parts.items()}
        return kept if split is None else kept[split]

    monkeypatch.setattr(datasets, "load_dataset", answer)
    for streaming in (False, True):
        corpus = open_corpus("org/corpus", column="body", config="small", streaming=streaming)
        assert splits(corpus) == {split: [split] for split in SPLITS}
        assert corpus.how == "train, validation and test by the hub, unsupervised left out"
    assert documents("org/corpus", column="body", hub_split="unsupervised") == ["unsupervised"]
    names = ("org/corpus", "small")
    assert asked == [(names, None, False), (names, None, True), (("org/corpus", None), "unsupervised", False)]
    del parts["train"]
    with pytest.raises(
        ValueError, match=r"the splits validation, test, unsupervised, and 'train' .* --task\.hub-split validation"
    ):
        open_corpus("org/corpus", column="body")

    def refuse(*_, **__):
        raise ValueError('Unknown split "trian".')

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(ValueError, match=r"hub dataset 'org/corpus', config=None, hub_split='trian': Unknown split"):
        documents("org/corpus", hub_split="trian")


def test_local_reads_leave_nothing_behind_and_need_no_network(tmp_path):
    home, folder = tmp_path / "home", tmp_path / "data"
    home.mkdir()
    source = lines(folder / "documents.jsonl", [{"text": text} for text in TEXTS])
    code = f"""
import socket
def refuse(*_): raise OSError("no network")
socket.socket.connect = socket.getaddrinfo = refuse
from ebm.tasks.text.corpora import documents
for source in ({source!r}, "kjv"):
    assert documents(source) == documents(source, streaming=True)
import sys
assert "bible" not in sys.modules and "datasets" not in sys.modules
"""
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "TMPDIR": str(home)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert [path for path in home.rglob("*") if path.is_file()] == []
    assert sorted(path.name for path in folder.iterdir()) == ["documents.jsonl"]

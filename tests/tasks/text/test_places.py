"""Laws of places: reading on behind one gives what follows, parts together are all, and what lies before is not parsed again."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
from itertools import islice

import datasets
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from ebm.tasks.text import reading
from ebm.tasks.text.reading import Reader
from ebm.tasks.text.shards import FileShard, ListShard, Pool, RowShard, Stream

laws = settings(deadline=None, max_examples=6)
TEXTS = [f"document {index}, é and “more”\n of it" * (1 + index % 3) for index in range(23)]
CUT = "<|cut|>"


def write(path, texts):
    """Writes texts in the format that a file's name says."""
    rows = [{"text": text, "n": index} for index, text in enumerate(texts)]
    kind = path.name.split(".")[1]
    if kind == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=5)
    elif kind == "arrow":
        table = pyarrow.Table.from_pylist(rows)
        with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=4)
    elif kind == "csv":
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([["text", "n"], *([row["text"], row["n"]] for row in rows)])
    else:
        lines = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        whole = {"jsonl": lines, "json": json.dumps(rows), "txt": CUT.join(texts)}[kind].encode()
        match path.suffix:
            case ".zst":
                with pyarrow.CompressedOutputStream(str(path), "zstd") as sink:
                    sink.write(whole)
            case other:
                squeeze = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}.get(other, bytes)
                path.write_bytes(squeeze(whole))
    return path


NAMES = [
    *("x.jsonl", "x.jsonl.gz", "x.jsonl.bz2", "x.jsonl.xz", "x.jsonl.zst"),
    *("x.txt", "x.txt.gz", "x.json", "x.csv", "x.parquet", "x.arrow"),
]


def goes_on(shard, part):
    """Reads a part whole, and from every place in it; returns its texts."""
    found = [*shard.read(None, part)]
    for index, (place, _) in enumerate(found):
        place = json.loads(json.dumps(place))  # as a checkpoint gives it back
        assert [*shard.read(place, part)] == found[index + 1 :]
    return [text for _, text in found]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [7, 100, 1 << 20])
def test_a_file_is_read_on_behind_any_place(tmp_path, monkeypatch, name, size):
    monkeypatch.setattr(reading, "CHUNK", size)
    shard = FileShard(write(tmp_path / name, TEXTS), Reader(separator=CUT))
    for of in (1, 3, 40):
        parts = [goes_on(shard, (index, of)) for index in range(of)]
        assert sorted(text for part in parts for text in part) == sorted(TEXTS)
        if of < 40:
            assert len({len(part) for part in parts}) <= 2
    assert list(shard) == goes_on(shard, (0, 1)) == TEXTS


def test_byte_order_marks_and_line_ends_do_not_move_places(tmp_path):
    for encoding, mark in (("utf-8", b"\xef\xbb\xbf"), ("utf-16", b""), ("latin-1", b"")):
        path = tmp_path / f"{encoding}.jsonl"
        lines = [json.dumps({"text": f"é {index}"}, ensure_ascii=False) for index in range(9)]
        path.write_bytes(mark + "\r\n".join(lines).encode(encoding))
        assert goes_on(FileShard(path, Reader(encoding=encoding)), (0, 1)) == [f"é {index}" for index in range(9)]


@laws
@given(number=st.integers(0, 9), of=st.integers(1, 5))
def test_lists_and_datasets_are_read_on_behind_any_place(number, of):
    texts = [f"text {index}" for index in range(number)]
    rows = datasets.Dataset.from_dict({"text": texts})
    for shard in (
        ListShard(texts, "a list"),
        ListShard([{"text": t} for t in texts], "rows", "text"),
        RowShard(rows, "text", "rows"),
    ):
        assert [text for index in range(of) for text in goes_on(shard, (index, of))] == texts


def generate(shards):
    for shard in shards:
        for index in range(6):
            yield {"text": f"{shard} {index}"}


@pytest.mark.parametrize("shuffled", [False, True])
def test_streams_of_datasets_are_read_on_behind_any_place(shuffled):
    rows = datasets.IterableDataset.from_generator(generate, gen_kwargs={"shards": [0, 1, 2]})
    rows = rows.shuffle(seed=0, buffer_size=4) if shuffled else rows.map(lambda row: {"text": row["text"] + "!"})
    shard = RowShard(rows, "text", "rows")
    for of in (1, 2, 3, 4):
        parts = [goes_on(shard, (index, of)) for index in range(of)]
        assert sorted(text for part in parts for text in part) == sorted(shard)
        assert [text for _, text in islice(shard.read(None, (0, of)), 2)] == parts[0][:2]
    one, two = shard.read(), shard.read()
    assert [next(one), next(two), next(one), next(two)] == [pair for pair in islice(shard.read(), 2) for _ in range(2)]


@pytest.mark.parametrize("limit", [None, 11])
def test_pools_and_their_splits_are_read_on_behind_any_place(tmp_path, limit):
    texts = ["", *TEXTS, " \n"]
    shards = (ListShard(texts, "a list"), FileShard(write(tmp_path / "x.jsonl", texts), Reader()))
    pool = Pool(shards, limit=limit)
    for of in (1, 3):
        assert sorted(text for index in range(of) for text in goes_on(pool, (index, of))) == sorted(pool)
        for split in pool.splits:
            stream = Stream(pool, split)
            assert sorted(text for index in range(of) for text in goes_on(stream, (index, of))) == sorted(stream)
    assert goes_on(pool, (0, 1)) == list(pool)


def test_what_lies_before_a_place_and_other_parts_are_not_parsed(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "CHUNK", 1 << 10)
    shard = FileShard(write(tmp_path / "x.jsonl", TEXTS * 40), Reader())
    place, _ = next(islice(shard.read(), 880, None))
    parsed, read = [], []
    loads, chunk = json.loads, reading.io.TextIOWrapper.read

    class Text(reading.io.TextIOWrapper):
        def read(self, size=-1):
            read.append(found := chunk(self, size))
            return found

    monkeypatch.setattr(reading.json, "loads", lambda line: parsed.append(line) or loads(line))
    monkeypatch.setattr(reading.io, "TextIOWrapper", Text)
    assert len([*shard.read(place)]) == len(parsed) == 920 - 881
    assert sum(map(len, read)) < 0.06 * shard.file.stat().st_size
    parsed.clear()
    assert len([*shard.read(None, (1, 4))]) == len(parsed) == 230


def test_rows_without_the_column_are_told_from_a_file_without_it(tmp_path):
    """A part, or what follows a place, may have no row with the column though others do."""
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join([json.dumps({"text": "one"}), *[json.dumps({"id": 3})] * 3]))
    for shard in (FileShard(path, Reader()), ListShard([{"text": "one"}, *[{"id": 3}] * 3], "rows", "text")):
        assert goes_on(shard, (0, 1)) == ["one", "", "", ""]
        assert goes_on(shard, (3, 4)) == [""]
    path.write_text("\n".join([json.dumps({"id": 3})] * 4))
    for shard in (FileShard(path, Reader()), ListShard([{"id": 3}] * 4, "rows", "text")):
        with pytest.raises(ValueError, match="has no column 'text'"):
            list(shard.read(None, (1, 2)))


def test_an_error_names_the_row_in_every_part_and_behind_a_place(tmp_path):
    path = tmp_path / "x.jsonl"
    lines = [json.dumps({"text": str(index)}) for index in range(9)]
    for bad, what in (("{", "x.jsonl, row 7, cannot be read"), ('{"text": 4}', "x.jsonl, column 'text', row 7: 4 is no text")):
        path.write_text("\n".join([*lines[:7], bad, *lines[8:]]))
        shard = FileShard(path, Reader())
        place, _ = next(islice(shard.read(None, (1, 3)), 1, None))
        for read in (shard.read(), shard.read(None, (1, 3)), shard.read(place, (1, 3))):
            with pytest.raises(ValueError, match=what):
                list(read)
        assert [text for _, text in shard.read(None, (0, 3))] == ["0", "3", "6"]

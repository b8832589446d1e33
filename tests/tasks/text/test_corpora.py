"""Laws of reading documents: every kind of source, what is left out, and what errors say."""

import json
import os
import subprocess
import sys

import datasets
import pytest

from ebm.tasks.text.corpora import BUNDLED, documents, read_rows, streamed_documents

TEXTS = ["In the beginning", "naïve\n\n\ttabs and\nlines", "第三", "a fourth, with trailing space "]


def write(folder, kind, texts):
    """Writes documents as one file, or a file each for txt, and returns what to read."""
    if kind == "txt":
        for index, text in enumerate(texts):
            (folder / f"{index}.txt").write_text(text, encoding="utf-8")
        return str(folder)
    path = folder / f"documents.{kind}"
    if kind == "parquet":
        datasets.Dataset.from_dict({"text": texts}).to_parquet(str(path))
    else:
        rows = [{"text": text, "number": index} for index, text in enumerate(texts)]
        path.write_text(json.dumps(rows) if kind == "json" else "\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


def read(source, streaming, **where):
    if not streaming:
        return documents(source, **where)
    return [row[where.get("column", "text")] for row in streamed_documents(source, **where)]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["txt", "json", "jsonl", "parquet"])
def test_local_documents_are_read_as_they_are(tmp_path, kind, streaming):
    assert read(write(tmp_path, kind, TEXTS), streaming) == TEXTS


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
def test_empty_documents_are_left_out(tmp_path, kind, streaming):
    assert read(write(tmp_path, kind, ["one", "", "two"]), streaming) == ["one", "two"]


def test_folders_globs_and_odd_names(tmp_path):
    folder = tmp_path / "odd [1] *"
    (folder / "below").mkdir(parents=True)
    for name in ("b.txt", "a.txt", "below/c.txt"):
        (folder / name).write_text(name)
    (folder / "ignored.csv").write_text("x")
    assert documents(str(folder)) == ["a.txt", "b.txt", "below/c.txt"]
    assert documents(str(folder / "a.txt")) == ["a.txt"]
    assert documents(f"{tmp_path}/*/[ab].txt") == ["a.txt", "b.txt"]
    assert documents(f"{tmp_path}/**/*.txt") == ["a.txt", "b.txt", "below/c.txt"]


def test_a_column_is_chosen(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"body": "one", "n": 1}\n{"body": null, "n": 2}\n')
    assert documents(str(path), column="body") == ["one"]
    for read_ in (documents, streamed_documents):
        with pytest.raises(ValueError, match=r"no column 'bdy': did you mean 'body'\?"):
            read_(str(path), column="bdy")
        with pytest.raises(ValueError, match="column 'n', row 0: 1 is no text"):
            read_(str(path), column="n")


@pytest.mark.parametrize("streaming", [False, True])
def test_bundled_corpora(streaming):
    for name in ("documentation", "source-code"):
        assert sorted(read(name, streaming)) == sorted(filter(None, BUNDLED[name]()))
    assert any('The "if" statement' in text for text in documents("documentation"))
    assert any("def abspath" in text for text in documents("source-code"))


def test_king_james():
    chapters = documents("kjv")
    assert len(chapters) == 1189
    assert chapters[0].startswith("In the beginning God created the heaven and the earth.\nAnd the earth was without form")
    assert chapters[0].count("\n") == 30
    assert sum(len(text) - text.count("\n") for text in chapters) == 4_106_349
    assert chapters[-1].endswith("The grace of our Lord Jesus Christ be with you all. Amen.")


def test_streamed_files_are_shards(tmp_path):
    assert streamed_documents(write(tmp_path, "txt", TEXTS)).num_shards == 4
    assert streamed_documents("documentation").num_shards == 8


@pytest.mark.parametrize("read_", [documents, streamed_documents])
def test_what_cannot_be_read_says_why(tmp_path, read_):
    for source in ("missing.txt", "./missing", str(tmp_path / "missing.jsonl")):
        with pytest.raises(FileNotFoundError, match="there is no file"):
            read_(source)
    for source in (str(tmp_path), str(tmp_path / "*.txt")):
        with pytest.raises(FileNotFoundError, match=r"holds no file: .* \.txt, \.json, \.jsonl, \.parquet"):
            read_(source)
    (tmp_path / "table.csv").write_text("text\nx\n")
    with pytest.raises(ValueError, match=r"\.csv cannot be read, only \.txt"):
        read_(str(tmp_path / "table.csv"))
    (tmp_path / "bad.jsonl").write_text("{no json\n")
    with pytest.raises(ValueError, match=r"bad\.jsonl"):
        read_(str(tmp_path / "bad.jsonl"))
    (tmp_path / "one.txt").write_text("one")
    with pytest.raises(ValueError, match=r"holds \.jsonl and \.txt files: name a glob of one kind"):
        read_(str(tmp_path))


@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
def test_no_text_at_all(tmp_path, kind):
    source = write(tmp_path, kind, ["", ""])
    with pytest.raises(ValueError, match="no text"):
        documents(source)


def test_a_hub_dataset_without_network_names_the_way_out():
    for read_ in (documents, streamed_documents):
        with pytest.raises(ValueError, match=r"'kvj' is no local file.*`--task.source kjv` needs no network.*did you mean 'kjv'"):
            read_("kvj")


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
    for read_ in (documents, streamed_documents):
        with pytest.raises(ValueError, match=r"'org/corpus' is no local file.*\(no route\)"):
            read_("org/corpus")


def test_a_hub_dataset_is_asked_for_by_name(monkeypatch):
    asked = []

    def answer(*names, **keywords):
        asked.append((names, keywords))
        return datasets.Dataset.from_dict({"body": ["one", "two"]})

    monkeypatch.setattr(datasets, "load_dataset", answer)
    assert documents("org/corpus", column="body", config="small", hub_split="validation") == ["one", "two"]
    assert asked == [(("org/corpus", "small"), {"split": "validation", "streaming": False})]

    def refuse(*_, **__):
        raise ValueError('Unknown split "trian".')

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(ValueError, match=r"hub dataset 'org/corpus', config=None, hub_split='trian': Unknown split"):
        documents("org/corpus", hub_split="trian")


def test_local_reads_leave_nothing_behind_and_need_no_network(tmp_path):
    home, folder = tmp_path / "home", tmp_path / "data"
    home.mkdir()
    folder.mkdir()
    source = write(folder, "jsonl", TEXTS)
    code = f"""
import socket
def refuse(*_): raise OSError("no network")
socket.socket.connect = socket.getaddrinfo = refuse
from ebm.tasks.text.corpora import documents, streamed_documents
for source in ({source!r}, "kjv"):
    assert len(documents(source)) == len(list(streamed_documents(source)))
import sys
assert "bible" not in sys.modules
"""
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "TMPDIR": str(home)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert [path for path in home.rglob("*") if path.is_file()] == []
    assert sorted(path.name for path in folder.iterdir()) == ["documents.jsonl"]

"""Laws of judging by data of one's own: each token counts once, and a question set is judged as its benchmark does."""

import json
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ebm
from ebm import cli
from ebm.energies import MLPEnergy
from ebm.interfaces import Prediction
from ebm.runs.run import Run
from ebm.samplers import GradientDescent
from ebm.tasks import Points, Questions, Text
from ebm.tasks.text.tokenizers import Bytes
from ebm.tasks.text.whole import WholeText, task_of
from tests.helpers import laws


class Seen:
    """Predicts token t with logit 1 for the token before it, and 0 else: the loss depends on what the context holds."""

    def predict(self, batch, start, *, generator=None):
        return Prediction(torch.nn.functional.one_hot(batch.context, 257).float(), None, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def said_in(folder, texts):
    path = folder / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return str(path)


@laws
@given(
    texts=st.lists(st.text("ab é", min_size=1, max_size=20).filter(str.strip), min_size=1, max_size=5), context=st.integers(1, 12)
)
def test_each_token_of_a_text_counts_once_whatever_the_context(folder, texts, context):
    found = WholeText(said_in(folder, texts), context=context).evaluate(Seen())
    ids = [256, *(token for text in texts for token in [*text.encode(), 256])]
    total = math.log(256 + math.e)
    nats = [total - (now == before) for before, now in pairwise(ids)]
    assert found["tokens"] == len(nats)
    assert found["loss"] == pytest.approx(sum(nats) / len(nats), rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    assert found["nats_per_byte"] == pytest.approx(found["loss"])


def test_the_fields_of_rows_say_how_they_are_judged(folder):
    like = Text("documentation", context=32)
    for name, row, kind in (
        ("a", {"question": "1+1", "answer": "#### 2"}, "gsm8k"),
        ("b", {"inputs": "1+1", "targets": ["2"]}, "bigbench"),
        ("c", {"text": "one two"}, None),
    ):
        path = folder / f"{name}.jsonl"
        path.write_text(json.dumps(row))
        task = task_of(str(path), like)
        assert task.context_length == 32
        assert task.tokenizer is like.tokenizer
        assert (task.format if isinstance(task, Questions) else None) == kind
    assert task_of(str(folder / "c.jsonl"), like, "lambada").format == "lambada"
    (folder / "d.txt").write_text("one two")
    assert isinstance(task_of(str(folder / "d.txt"), like), WholeText)
    with pytest.raises(ValueError, match="unknown format 'lambda': did you mean 'lambada'"):
        task_of(str(folder / "c.jsonl"), like, "lambda")


@pytest.fixture
def said(capsys, monkeypatch, tmp_path):
    energy = ebm.build("energy", "transformer", vocab_size=257, dim=8, depth=1, heads=2)
    run = Run(tmp_path, {}, energy, GradientDescent(step_size=1.0, steps=1), None, Text("documentation", context=16), {})
    monkeypatch.setattr("ebm.recipes.load_run", lambda _: run)

    def say(*words):
        capsys.readouterr()
        with pytest.raises(SystemExit) as leaving:
            cli.main(["eval", "run", *map(str, words)])
        return leaving.value.code, *capsys.readouterr(), run

    return say


def test_the_command_judges_by_a_file(said, tmp_path):
    (tmp_path / "mine.txt").write_text("to be or not to be " * 3)
    status, out, _, run = said("--data", tmp_path / "mine.txt", "--json")
    found = json.loads(out)
    assert (status, found["tokens"]) == (0, 58)
    expected = WholeText(str(tmp_path / "mine.txt"), Bytes(), 16).evaluate(run.thinker)
    assert found == pytest.approx(expected)
    (tmp_path / "last.jsonl").write_text(
        '{"text": "to be or not to be"}\n{"text": "so it is a very very long wordsthatdonotfit"}'
    )
    with pytest.warns(UserWarning, match="1 of 2 questions are left out"):
        status, out, _, _ = said("--data", tmp_path / "last.jsonl", "--format", "lambada", "--json")
    assert (status, json.loads(out)["rows"], json.loads(out)["rows_left_out"]) == (0, 1, 1)


def test_the_command_says_what_it_cannot_judge(said, tmp_path, monkeypatch):
    (tmp_path / "mine.txt").write_text("x")
    for words, reason in (
        (("--format", "gsm8k"), "pass --data FILE"),
        (("--data", tmp_path / "mine.txt", "--split", "test"), "leave one of them out"),
        (("--data", tmp_path / "gone.txt"), "there is no file"),
    ):
        status, _, err, _ = said(*words)
        assert (status, reason in err) == (2, True)
    other = Run(tmp_path, {}, MLPEnergy(2), GradientDescent(step_size=1.0, steps=1), None, Points("moons", n=60), {})
    monkeypatch.setattr("ebm.recipes.load_run", lambda _: other)
    assert "was not trained on text" in said("--data", tmp_path / "mine.txt")[2]

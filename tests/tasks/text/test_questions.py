"""Laws of questions: only answers count, they stay whole, and each format is read by its own fields."""

import json
import math

import datasets
import pydantic
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ebm.interfaces import Prediction
from ebm.tasks.text import questions
from ebm.tasks.text.questions import FORMATS, Questions
from ebm.tasks.text.tokenizers import BytePairs, Bytes

laws = settings(deadline=None, max_examples=25)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)

ROWS = {
    "gsm8k": [{"question": "6 x 7?", "answer": "6 x 7 = 42\n#### 42"}, {"question": "1 + 1?", "answer": "#### 2"}],
    "squad": [
        {
            "id": "a",
            "context": "Paris is in France.",
            "question": "Where?",
            "answers": {"text": ["France"], "answer_start": [12]},
        },
        {"id": "b", "context": "Paris.", "question": "When?", "answers": {"text": [], "answer_start": []}},
    ],
    "arc": [
        {"question": "Which flies?", "choices": {"text": ["cow", "bird", "fish"], "label": ["A", "B", "C"]}, "answerKey": "B"},
        {"question": "Which swims?", "choices": {"text": ["cow", "fish"], "label": ["1", "2"]}, "answerKey": "2"},
    ],
    "lambada": [{"text": "he opened the door"}, {"text": "and then\nsilence "}],
    "bigbench": [{"inputs": "2 + 2 =", "targets": ["4", "four"]}, {"inputs": "nothing", "targets": []}],
}
TOLD = {
    "gsm8k": [("[[Question]]: 6 x 7?\n[[Answer]]:", " 6 x 7 = 42\n#### 42"), ("[[Question]]: 1 + 1?\n[[Answer]]:", " #### 2")],
    "squad": [("[[Question]]: Paris is in France.\nWhere?\n[[Answer]]:", " France")],
    "arc": [("[[Question]]: Which flies?\n[[Answer]]:", " bird"), ("[[Question]]: Which swims?\n[[Answer]]:", " fish")],
    "lambada": [("he opened the", " door"), ("and then", "\nsilence")],
    "bigbench": [("[[Question]]: 2 + 2 =\n[[Answer]]:", " 4")],
}


class Knows:
    """Predicts the target where `knows(text of the row)`, and else end-of-text everywhere; the energy is 0."""

    def __init__(self, knows):
        self.knows = knows

    def predict(self, batch, start, *, generator=None):
        ids = batch.target.clone()
        for row, target in enumerate(ids):
            if not self.knows(Bytes().decode(target.tolist())):
                ids[row] = Bytes.end
        y = 50.0 * torch.nn.functional.one_hot(ids, start.shape[-1])
        return Prediction(y, torch.zeros(ids.shape), 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("questions")


def write(folder, rows, kind="jsonl"):
    path = folder / f"rows.{kind}"
    if kind == "parquet":
        datasets.Dataset.from_list(rows).to_parquet(str(path))
    else:
        path.write_text(json.dumps(rows) if kind == "json" else "\n".join(map(json.dumps, rows)))
    return str(path)


def make(folder, format, rows=None, **keywords):
    return Questions(write(folder, rows or ROWS[format]), format, **keywords)


@pytest.fixture
def own_format():
    FORMATS["own"] = lambda row: (row["q"], row["a"])
    yield "own"
    del FORMATS["own"]


@pytest.mark.parametrize("kind", ["json", "jsonl", "parquet"])
@pytest.mark.parametrize("format", ROWS)
def test_every_format_is_read(tmp_path, format, kind):
    task = Questions(write(tmp_path, ROWS[format], kind), format, context=100)
    (target, context, weight), *more = task.loader("test", 10)
    assert not more
    assert target.shape == context.shape == weight.shape == (len(TOLD[format]), 100)
    assert weight.dtype == torch.get_default_dtype()
    for row, (prompt, answer) in enumerate(TOLD[format]):
        whole = [256, *prompt.encode(), *answer.encode(), 256]
        assert context[row, : len(whole) - 1].tolist() == whole[:-1]
        assert target[row, : len(whole) - 1].tolist() == whole[1:]
        assert target[row][weight[row] > 0].tolist() == [*answer.encode(), 256]
    assert task.bytes_per_token("test") == 1.0


def test_every_format_is_tested():
    assert set(ROWS) == set(TOLD) == set(FORMATS) == set(questions.HUBS)


@laws
@given(pairs=st.lists(st.tuples(TEXT, TEXT.filter(str.strip)), min_size=1, max_size=6), context=st.integers(4, 150))
def test_answers_stay_whole_and_prompts_lose_their_beginning(folder, pairs, context):
    questions.FORMATS["law"] = lambda row: (row["q"], row["a"])
    try:
        path = write(folder, [{"q": prompt, "a": answer} for prompt, answer in pairs])
        long = next((row for row, (_, answer) in enumerate(pairs) if len(answer.encode()) + 1 > context), None)
        if long is not None:
            with pytest.raises(ValueError, match=f"row {long}: the answer has .* tokens .* more than context={context}"):
                Questions(path, "law", context=context)
            return
        task = Questions(path, "law", context=context)
    finally:
        del questions.FORMATS["law"]
    for split in ("test", "validation", "train"):
        assert len(task.data(split)) == len(pairs)
    target, before, weight = task.data("test")[list(range(len(pairs)))]
    for row, (prompt, answer) in enumerate(pairs):
        whole = [256, *prompt.encode(), *answer.encode(), 256][-(context + 1) :]
        padded = whole + [256] * (context + 1 - len(whole))
        assert [*before[row].tolist(), target[row, -1].item()] == padded
        assert target[row][weight[row] > 0].tolist() == [*answer.encode(), 256]
        assert all(
            torch.equal(one, many[row]) for one, many in zip(task.data("test")[row], (target, before, weight), strict=True)
        )


def test_the_tokenizer_of_a_text_is_taken(folder):
    tokenizer = BytePairs(["#### 42 [[Question]]: [[Answer]]: "] * 3, 280)
    task = make(folder, "gsm8k", tokenizer=tokenizer)
    assert task.spec == {"vocab_size": tokenizer.vocab_size}
    assert task.tokenizer is tokenizer
    target, _, weight = task.data("test")[[0, 1]]
    assert tokenizer.decode(target[0][weight[0] > 0].tolist()) == TOLD["gsm8k"][0][1]
    size = sum(len(answer) + 1 for _, answer in TOLD["gsm8k"])
    assert task.bytes_per_token("test") == size / weight.sum().item() > 1


def test_answers_are_judged_whole(folder):
    rows = [{"question": f"{i}?", "answer": "yes" if i % 4 == 0 else "no"} for i in range(40)]
    task = make(folder, "gsm8k", rows, context=32)
    found = task.evaluate(Knows(lambda text: text.endswith("yes")))
    assert found["answer_accuracy"] == pytest.approx(0.25)
    # What is not known is still right about the end: 1 of the 4 tokens of " no" and its end.
    assert found["accuracy"] == pytest.approx((10 * 5 + 30 * 1) / (10 * 5 + 30 * 4))
    assert found["nats_per_byte"] == found["loss"]
    assert "answer" not in found
    assert "choice_accuracy" not in found
    assert found["energy"] == 0
    assert task.evaluate(Knows(lambda text: True))["answer_accuracy"] == 1
    assert task.evaluate(Knows(lambda text: text.endswith("yes")), limit=1)["answer_accuracy"] == 1
    assert task.evaluate(Knows(lambda text: False), limit=5)["answer_accuracy"] == 0


@pytest.mark.parametrize("generator", [None, torch.Generator().manual_seed(0)])
def test_choices_are_judged_by_their_mean_cross_entropy(folder, generator):
    rows = ROWS["arc"] * 40  # more choices than are judged at a time
    task = make(folder, "arc", rows, context=64, start="noise")
    # Of choices that are equally likely the first wins.
    for known, expected in ((("bird", "fish"), 1.0), (("cow",), 0.0), (("bird",), 0.5), (("fish",), 0.5)):
        found = task.evaluate(Knows(lambda text, known=known: text.endswith(known)), generator=generator)
        assert found["choice_accuracy"] == expected
    assert task.evaluate(Knows(lambda text: text.endswith("bird")), limit=1)["choice_accuracy"] == 1
    assert task.evaluate(Knows(lambda text: text.endswith("bird")), limit=3)["choice_accuracy"] == pytest.approx(2 / 3)


def test_limits(folder):
    assert len(make(folder, "squad", ROWS["squad"][::-1] * 3, limit=2).data("test")) == 2
    assert len(make(folder, "gsm8k", limit=99).data("test")) == 2


def test_a_hub_dataset_is_asked_for_by_name(monkeypatch):
    asked = []

    def answer(*names, split, **_):
        asked.append((*names, split))
        return datasets.Dataset.from_list(ROWS["gsm8k"])

    monkeypatch.setattr(datasets, "load_dataset", answer)
    Questions()
    Questions(config="socratic", hub_split="train")
    Questions("org/alike")
    assert asked == [("openai/gsm8k", "main", "test"), ("openai/gsm8k", "socratic", "train"), ("org/alike", None, "test")]


def test_what_makes_no_questions_says_why(folder, own_format):
    with pytest.raises(ValueError, match="'openai/gsm8k' is no local file.* --task.data rows.jsonl, a local file"):
        Questions()
    with pytest.raises(FileNotFoundError, match=r"missing\.jsonl"):
        Questions("missing.jsonl")
    with pytest.raises(ValueError, match="unknown format 'gsm': did you mean 'gsm8k'"):
        Questions(format="gsm")
    with pytest.raises(ValueError, match="'own' has no hub dataset of its own: name the data"):
        Questions(format="own")
    with pytest.raises(ValueError, match=r"tokenizer=text\.tokenizer"):
        make(folder, "gsm8k", tokenizer="bpe")
    for name in ("context", "limit"):
        with pytest.raises(ValueError, match=f"{name}=0: it must be at least 1"):
            make(folder, "gsm8k", **{name: 0})
    with pytest.raises(ValueError, match=r"row 0 has no field 'answer', which 'gsm8k' needs: did you mean 'answers'"):
        make(folder, "gsm8k", [{"question": "?", "answers": "!"}])
    for row in ({"context": "", "question": "", "answers": "x"}, {"context": "", "question": "", "answers": None}):
        with pytest.raises(ValueError, match="row 0 is not of the format 'squad'"):
            make(folder, "squad", [row])
    with pytest.raises(ValueError, match="row 0 is not of the format 'arc'"):
        make(folder, "arc", [ROWS["arc"][0] | {"answerKey": "E"}])
    with pytest.raises(ValueError, match="row 0 is not of the format 'lambada'"):
        make(folder, "lambada", [{"text": "  "}])
    with pytest.raises(ValueError, match="no row has an answer, of 1"):
        make(folder, "squad", ROWS["squad"][1:])
    task = make(folder, "gsm8k")
    for call in (task.data, task.bytes_per_token):
        with pytest.raises(ValueError, match="unknown split 'tset'"):
            call("tset")
    with pytest.raises(ValueError, match="limit=0: at least one example"):
        task.evaluate(Knows(lambda text: True), limit=0)


def test_toml_builds_questions(folder):
    build, task = (
        pydantic.validate_call(Questions.__init__, config={"arbitrary_types_allowed": True}),
        Questions.__new__(Questions),
    )
    build(task, data=write(folder, ROWS["gsm8k"]), tokenizer="bytes", context=64)
    assert task.spec == {"vocab_size": 257}
    assert math.isclose(task.bytes_per_token("train"), 1)

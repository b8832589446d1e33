"""Laws of questions: only answers count, they stay whole, and each format is read by its own fields."""

import json
import math
import re
import warnings

import datasets
import pydantic
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ebm
from ebm.interfaces import Batch, Prediction
from ebm.tasks.text import questions
from ebm.tasks.text.answering import predicted, written
from ebm.tasks.text.metrics.choices import choices
from ebm.tasks.text.metrics.final_number import final_number, number_in
from ebm.tasks.text.metrics.overlap import overlap
from ebm.tasks.text.questions import FORMATS, Questions
from ebm.tasks.text.tokenizers import BytePairs, Bytes
from ebm.thinking import Thinker

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
        kept = [pair for pair in pairs if len(pair[1].encode()) + 1 <= context]
        long = next((row for row, pair in enumerate(pairs) if pair not in kept), None)
        said = f"row {long}: the answer has .* tokens .* more than context={context}"
        if not kept:
            with pytest.raises(ValueError, match=said):
                Questions(path, "law", context=context)
            return
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            task = Questions(path, "law", context=context)
        cut = sum(len((prompt + answer).encode()) + 1 > context for prompt, answer in kept)
        assert task.left_out["too long"] == len(pairs) - len(kept)
        assert [bool(re.search(said, str(each.message))) for each in found] == [True] * (long is not None) + [False] * (cut > 0)
        judged = task.evaluate(Knows(lambda text: True))
        assert [judged[name] for name in ("rows", "rows_left_out", "rows_cut")] == [len(kept), len(pairs) - len(kept), cut]
        pairs = kept
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


# ------------------------------------------------------------------------------------------- what each benchmark counts


class Tells:
    """Predicts bytes: the next one of the texts that a row's text so far begins like, and else `otherwise`."""

    def __init__(self, *texts, otherwise="?", sharpness=60.0):
        self.texts, self.otherwise, self.sharpness = [text.encode() for text in texts], ord(otherwise), sharpness

    def predict(self, batch, start, *, generator=None):
        y = torch.zeros(*batch.context.shape, 257)
        for row, ids in enumerate(batch.context.tolist()):
            for place in range(len(ids)):
                said = bytes(token for token in ids[1 : place + 1] if token < 256)
                after = [text[len(said) :] for text in self.texts if text.startswith(said)]
                y[row, place, (after[0][0] if after[0] else 256) if after else self.otherwise] = self.sharpness
        return Prediction(y, None, 1)


def test_lambada_counts_last_words_whatever_follows_them(folder):
    rows = [{"text": "he opened the door"}, {"text": "she saw the sea"}, {"text": "we had rain"}]
    task = make(folder, "lambada", rows)
    # It goes on after "door", misses one letter of "sea", and nothing of "rain".
    teller = Tells("he opened the door again", "she saw the sew", "we had rain", sharpness=3.0)
    found = task.evaluate(teller)
    assert found["accuracy"] == found["answer_accuracy"] == pytest.approx(2 / 3)
    right, wrong = (math.log(math.exp(3) + 256) - shift for shift in (3, 0))
    words = [5 * right, 3 * right + wrong, 5 * right]  # with their spaces
    assert found["perplexity"] == pytest.approx(math.exp(sum(words) / 3), rel=1e-5)
    assert task.evaluate(teller, limit=1)["accuracy"] == 1


def test_gsm8k_counts_final_numbers_of_written_solutions(folder):
    rows = [{"question": f"{n}?", "answer": f"It is {n}.\n#### {n}"} for n in (1, 2, 3000)]
    prompt = "[[Question]]: {}?\n[[Answer]]:"
    said = [
        prompt.format(1) + " other words #### 1\n[[Question]]: #### 7",
        prompt.format(2) + " 2",
        prompt.format(3000) + "\n#### 3,000.",
    ]
    found = make(folder, "gsm8k", rows).evaluate(Tells(*said))
    assert found["final_number"] == pytest.approx(2 / 3)
    assert found["answer_accuracy"] == 0
    assert "final_number" not in make(folder, "gsm8k", [{"question": "?", "answer": "yes"}]).evaluate(Tells("x"))


@given(st.integers(-(10**6), 10**6), st.booleans())
def test_final_numbers_are_read_as_the_grader_reads_them(number, commas):
    text = f"so 3 + 4 = 7\n#### {number:,}" if commas else f"#### {number}\n#### 5"
    assert number_in(text) == str(number)
    assert final_number(text, [f"#### {number}"]) == {"final_number": 1.0}
    assert (
        final_number(f"#### {number + 1}", [f"#### {number}"])
        == final_number(f"{number}", [f"#### {number}"])
        == {"final_number": 0.0}
    )


def test_squad_counts_the_nearest_of_all_references(folder):
    row = {"context": "c", "answers": {"text": ["Giant Mountains", "the Riesengebirge"], "answer_start": [0, 0]}}
    rows = [row | {"question": question} for question in ("a?", "b?", "d?")]
    prompt = "[[Question]]: c\n{}\n[[Answer]]:"
    said = [
        prompt.format("a?") + " Riesengebirge.\nand more",
        prompt.format("b?") + " in the Giant Mountains",
        prompt.format("d?") + " Harz",
    ]
    found = make(folder, "squad", rows).evaluate(Tells(*said))
    assert found["exact_match"] == pytest.approx(1 / 3)
    assert found["f1"] == pytest.approx((1 + 0.8 + 0) / 3)


def test_squad_s_official_file_is_read(folder):
    answers = [{"text": "Elbe", "answer_start": 4}]
    asked = [
        {"id": "1", "question": "What?", "answers": answers},
        {"id": "2", "question": "Who?", "answers": [], "is_impossible": True},
    ]
    whole = {"version": "v2.0", "data": [{"title": "t", "paragraphs": [{"context": "The Elbe.", "qas": asked}]}]}
    path = folder / "official.json"
    path.write_text(json.dumps(whole))
    task = Questions(str(path), "squad")
    assert task.left_out == {"too long": 0, "without an answer": 1}
    target, _, weight = task.data("test")[[0]]
    assert task.tokenizer.decode(target[weight > 0].tolist()) == " Elbe"


@given(st.text("ab the.", max_size=12), st.text("ab the.", max_size=12))
def test_overlap_is_symmetric_at_most_one_and_one_for_the_same(one, other):
    there, back = overlap(one, [other]), overlap(other, [one])
    assert there == back
    assert there["exact_match"] <= 1 >= there["f1"]
    assert overlap(one, ["zzz", one]) == {"exact_match": 1.0, "f1": 1.0}
    assert overlap(f"The  {one}!", [one]) == {"exact_match": 1.0, "f1": 1.0}


def test_choices_are_judged_with_and_without_their_lengths(folder):
    """Where all bytes are as likely, " cow" with 4 is the likeliest, and " giraffe" with 8 the likeliest for its 7 letters."""
    rows = [{"question": "?", "choices": {"text": ["cow", "giraffe"], "label": ["A", "B"]}, "answerKey": "B"}]
    found = make(folder, "arc", rows).evaluate(Tells("", sharpness=0.0))
    assert (found["choice_accuracy"], found["choice_accuracy_normalized"]) == (0.0, 1.0)


def test_a_choice_may_go_on(folder):
    """What ends is no matter: "bird" is likelier than "birds", which it begins, though the text does not end there."""
    rows = [{"question": "?", "choices": {"text": ["birds", "bird"], "label": ["A", "B"]}, "answerKey": "B"}]
    found = make(folder, "arc", rows).evaluate(Tells("[[Question]]: ?\n[[Answer]]: birds", sharpness=5.0))
    assert found["choice_accuracy"] == 1


def test_the_end_of_text_is_none_of_a_choice():
    assert choices([2.0, 1.0], ["a", "b"], [1, 0])["choice_accuracy"] == 0
    batch = Batch(torch.zeros(1, 4), weight=torch.tensor([[0.0, 1, 1, 0]]))
    assert questions._without_end(batch.weight).tolist() == [[0, 1, 0, 0]]
    assert questions._without_end(torch.tensor([[0.0, 1, 1]])).tolist() == [[0, 1, 0]]


def test_bigbench_credits_choices_and_rows_without_any_are_judged_as_answers(folder):
    rows = [
        {"inputs": "3 + 4", "targets": ["7"], "multiple_choice_targets": ["6", "7"], "multiple_choice_scores": [0, 1]},
        {"inputs": "5 + 4", "targets": ["9"], "multiple_choice_targets": ["9", "8"], "multiple_choice_scores": [1, 0]},
        {"inputs": "Hi", "targets": ["hi"], "multiple_choice_targets": [], "multiple_choice_scores": []},
    ]
    task = make(folder, "bigbench", rows)
    prompt = "[[Question]]: {}\n[[Answer]]: {}"
    found = task.evaluate(Tells(prompt.format("3 + 4", 7), prompt.format("5 + 4", 8), prompt.format("Hi", "ho")))
    assert found["choice_accuracy"] == 0.5
    assert found["answer_accuracy"] == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="2 multiple_choice_targets, but 1"):
        make(folder, "bigbench", [rows[0] | {"multiple_choice_scores": [1]}])


def test_arc_s_original_rows_are_read(folder):
    choices = [{"text": "Moon", "label": "A"}, {"text": "Mars", "label": "B"}]
    task = make(folder, "arc", [{"id": "1", "question": {"stem": "A planet?", "choices": choices}, "answerKey": "B"}])
    assert task.evaluate(Tells("[[Question]]: A planet?\n[[Answer]]: Mars"))["choice_accuracy"] == 1


def test_what_is_written_from_codes_is_what_predicting_everything_anew_writes(folder):
    from tests.decoding.test_generate import SAMPLER

    torch.manual_seed(0)
    energy = ebm.build("energy", "residual-text-ebt", vocab_size=257, dim=8, depth=2, heads=2)
    for parameter in energy.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    transformer = ebm.build("energy", "transformer", vocab_size=257, dim=8, depth=1, heads=2)
    task = make(folder, "squad")
    prompts = [[256, 65, 66], [256], [256, 67, 68, 69]]
    for predictor in (Thinker(energy, SAMPLER), Thinker(energy, SAMPLER, candidates=2, steps=3), transformer):
        slow = torch.stack([*predicted(predictor, task, prompts, 6)], 1)
        expected = [Bytes().decode(row.tolist()[: row.tolist().index(256)] if 256 in row else row.tolist()) for row in slow]
        assert written(predictor, task, Bytes(), prompts, max_new_tokens=6) == expected
    assert len({*expected}) > 1

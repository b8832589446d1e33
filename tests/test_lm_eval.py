"""Laws of the adapter to lm-evaluation-harness, by its own harness on small local tasks: its numbers are ours."""

import json
import math
import sys

import pytest
import torch

import ebm
from ebm import cli
from ebm.baselines import Transformer
from ebm.energies import MLPEnergy, ResidualTextEBT
from ebm.interop import lm_eval as adapter
from ebm.interop.lm_eval import HarnessModel
from ebm.runs.run import Run
from ebm.samplers import GradientDescent
from ebm.tasks import Points, Questions, Text
from ebm.tasks.text.answering import written
from ebm.tasks.text.likelihood import likelihoods
from ebm.tasks.text.whole import WholeText

needs_harness = pytest.mark.skipif(adapter.Base is object, reason="lm_eval is not installed: pip install 'ebm-toolkit[lm-eval]'")
ROWS = [
    {"question": "Which flies?", "choices": {"text": ["cow", "bird"], "label": ["A", "B"]}, "answerKey": "B"},
    {"question": "Which swims, of these two?", "choices": {"text": ["a fish", "ox"], "label": ["A", "B"]}, "answerKey": "A"},
    {"question": "Which is a number?", "choices": {"text": ["hat", "1", "seven"], "label": ["A", "B", "C"]}, "answerKey": "C"},
]
COMMON = """
dataset_path: json
dataset_kwargs: {{data_files: {{test: {path}}}}}
test_split: test
metadata: {{version: 1}}
"""
TASKS = {
    "toy_choices": """
task: toy_choices
output_type: multiple_choice
doc_to_text: "[[Question]]: {{question}}\\n[[Answer]]:"
doc_to_choice: "{{choices.text}}"
doc_to_target: "{{choices.label.index(answerKey)}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "toy_text": """
task: toy_text
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: byte_perplexity}]
""",
    "toy_writes": """
task: toy_writes
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "x"
generation_kwargs: {until: ["\\n\\n"], max_gen_toks: 5, do_sample: false}
metric_list: [{metric: exact_match}]
""",
}


def run_of(kind: str, folder) -> Run:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        make = Transformer if kind == "transformer" else ResidualTextEBT
        energy = make(257, dim=8, depth=1, heads=2)
        for parameter in energy.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    sampler = GradientDescent(step_size=1.0, steps=1 if kind == "transformer" else 2, retraction="softmax")
    return Run(folder, {}, energy, sampler, None, Text("documentation", context=64), {})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("harness")
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    (folder / "tasks").mkdir()
    for name, text in TASKS.items():
        (folder / "tasks" / f"{name}.yaml").write_text(text + COMMON.format(path=path))
    return folder


@needs_harness
@pytest.mark.parametrize("kind", ["transformer", "residual"])
def test_the_harness_finds_what_we_find(folder, kind, monkeypatch):
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))
    run = run_of(kind, folder)
    manager = TaskManager(include_path=str(folder / "tasks"), include_defaults=False)
    found = simple_evaluate(HarnessModel(run), tasks=list(TASKS), task_manager=manager, bootstrap_iters=0)
    ours = Questions(str(folder / "rows.jsonl"), "arc", context=64).evaluate(run.thinker)
    results = found["results"]
    assert results["toy_choices"]["acc,none"] == pytest.approx(ours["choice_accuracy"])
    assert results["toy_choices"]["acc_norm,none"] == pytest.approx(ours["choice_accuracy_normalized"])
    task = Questions(str(folder / "rows.jsonl"), "arc", context=64)
    for index, sample in enumerate(found["samples"]["toy_choices"]):
        for text, ((logprob, _), *_) in zip(ROWS[index]["choices"]["text"], sample["resps"], strict=True):
            prompt = f"[[Question]]: {ROWS[index]['question']}\n[[Answer]]:"
            before, tokens = [256, *prompt.encode()], [*f" {text}".encode()]
            (expected,) = likelihoods(run.thinker, task, [(before, tokens)])
            assert logprob == pytest.approx(expected.logprob, abs=1e-5)
    # Documents of which each is scored by itself, without its end-of-text.
    texts = [row["question"] for row in ROWS]
    nats = -sum(each.logprob for each in likelihoods(run.thinker, task, [([256], [*text.encode()]) for text in texts]))
    expected = math.exp(nats / sum(len(text.encode()) for text in texts))
    assert results["toy_text"]["byte_perplexity,none"] == pytest.approx(expected, rel=1e-6)
    prompts = [[256, *text.encode()] for text in texts]
    expected = written(run.thinker, task, task.tokenizer, prompts, stop=["\n\n"], max_new_tokens=5)
    assert [sample["resps"][0][0] for sample in found["samples"]["toy_writes"]] == expected


@needs_harness
def test_one_text_s_log_likelihood_is_its_perplexity(folder):
    from lm_eval.api.instance import Instance

    run = run_of("transformer", folder)
    text = "to be or not to be, that is the question " * 4  # longer than the context
    (folder / "text.txt").write_text(text)
    requests = [Instance("loglikelihood_rolling", {}, (text,), 0), Instance("loglikelihood_rolling", {}, ("",), 0)]
    whole, nothing = HarnessModel(run, batch_size=2).loglikelihood_rolling(requests)
    assert nothing == 0
    ids = [*text.encode()][:128]  # two full windows, which WholeText cuts alike
    (folder / "short.txt").write_bytes(bytes(ids))
    short = WholeText(str(folder / "short.txt"), context=64)
    batch = short.data("test")[[0, 1]]
    nats = short.distance(run.thinker.predict(batch, short.start(batch)).y.double(), batch).sum()
    (found,) = HarnessModel(run).loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (bytes(ids).decode(),), 0)])
    assert found == pytest.approx(-float(nats), abs=1e-5)
    assert whole < found


@needs_harness
def test_generation_takes_what_tasks_ask_for_and_refuses_the_rest(folder):
    from lm_eval.api.instance import Instance

    run = run_of("residual", folder)

    def write(context, **how):
        return HarnessModel(run).generate_until([Instance("generate_until", {}, (context, how), 0)])[0]

    greedy = write("In the", max_gen_toks=8)
    assert greedy == write("In the", max_gen_toks=8, temperature=0.0, do_sample=False)
    assert write("In the", max_gen_toks=8, do_sample=True, temperature=1.0) != greedy
    assert write("In the", max_gen_toks=8, until=[greedy[2]]) == greedy[: greedy.index(greedy[2])]
    with pytest.warns(UserWarning, match="1 of 1 contexts lose their beginning: they are longer than the run's context=64"):
        assert write("x" * 200, max_gen_toks=2) == write("x" * 64, max_gen_toks=2)
    with pytest.raises(ValueError, match="num_beams=4: only do_sample"):
        write("In the", num_beams=4)


@needs_harness
def test_the_command_prints_what_the_harness_found(folder, monkeypatch, capsys):
    import lm_eval.tasks

    run, manager = run_of("transformer", folder), lm_eval.tasks.TaskManager
    # Without the thousands of tasks that the harness brings, which take half a minute to list.
    monkeypatch.setattr(
        lm_eval.tasks, "TaskManager", lambda include_path: manager(include_path=include_path, include_defaults=False)
    )
    monkeypatch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))
    monkeypatch.setattr("ebm.recipes.load_run", lambda _: run)

    def say(*words):
        with pytest.raises(SystemExit) as leaving:
            cli.main(["lm-eval", "run", *map(str, words), "--include", str(folder / "tasks")])
        return leaving.value.code, *capsys.readouterr()

    status, out, _ = say("--tasks", "toy_choices,toy_text", "--json", "--limit", 2)
    assert (status, set(json.loads(out))) == (0, {"toy_choices", "toy_text"})
    status, out, _ = say("--tasks", "toy_choices")
    assert (status, "toy_choices\tacc\tnone" in out) == (0, True)
    status, _, err = say("--tasks", "toy_choices,toy_chioces")
    assert (status, "--tasks toy_chioces: the harness has no task of this name" in err) == (2, True)


def test_what_cannot_be_judged_says_why(folder, monkeypatch):
    run = run_of("transformer", folder)
    if adapter.Base is not object:
        other = Run(folder, {}, MLPEnergy(2), GradientDescent(step_size=1.0, steps=1), None, Points("moons", n=60), {})
        with pytest.raises(ValueError, match="was not trained on text"):
            HarnessModel(other)
        with pytest.raises(ValueError, match="batch_size=0"):
            HarnessModel(run, batch_size=0)
    monkeypatch.setattr(adapter, "Base", object)
    with pytest.raises(ImportError, match=r"pip install 'ebm-toolkit\[lm-eval\]'"):
        HarnessModel(run)
    assert "lm-eval" in ebm.components("command")
    assert sys.modules[adapter.__name__] is adapter

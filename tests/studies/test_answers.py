"""The thinking study where answers are right or wrong: one walk gives every number, as judged one by one."""

import pytest
import torch

import ebm
from ebm.randomness import stream
from ebm.studies.answers import Seen, answer_tables, follow, gained, judge_gain, ranked_right
from ebm.studies.findings import Finding
from ebm.thinking import Candidates, think
from ebm.thinking.choosing import CHOICES

SMALL = {
    "task.game": {"kind": "sudoku", "box": [2, 2], "clues": [7, 10], "hard": 6},
    "task.n": 240,
    "energy.dim": 8,
    "energy.heads": 2,
    "fit.steps": 12,
    "fit.batch_size": 16,
    "fit.evaluate_limit": 20,
    "thinking.steps": [1, 2, 4],
    "thinking.candidates": [1, 3],
    "thinking.limit": 20,
    "thinking.search_passes": 24,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return ebm.run("sudoku", SMALL, out=tmp_path_factory.mktemp("runs") / "sudoku")


def findings(run):
    from ebm.studies.thinking import read_findings

    return read_findings(run.path)


def test_each_share_is_that_of_thinking_anew(run):
    """Candidates followed through all steps are those that `think` would start from."""
    found = {(f.split, f.steps, f.candidates, f.choice): f.value for f in findings(run) if f.who == "run" and f.name == "solved"}
    for split in ("test", "hard"):
        generator = stream(0, "study", split)
        batch = run.task.rows(split).rows(slice(20))
        starts = torch.stack([run.task.start(batch, generator=generator) for _ in range(3)])
        for steps in (1, 2, 4):
            for choice in ("min", "confidence", "residual", "vote"):
                with torch.no_grad():
                    y = think(run.energy, run.sampler, batch.context, starts, candidates=3, steps=steps, select=choice).y
                right = run.task.accepts(run.task.answers(y, batch.context), batch)
                assert found[split, steps, 3, choice] == pytest.approx(right.float().mean().item())
            assert found[split, steps, 3, "best possible"] >= max(found[split, steps, 3, choice] for choice in ("min", "vote"))


def test_every_baseline_is_judged_alike(run):
    assert run.baseline is not None
    assert list(run.others) == ["sudoku-looped-hidden", "sudoku-feed-forward", "sudoku-causal"]
    whos = {f.who for f in findings(run)}
    assert whos == {"run", "baseline", "sudoku-looped-hidden", "sudoku-feed-forward", "sudoku-causal"}
    loaded = ebm.load(run.path)
    assert list(loaded.others) == list(run.others)
    assert loaded.baseline.metrics == run.baseline.metrics
    for name, other in run.others.items():
        assert loaded.others[name].metrics == other.metrics
    assert loaded.evaluate() == run.metrics


def test_searches_spend_the_same_passes_and_stopping_fewer(run):
    searched = [f for f in findings(run) if f.choice.startswith("search: ")]
    assert {f.choice for f in searched} == {"search: plain", "search: fresh", "search: hop", "search: cool"}
    assert {f.steps * f.candidates for f in searched} == {24}
    spent = {(f.split, f.name): f.value for f in findings(run) if f.name.endswith("_adaptive")}
    assert all(value <= 4 for (_, name), value in spent.items() if name == "steps_adaptive")


def test_tables_and_report_show_what_was_found(run):
    tables = list(answer_tables(findings(run), "solved"))
    assert [len(rows) for _, _, rows in tables] == [15, 15, 4, 4, 3]
    report = (run.path / "report.html").read_text()
    titles = ("What thinking longer buys", "What verifying oneself buys", "Depth and breadth")
    for title in (*titles, "Boards as they are solved", "Thinking in numbers"):
        assert title in report
    assert "is missing" not in report


def test_gains_of_longer_thinking_are_ranked_by_how_much_is_asked():
    """Two splits: one asks for 2 positions and gains nothing, one for 6 and gains a half."""

    def seen(right, asked):
        right = torch.tensor(right, dtype=torch.bool)
        nothing = torch.zeros(right.shape)
        return Seen(Candidates(nothing[..., None, None], nothing, nothing, nothing), right, nothing, torch.tensor(asked))

    easy = {1: seen([[1, 1], [0, 1]], [2, 2]), 4: seen([[1, 1], [0, 1]], [2, 2])}
    hard = {1: seen([[0, 0], [0, 0]], [6, 6]), 4: seen([[0, 0], [1, 1]], [6, 6])}
    assert gained(easy, 1)[1].tolist() == [0, 0]
    assert gained(hard, 1)[1].tolist() == [0.5, 0.5]
    found = {f.name: f.value for f in judge_gain("run", {"test": gained(easy, 1), "hard": gained(hard, 1)}, 4)}
    assert found == pytest.approx({"gain_slope": 0.125, "gain_slope_low": 0.125, "gain_slope_high": 0.125})
    assert list(judge_gain("run", {"test": gained(easy, 1)}, 4)) == []  # problems of one size have no slope


def test_marks_are_looked_at_once_and_energies_are_of_the_ends(run):
    batch = run.task.rows("test").rows(slice(5))
    seen = list(follow(run, batch, [1, 3], 2, torch.Generator().manual_seed(0)))
    assert [steps for steps, _ in seen] == [1, 3]
    for _, each in seen:
        with torch.no_grad():
            value = run.energy.given(batch.context)(run.sampler.point(each.found.y))
        assert torch.allclose(each.found.energy, value)
        assert each.right.shape == each.wrong.shape == (2, 5)
        assert torch.equal(each.wrong == 0, each.right)  # each board has one solution
        assert torch.equal(each.asked, (batch.context < 0).sum(1))


def test_the_chance_that_the_right_one_is_lower():
    right = torch.tensor([[True, False], [False, False], [True, True]])
    energy = torch.tensor([[0.0, 5.0], [1.0, 3.0], [2.0, 4.0]])
    # pairs: (0 < 1), (2 > 1) in the first problem; (4 < 5), (4 > 3) in the second
    assert ranked_right(energy, right) == pytest.approx(0.5)
    assert ranked_right(energy, torch.ones(3, 2, dtype=torch.bool)) is None
    assert set(CHOICES) >= {"min", "vote"}
    assert Finding(name="solved").choice == ""

"""Readings of simulated tables: they find what was made, and their intervals cover it as often as they say."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ebm.grids.grid import READINGS as LEAST
from ebm.grids.grid import Measure, parse
from ebm.grids.picture import picture
from ebm.grids.readings import READINGS
from ebm.grids.readings.reading import Compared, told
from ebm.grids.table import Row, Table, balanced, number_in
from ebm.judging.seeds import Estimate, over_seeds

X = [100.0, 200.0, 400.0, 800.0]
TRIALS = 600
WITHIN = 4 * math.sqrt(0.95 * 0.05 / TRIALS)


def grid(use="gain", seeds=3, better="lower", **test):
    return parse(
        {
            "claim": "c",
            "source": "s",
            "seeds": seeds,
            "axis": {"label": "x", "settings": {"fit.steps": [int(x) for x in X]}, "scale": "log"},
            "arms": {"ours": {"recipe": "text"}, "theirs": {"recipe": "text-transformer"}},
            "measure": {"metric": "loss", "better": better},
            "test": {"use": use, **({} if use == "level" else {"against": "theirs"}), **test},
        }
    )


def table(made, values, lost=()):
    """Makes a table of values(arm, x, seed)."""
    rows = []
    for arm in made.arms:
        for point, x in zip(made.points_of(arm), X, strict=True):
            for seed in made.drawn():
                value = math.nan if (arm, x, seed) in lost else values(arm, x, seed)
                rows.append(
                    Row(
                        arm,
                        point,
                        x,
                        seed,
                        "loss",
                        value,
                        "healthy" if math.isfinite(value) else "diverged",
                        f"{arm}.{point}.{seed}",
                    )
                )
    return Table(made, rows)


def noise(trial, spread=0.02, shared=0.2):
    """Draws of runs, with what two runs of a seed share."""
    g = torch.Generator().manual_seed(trial)
    own = spread * torch.randn(2, len(X), 3, generator=g, dtype=torch.float64)
    common = shared * torch.randn(3, generator=g, dtype=torch.float64)
    return lambda arm, x, seed: (own[int(arm == "theirs"), X.index(x), seed] + common[seed]).item()


# -------------------------------------------------------------------------------------------------------------------- laws


@given(st.floats(-2, 2), st.sampled_from(["lower", "higher"]), st.lists(st.floats(-5, 5), min_size=3, max_size=3))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_a_gain_is_that_of_pairs_whatever_seeds_share(gain, better, shared):
    sign = 1.0 if better == "higher" else -1.0
    found = READINGS["gain"](
        table(grid(better=better), lambda arm, x, seed: shared[seed] + sign * (gain + 0.1 * seed) * (arm == "ours") * x / 800)
    )
    assert found.found[0][:3] == ("ours", "theirs", "800")
    assert found.found[0].estimate == pytest.approx(over_seeds([gain, gain + 0.1, gain + 0.2]), abs=1e-9)


def test_that_a_gain_rises_is_compared_seed_by_seed_and_may_fail():
    """Both arms gain on the third in each seed; that one of them gains more holds, falls short or is open."""
    arms = {name: {"recipe": "text"} for name in ("short", "long", "plain")}
    for extra, verdict in ((0.5, "holds"), (-0.5, "mixed")):
        made = parse(
            grid().model_dump(exclude_defaults=True)
            | {"arms": arms, "test": {"use": "gain", "against": "plain", "rising": ["short", "long"]}}
        )
        gains = {"short": 1.0, "long": 1.0 + extra, "plain": 0.0}
        found = READINGS["gain"](
            table(made, lambda arm, x, seed, g=gains: 9.0 + seed - g[arm] * (1 + 0.01 * seed)), rising=["short", "long"]
        )
        assert found.verdict == verdict
        assert found.found[-1][:4] == ("long", "short", "800", "gain in loss larger by")
        assert found.found[-1].estimate == pytest.approx(over_seeds([extra, 1.01 * extra, 1.02 * extra]))
    with pytest.raises(ValueError, match="test.rising: 'lng' is no arm that is compared with another: did you mean 'long'"):
        parse(made.model_dump(exclude_defaults=True) | {"test": {"use": "gain", "against": "plain", "rising": ["lng"]}})


def test_what_a_part_costs_is_what_the_full_one_is_better_by():
    made = grid("ablation")
    found = READINGS["ablation"](table(made, lambda arm, x, seed: 2.0 + (arm == "ours") * (0.5 + 0.1 * seed)), against="theirs")
    assert found.verdict == "holds"
    assert found.found[0].estimate.value == pytest.approx(0.6)
    assert "ours against theirs at 800: loss worse by 0.6 [" in found.sentence


def test_a_slope_is_that_of_each_seeds_line():
    found = READINGS["slope"](table(grid("slope"), lambda arm, x, seed: 9.0 - (0.01 + 0.001 * seed) * x * (arm == "ours")))
    assert found.found[0].estimate == pytest.approx(over_seeds([0.010, 0.011, 0.012]))
    assert found.verdict == "holds"


def test_a_level_is_the_mean_of_an_arm():
    found = READINGS["level"](table(grid("level", better="higher"), lambda arm, x, seed: -0.5 - 0.01 * seed))
    assert (found.verdict, len(found.found)) == ("opposite", 8)
    assert "2 more estimates are in finding.json" in found.sentence


@pytest.mark.parametrize(("floor", "within"), [(0.0, 1e-9), (1.5, 1e-9), ("fit", 0.05)])
def test_the_ratio_of_exponents_is_found(floor, within):
    level = 1.5 if floor else 0.0

    def loss(arm, x, seed):
        return level + (4 + 0.1 * seed) * x ** -(0.26 if arm == "ours" else 0.2)

    found = READINGS["power-law"](table(grid("power-law"), loss), against="theirs", floor=floor)
    assert found.found[0].estimate.value == pytest.approx(1.3, abs=within)
    assert found.found[0].nothing == 1.0
    if floor != "fit":
        assert "Mean exponents: ours 0.26, theirs 0.2" in found.sentence


def test_a_steeper_fall_from_behind_is_told():
    def loss(arm, x, seed):
        return (40 if arm == "ours" else 4) * x ** -(0.26 if arm == "ours" else 0.2)

    sentence = READINGS["power-law"](table(grid("power-law"), loss), against="theirs").sentence
    assert "ours is behind at every point" in sentence
    assert "theirs is behind" not in sentence


@pytest.mark.parametrize("floor", [0.0, 1.0, "fit"])
def test_losses_that_are_not_above_the_floor_are_said_and_the_other_seeds_read(floor):
    """They come to light after all runs, whose table is worth reading still."""
    level = 1.0 if floor == 1.0 else 0.0

    def loss(arm, x, seed):
        low = arm == "ours" and x == 800 and seed == 1
        return level + (0.0 if low else (4 + 0.1 * seed) * x ** -(0.26 if arm == "ours" else 0.2))

    found = READINGS["power-law"](table(grid("power-law"), loss), against="theirs", floor=floor)
    assert found.found[0].estimate.seeds == 2
    assert found.verdict in ("mixed", "undecided")
    assert f"Ours has losses that are not above {level:g} in 1 seed, of which there is no law" in found.sentence


def test_points_that_are_measured_at_one_place_have_no_slope():
    made = table(grid("slope"), lambda arm, x, seed: 9.0 - x * (arm == "ours"))
    found = READINGS["slope"](Table(made.grid, [row._replace(x=24.0) for row in made.rows]))
    assert (found.verdict, found.found) == ("undecided", [])
    assert "All points of ours lie at 24, and have no slope" in found.sentence


@pytest.mark.parametrize("rising", [1, 3])
def test_a_seed_whose_loss_rises_is_not_left_out(rising):
    def loss(arm, x, seed):
        bend = 0.1 if arm == "ours" and seed < rising else -0.1 - 0.02 * (arm == "ours")
        return x ** (bend + 0.001 * seed * (arm == "ours"))

    found = READINGS["power-law"](table(grid("power-law"), loss), against="theirs")
    assert found.found[0].estimate == pytest.approx(
        over_seeds([(-0.2 if seed < rising else 0.02) - 0.001 * seed for seed in range(3)])
    )
    assert found.found[0][3:] == ("exponent is larger by", found.found[0].estimate, 0.0)
    assert found.verdict == ("opposite" if rising == 3 else "undecided")
    assert f"In {rising} of 3 seeds ours or theirs has a loss that does not fall" in found.sentence


# ---------------------------------------------------------------------------------------------------------------- coverage


@pytest.mark.parametrize(("use", "truth"), [("gain", 0.1), ("slope", 0.1 / 800), ("power-law", 1.3)])
def test_intervals_cover_the_truth_as_often_as_they_say(use, truth):
    covered = 0
    made = grid(use)
    for trial in range(TRIALS):
        drawn = noise(trial)

        def value(arm, x, seed, drawn=drawn):
            if use == "power-law":
                return 4 * x ** -(0.26 if arm == "ours" else 0.2) * math.exp(drawn(arm, x, seed))
            return 2.0 - 0.1 * x / 800 * (arm == "ours") + drawn(arm, x, seed)

        estimate = READINGS[use](table(made, value), against="theirs").found[0].estimate
        covered += estimate.low <= truth <= estimate.high
    assert covered / TRIALS == pytest.approx(0.95, abs=WITHIN)


def test_pairing_by_seed_makes_the_interval_narrow():
    drawn = noise(1)
    made = table(grid(), lambda arm, x, seed: 2.0 - 0.1 * (arm == "ours") + drawn(arm, x, seed))
    paired = READINGS["gain"](made).found[0].estimate
    apart = over_seeds([*made.values("ours", "800").values()])
    assert paired.high - paired.low < (apart.high - apart.low) / 3


# --------------------------------------------------------------------------------------------------- sentences and verdicts


def test_the_verdict_is_made_of_all_comparisons():
    both = table(
        grid(points=["100", "800"]),
        lambda arm, x, seed: (arm == "ours") * (1.0 if x == 100 else -1.0) + 1e-3 * seed * (arm == "ours"),
    )
    found = READINGS["gain"](both, points=["100", "800"])
    assert found.verdict == "mixed"
    assert found.sentence.startswith("Of 2 comparisons 1 supports the claim, 1 contradicts it: ")


def test_what_is_lost_is_counted_and_pairs_lose_both():
    lost = [("ours", 800.0, 1), ("theirs", 800.0, 2)]
    found = READINGS["gain"](table(grid(), lambda arm, x, seed: 2.0 - 0.1 * (arm == "ours"), lost))
    assert found.found[0].estimate.seeds == 1
    assert "one seed: no interval" in found.sentence
    assert "2 runs without a number left out (ours.800.1: diverged)" in found.sentence
    none = READINGS["gain"](table(grid(), lambda arm, x, seed: 1.0, [("ours", 800.0, seed) for seed in range(3)]))
    assert (none.verdict, none.found) == ("undecided", [])
    assert "Nothing can be compared. 3 runs without a number left out" in none.sentence
    assert "Ours and theirs have no seed in common at 800" in none.sentence


@pytest.mark.parametrize("sign", [1, -1])
def test_no_claim_holds_nor_its_opposite_if_a_run_has_diverged(sign):
    def loss(arm, x, seed):
        return 2.0 - sign * (arm == "ours") * (0.1 + 0.001 * seed)

    assert READINGS["gain"](table(grid(seeds=4), loss)).verdict == ("holds" if sign > 0 else "opposite")
    assert READINGS["gain"](table(grid(seeds=4), loss, [("ours", 800.0, 3)])).verdict == "mixed"


def test_seeds_that_are_all_alike_have_no_interval():
    """Of 200 problems one more is solved, in each seed: the truth is not that to the last digit."""
    found = READINGS["gain"](table(grid(better="higher"), lambda arm, x, seed: 0.5 + 0.1 * seed + 0.005 * (arm == "ours")))
    assert found.verdict == "undecided"
    assert "loss better by 0.005 (seeds alike: no interval)" in found.sentence
    counts = torch.poisson(torch.full((TRIALS, 2, 2), 1.0), generator=torch.Generator().manual_seed(0)).tolist()
    covered = 0
    for ours, theirs in counts:
        made = table(grid(seeds=2, better="higher"), lambda arm, x, seed, n=(ours, theirs): n[arm == "theirs"][seed] / 200)
        estimate = READINGS["gain"](made).found[0].estimate
        covered += estimate.low <= 0 <= estimate.high
    assert covered / TRIALS > 0.95 - WITHIN


def test_every_reading_says_what_it_needs_and_is_drawn():
    assert READINGS.keys() == LEAST.keys()
    for use, read in READINGS.items():
        made = table(grid(use), lambda arm, x, seed: 3 * x ** -(0.2 + 0.01 * (arm == "ours")) + 0.001 * seed)
        keywords = {} if use == "level" else {"against": "theirs"}
        assert picture(made, read(made, **keywords)).startswith(b"\x89PNG")
    assert told(Compared("a", "", "", "is", Estimate(1.0))) == "a: is 1 (one seed: no interval)"


def test_a_loss_as_large_as_a_float_may_be_is_drawn():
    made = table(grid("power-law"), lambda arm, x, seed: 1e303 if arm == "ours" else 3 * x**-0.2)
    assert picture(made, READINGS["power-law"](made, against="theirs")).startswith(b"\x89PNG")


def test_words_of_a_person_are_drawn_as_they_are():
    told = grid().model_dump(exclude_none=True)
    arms = {"a $x^{$": told["arms"]["ours"], "theirs": told["arms"]["theirs"]}
    made = table(
        parse({**told, "arms": arms, "axis": {**told["axis"], "label": "$ spent, in $x^{$"}}), lambda arm, x, seed: x + seed
    )
    assert picture(made, READINGS["gain"](made, against="theirs")).startswith(b"\x89PNG")


# ------------------------------------------------------------------------------------------------------------------- tables


def test_a_number_in_rows_is_the_one_that_is_meant():
    rows = [
        {"who": "run", "split": "test", "steps": 1, "name": "loss", "value": 3.0, "seed": 0},
        {"who": "run", "split": "test", "steps": 1, "name": "loss", "value": 5.0, "seed": 1},
        {"who": "run", "split": "test", "steps": 1, "name": "solved", "value": 0.5, "seed": 0},
    ]
    where = {"who": "run", "steps": 1}
    assert number_in(rows, Measure(metric="loss", mean_over=["seed"]), where) == 4.0
    assert number_in(rows, Measure(metric="solved"), {**where, "choice": ""}) == 0.5
    with pytest.raises(ValueError, match="2 rows of .* differ in seed: add to measure.where, or to measure.mean_over"):
        number_in(rows, Measure(metric="loss"), where)
    with pytest.raises(ValueError, match="no row of the study .* has a value with who = run, steps = 2"):
        number_in(rows, Measure(metric="loss"), {**where, "steps": 2})
    wide = [{"who": "run", "top1": 0.5, "top5": 0.9}, {"who": "pixels", "top1": 0.25, "top5": 0.8}]
    assert number_in(wide, Measure(metric="top1"), {"who": "pixels"}) == 0.25


@given(st.sets(st.tuples(st.sampled_from(["ours", "theirs"]), st.integers(0, 3), st.integers(0, 4))), st.integers(1, 3))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_what_is_read_is_always_balanced(have, fewest):
    made = grid(seeds=5)
    rows = [Row(arm, made.points_of(arm)[point], X[point], seed, "loss", 1.0, "healthy", "") for arm, point, seed in sorted(have)]
    inside, left = balanced(made, rows, fewest)
    found = {(row.arm, row.point, row.seed) for row in inside}
    points, seeds = {row.point for row in inside}, {row.seed for row in inside}
    assert found == {(arm, point, seed) for arm in made.arms for point in points for seed in seeds}
    assert {*left} == {f"point {p}" for p in made.points_of("ours") if p not in points} | {
        f"seed {s}" for s in range(5) if s not in seeds
    }
    whole = [(0, seed) for seed in range(5) if {("ours", 0, seed), ("theirs", 0, seed)} <= have]
    assert bool(whole) == bool(inside)  # what was run at all at the first point is read

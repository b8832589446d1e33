"""The benchmarks' recorded ratios: what has fallen by more than a tenth ends in exit code 1, and only then."""

import importlib.util
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import laws

PATH = Path(__file__).parents[1] / "benchmarks" / "recorded.py"
spec = importlib.util.spec_from_file_location("recorded", PATH)
recorded = importlib.util.module_from_spec(spec)
spec.loader.exec_module(recorded)


@laws
@given(before=st.floats(0.1, 100), now=st.floats(0.1, 100))
def test_a_tenth_below_is_a_regression(before, now, tmp_path_factory):
    path = tmp_path_factory.mktemp("benchmark") / "mine.py"
    first = recorded.Recorded(path, write=True)
    assert first.see("a case", before) is None
    assert first.end() == 0
    again = recorded.Recorded(path)
    bar = again.see("a case", now)
    assert bar == float(f"{before:.4g}")
    assert again.end() == int(now < 0.9 * bar)
    assert json.loads(path.with_suffix(".json").read_text()) == {"a case": bar}  # looking changes nothing


def test_what_has_fallen_is_named_and_what_is_new_is_none(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.with_suffix(".json").write_text('{"slow": 2.0, "level": 1.0, "elsewhere": 9.0}')
    seen = recorded.Recorded(path)
    for key, ratio in {"slow": 1.7, "level": 0.95, "new": 0.1}.items():
        seen.see(key, ratio)
    assert seen.end() == 1
    assert capsys.readouterr().err == "worse than recorded: slow: 1.7, recorded 2.0\n"


def test_recording_keeps_the_other_keys_and_judges_nothing(tmp_path):
    path = tmp_path / "mine.py"
    path.with_suffix(".json").write_text('{"slow": 2.0, "elsewhere": 9.0}')
    seen = recorded.Recorded(path, write=True)
    assert seen.see("slow", 1.0) == 2.0
    assert seen.end() == 0
    assert json.loads(path.with_suffix(".json").read_text()) == {"elsewhere": 9.0, "slow": 1.0}
    assert [each.name for each in tmp_path.iterdir()] == ["mine.json"]


@pytest.mark.parametrize("ratio", [math.nan, math.inf, 0.0, -1.0])
def test_what_is_no_ratio_is_refused(tmp_path, ratio):
    with pytest.raises(ValueError, match="a case: the ratio is"):
        recorded.Recorded(tmp_path / "mine.py").see("a case", ratio)


@pytest.mark.parametrize("name", ["reference", "sampler_overhead", "sampler_ess"])
def test_what_is_recorded_says_on_how_many_threads(name):
    known = json.loads(PATH.with_name(f"{name}.json").read_text())
    assert known
    assert all(", threads " in key and 0 < ratio < math.inf for key, ratio in known.items())

"""`ebm diagnose`: each kind of file, the worst coordinates first, and files that cannot be diagnosed."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ebm.cli import main
from ebm.judging import effective_sample_size, split_rhat, to_arviz
from ebm.samplers import NUTS
from tests.helpers import normal, quadratic, seeded

pytest.importorskip("arviz")


def diagnosed(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(["diagnose", *map(str, arguments)])
    told = capsys.readouterr()
    return stop.value.code, told.out, told.err


@pytest.fixture
def draws():
    found = torch.randn(200, 4, 3, generator=seeded(), dtype=torch.float64)
    found[:, 1, 2] += 2.0  # one chain stays elsewhere in the last coordinate
    return found


def test_numbers_are_those_of_the_judges_and_the_worst_comes_first(capsys, tmp_path, draws):
    save_file({"theta": draws}, tmp_path / "chains.safetensors")
    code, out, _ = diagnosed(capsys, tmp_path / "chains.safetensors", "--json")
    assert code == 0
    found = json.loads(out)
    assert next(iter(found["coordinates"])) == "theta[2]"
    for index, (rhat, ess) in enumerate(zip(split_rhat(draws), effective_sample_size(draws), strict=True)):
        row = found["coordinates"][f"theta[{index}]"]
        assert row["r_hat"] == pytest.approx(float(rhat))
        assert row["ess bulk"] == pytest.approx(float(ess))
        assert row["mean"] == pytest.approx(float(draws[..., index].mean()))
    assert any("1 of 3 coordinates have an R-hat above 1.01, such as theta[2]" in line for line in found["verdict"])


def test_every_kind_of_file_says_the_same(capsys, tmp_path, draws):
    array = draws.numpy()
    save_file({"y": draws}, tmp_path / "a.safetensors")
    np.save(tmp_path / "b.npy", array)
    np.savez(tmp_path / "c.npz", y=array)
    np.save(tmp_path / "d.npy", np.moveaxis(array, 1, 0))
    told = [diagnosed(capsys, tmp_path / name, "--json")[1] for name in ("a.safetensors", "b.npy", "c.npz")]
    told.append(diagnosed(capsys, tmp_path / "d.npy", "--axes", "chains-draws", "--json")[1])
    assert len({*told}) == 1


def test_a_file_of_arviz_brings_its_statistics(capsys, tmp_path):
    to_arviz(NUTS(0.5, steps=50).trajectory(quadratic, normal(4, 2), generator=seeded())).to_netcdf(str(tmp_path / "chains.nc"))
    code, out, _ = diagnosed(capsys, tmp_path / "chains.nc")
    assert code == 0
    assert "y: 50 draws of 4 chains, each of shape (2,)" in out
    assert "acceptance 0." in out
    assert diagnosed(capsys, tmp_path / "chains.nc", "--axes", "draws")[0] == 2


def test_what_ebm_sample_writes_is_one_chain(capsys, tmp_path):
    save_file({"samples": torch.randn(300, 2, generator=seeded())}, tmp_path / "samples.safetensors")
    code, out, _ = diagnosed(capsys, tmp_path / "samples.safetensors")
    assert code == 0
    assert "samples: 300 draws of 1 chain, each of shape (2,); with one chain, R-hat compares its halves only" in out


def test_good_chains_and_long_tables(capsys, tmp_path):
    np.save(tmp_path / "good.npy", torch.randn(2000, 4, 30, generator=seeded()).numpy())
    code, out, _ = diagnosed(capsys, tmp_path / "good.npy", "--rows", "5")
    assert code == 0
    assert "the 5 of 30 coordinates with the largest R-hat" in out
    assert "nothing speaks against these chains" in out


def test_pictures_are_drawn(capsys, tmp_path, draws):
    np.save(tmp_path / "chains.npy", draws.numpy())
    code, _, _ = diagnosed(capsys, tmp_path / "chains.npy", "--out", tmp_path / "pictures")
    assert code == 0
    names = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert names == {"trace.png", "rank.png", "autocorrelation.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (tmp_path / "pictures").iterdir())


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("a.npy", np.zeros(10), "shape (10,)"),
        ("a.npy", np.zeros((3, 5)), "at least 4 draws"),
        ("a.npy", np.full((10, 4), math.nan), "not finite"),
        ("a.npy", np.array([["a"]]), "pass numbers"),
        ("a.npy", np.array([[object()]]), "cannot be read"),
        ("a.txt", None, "a samples file ends in"),
        ("gone.npy", None, "no such file"),
        ("broken.safetensors", None, "cannot be read"),
        ("broken.nc", None, "cannot be read"),
    ],
)
def test_what_cannot_be_diagnosed_is_one_line(capsys, tmp_path, name, array, message):
    if array is not None:
        np.save(tmp_path / name, array)
    elif name.startswith("broken"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
    code, out, err = diagnosed(capsys, tmp_path / name)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_still_coordinates_are_named(capsys, tmp_path):
    array = torch.randn(100, 4, 2, generator=seeded())
    array[..., 1] = 3.0
    np.save(tmp_path / "a.npy", array.numpy())
    code, out, _ = diagnosed(capsys, tmp_path / "a.npy")
    assert code == 0
    assert "1 of 2 coordinates never move, such as y[1]" in out
    assert out.splitlines()[2].startswith("y[1]")

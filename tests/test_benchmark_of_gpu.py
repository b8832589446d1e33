"""The check of an accelerator, on the CPU: it passes what is right, finds kernels that detach, and survives a lack of memory."""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from ebm.energies.ebt import attention, kernels, layer_norm, mutual, products
from ebm.energies.restoration import convolutions, elu


@pytest.fixture(scope="module")
def folder():
    """The benchmarks' folder, where they import each other from."""
    path = str(Path(__file__).parents[1] / "benchmarks")
    sys.path.insert(0, path)
    yield Path(path)
    sys.path.remove(path)


@pytest.fixture(scope="module")
def gpu(folder) -> ModuleType:
    return importlib.import_module("gpu")


@pytest.fixture(scope="module")
def machine(folder) -> ModuleType:
    return importlib.import_module("machine")


def run(gpu, tmp_path, *parts: str) -> tuple[int, list[dict]]:
    path = tmp_path / "gpu.json"
    status = gpu.main(["--quick", "--device", "cpu", "--json", str(path), "--only", *parts])
    found = json.loads(path.read_text())
    assert found["failed"] == sum(row["failed"] for row in found["rows"])
    return status, found["rows"]


def test_what_is_right_passes_and_every_part_tells_its_numbers(gpu, tmp_path, capsys):
    status, rows = run(gpu, tmp_path, *gpu.PARTS)
    assert status == 0
    assert {row["part"] for row in rows} == {*gpu.PARTS, "compiler"}
    timed = [row for row in rows if row["ms"] is not None]
    assert {row["part"] for row in timed} == {"text", "generation", "images", "sampler"}
    assert all(row["ms"] > 0 and row["rate"] > 0 for row in timed)
    assert all(0 < row["share"] < math.inf and row["megabytes"] >= 0 for row in timed if row["part"] != "sampler")
    checked = {row["part"] for row in rows if row["error"] is not None}
    assert checked == {"kernels", "text", "generation", "images", "sampler"}
    out, err = capsys.readouterr()
    assert max(map(len, out.splitlines())) <= 100
    assert "[6/6]" in err


DETACHED = {
    "rms norm": kernels._Norm,
    "layer norm": layer_norm._Norm,
    "gelu": kernels._Gelu,
    "gate": kernels._Gated,
    "heads": kernels._Heads,
    "attention": attention._Attention,
    "mutual attention": mutual._Mutual,
    "product": products._Product,
    "elu": elu._Elu,
    "convolution": convolutions._Convolution,
    "spread": convolutions._Spread,
}


@pytest.mark.parametrize("name", DETACHED)
def test_a_kernel_that_detaches_ends_in_exit_code_1(gpu, tmp_path, monkeypatch, name):
    backward = DETACHED[name].backward

    def cut(ctx, *grads):
        with torch.no_grad():
            return backward(ctx, *grads)

    monkeypatch.setattr(DETACHED[name], "backward", staticmethod(cut))
    monkeypatch.setattr(gpu, "DTYPES", {"float32": torch.float32})
    status, rows = run(gpu, tmp_path, "kernels")
    assert status == 1
    failed = {row["case"].partition(",")[0] for row in rows if row["failed"]}
    assert name in failed
    assert "observed attention" not in failed


@pytest.mark.parametrize("factor", [1.001, math.nan])
def test_a_second_derivative_a_thousandth_off_is_found_and_nan_is_no_pass(gpu, tmp_path, monkeypatch, factor):
    exact = kernels._GeluGradient.backward
    monkeypatch.setattr(gpu, "DTYPES", {"float32": torch.float32})
    monkeypatch.setattr(kernels._GeluGradient, "backward", staticmethod(lambda ctx, g: tuple(factor * x for x in exact(ctx, g))))
    status, rows = run(gpu, tmp_path, "kernels")
    assert status == 1
    assert [row["case"] for row in rows if row["failed"]] == ["gelu, float32"]


def test_a_gradient_of_an_energy_that_is_wrong_is_found(gpu, tmp_path, monkeypatch):
    """What lies between the kernels, too: half of what reaches the observed stream is lost."""

    def halved(slopes):
        return (None if x is None else 0.5 * x for x in slopes)

    past = attention._Past.backward
    monkeypatch.setattr(attention._Past, "backward", staticmethod(lambda ctx, *g: tuple(halved(past(ctx, *g)))))
    status, rows = run(gpu, tmp_path, "text")
    assert status == 1
    assert any(row["failed"] and "few tokens, float32" in row["case"] for row in rows)


def test_a_lack_of_memory_is_said_and_excuses_no_check(gpu, tmp_path, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("tried to allocate 9 GiB")

    with monkeypatch.context() as patch:
        patch.setattr(gpu.Bench, "timed", full)
        status, rows = run(gpu, tmp_path, "generation", "sampler")
    assert status == 0
    assert {row["note"] for row in rows if row["part"] == "generation" and row["error"] is None} == {"out of memory"}
    assert any(row["part"] == "sampler" and row["ms"] for row in rows)
    (tmp_path / "gpu.json").unlink()
    monkeypatch.setattr(gpu.generation, "slow_logits", full)
    status, rows = run(gpu, tmp_path, "generation")
    assert status == 1
    assert [row["note"] for row in rows if row["failed"]] == ["out of memory: not checked"]


def test_a_persons_file_is_not_replaced(gpu, tmp_path):
    path = tmp_path / "gpu.json"
    path.write_text("mine")
    with pytest.raises(SystemExit, match="which is not replaced"):
        gpu.main(["--quick", "--json", str(path)])
    assert path.read_text() == "mine"
    with pytest.raises(SystemExit, match="there is no folder"):
        gpu.main(["--quick", "--json", str(tmp_path / "nowhere" / "gpu.json")])


@pytest.mark.slow
def test_compiled_forms_are_checked_too(gpu, tmp_path, monkeypatch):
    bench = gpu.Bench(torch.device("cpu"), gpu.sizes_of(torch.device("cpu"), True), {"backend": "eager"}, {})
    rows = [*gpu.kernels_right(bench), *gpu.text(bench)]
    assert not any(row.failed for row in rows)
    assert sum("compiled" in row.case for row in rows) == 6 + 4


def test_arithmetic_is_counted_to_the_last_product(machine, monkeypatch):
    monkeypatch.setattr(products, "MANY", 1)  # oneDNN multiplies
    x, weight = torch.randn(16, 8, requires_grad=True), torch.randn(12, 8, requires_grad=True)
    product = 2 * 16 * 8 * 12
    assert machine.flops_of(lambda: products.linear(x, weight)) == product
    assert machine.flops_of(lambda: products.linear(x, weight).sum().backward()) == 3 * product
    assert machine.flops_of(lambda: torch.zeros(2, 4, 6).baddbmm_(torch.ones(2, 4, 5), torch.ones(2, 5, 6))) == 2 * 2 * 4 * 5 * 6

    def twice():
        (slope,) = torch.autograd.grad(products.linear(x, weight).square().sum(), x, create_graph=True)
        slope.square().sum().backward(inputs=[weight])

    # the product, the slope's, and of its two factors' gradients: g's (which goes on to the weight) and the weight's
    assert machine.flops_of(twice) == 5 * product


def test_time_and_memory_are_measured_on_whatever_there_is(machine):
    device = machine.device_of("cpu")
    assert machine.seconds(lambda: sum(range(1000)), device, rounds=3, repeat=2) > 0
    assert machine.matmul_rate(device, torch.float32, 16, rounds=1) > 0
    assert machine.peak(lambda: torch.ones(2**23), device) > 16  # 32 MB, less what the process had at hand
    assert machine.out_of_memory(RuntimeError("[enforce fail at alloc_cpu.cpp] … can't allocate memory: you tried …"))
    assert not machine.out_of_memory(RuntimeError("shapes differ"))

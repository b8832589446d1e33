"""Belief energies: an oracle that is slow and obvious, exact derivatives, what is known, relations."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebm.baselines import LoopedNetwork
from ebm.energies import BeliefEBT
from ebm.energies.ebt.mutual import attend, attend_plainly
from ebm.energies.ebt.relations import boxes, lines, offsets, order, relations_of
from ebm.interfaces import energy_and_grad
from ebm.objectives import Reconstruction
from ebm.samplers import FixedPoint, MirrorDescent
from ebm.tasks import Puzzles
from tests.helpers import close, laws, normal, seeds

FORMS = {
    "free": {},
    "hidden": {"hidden": 2},
    "scalar": {"head": "scalar"},
    "loose": {"fixed": False, "context_vocab": 7},
    "placed": {"length": 4, "relations": torch.arange(16).view(4, 4) % 3},
    "window": {"relations": {"kind": "order", "reach": 1, "window": True}, "depth": 2},
}
every = pytest.mark.parametrize("form", FORMS)


def made(form, seed=0):
    torch.manual_seed(seed)
    energy = BeliefEBT(3, **{"dim": 8, "heads": 2, **FORMS[form]}).double()
    if energy.hidden == 0 and energy.blocks[0].bias is not None:
        torch.nn.init.normal_(energy.blocks[0].bias)
    return energy, torch.tensor([[-1, 2, -1, 0], [-1, -1, 1, -1]])


def beliefs(energy, *shape, seed=1):
    p = normal(*shape, 4, 3, seed=seed).softmax(-1)
    return torch.cat([p, normal(*shape, 4, energy.hidden, seed=seed + 1).tanh()], -1)


def by_hand(energy, y, known):
    """Computes the energy of one answer y (S, V + hidden), position by position and head by head."""
    size, total = len(known), torch.zeros((), dtype=y.dtype)
    vocab = energy.vocab_size
    p = [torch.eye(vocab, dtype=y.dtype)[known[i]] if energy.fixed and known[i] >= 0 else y[i, :vocab] for i in range(size)]
    x = [energy.read_in.weight @ p[i] + energy.known.weight[known[i] + 1] for i in range(size)]
    if energy.place is not None:
        x = [x[i] + energy.place[i] for i in range(size)]
    if energy.hidden:
        x = [x[i] + energy.units_in.weight @ y[i, vocab:] for i in range(size)]

    def norm(v):
        return v / (v.square().mean() + 1e-5).sqrt()

    for block in energy.blocks:
        dim = len(x[0]) // block.heads
        parts = [(block.qkv.weight @ v).split(len(v)) for v in x]
        seen = []
        for i in range(size):
            heads = []
            for head in range(block.heads):
                cut = slice(head * dim, (head + 1) * dim)
                scores = []
                for j in range(size):
                    score = parts[i][0][cut] @ parts[j][1][cut] / math.sqrt(dim)
                    if energy.relations is not None:
                        kind = int(energy.relations.among(size)[i, j])
                        score = score + (-math.inf if kind in energy.relations.hidden else block.bias[head, kind])
                    scores.append(score)
                weights = torch.stack(scores).softmax(0)
                heads.append(sum(weights[j] * parts[j][2][cut] for j in range(size)))
            seen.append(torch.cat(heads))
        x = [norm(x[i] + block.out.weight @ seen[i]) for i in range(size)]
        fed = []
        for v in x:
            gate, up = (block.gate_up.weight @ v).chunk(2)
            fed.append(block.down.weight @ (gate * gate.sigmoid() * up))
        x = [norm(v + more) for v, more in zip(x, fed, strict=True)]
    for i, f in enumerate(x):
        if energy.head == "scalar":
            total = total + energy.read_out.weight[0] @ f
            continue
        field = energy.read_out.weight @ f + energy.read_out.bias
        total = total + sum(q * (q.clamp(min=1e-35).log() - field[v]) for v, q in enumerate(p[i]))
        for unit in range(energy.hidden):
            g = y[i, vocab + unit]
            entropy = -sum(q * q.log() for q in ((1 + g) / 2, (1 - g) / 2))
            total = total - entropy - g * (energy.units_out.weight @ f)[unit]
    return total


@every
def test_energies_are_those_written_out(form):
    energy, context = made(form)
    y = beliefs(energy, 2)
    got = energy.given(context)(y)
    close(got, torch.stack([by_hand(energy, y[row], context[row].tolist()) for row in range(2)]))
    close(energy.position_energies(y, energy.encode(context)).sum(-1), got)


@every
def test_both_derivatives_are_exact(form):
    energy, context = made(form)
    function, y = energy.given(context), beliefs(energy, 2).requires_grad_()
    assert torch.autograd.gradcheck(function, (y,))
    assert torch.autograd.gradgradcheck(function, (y,))


@laws
@given(seed=seeds, positions=st.integers(1, 5), biased=st.booleans())
def test_attention_and_its_derivatives_are_the_plain_ones(seed, positions, biased):
    q, k, v = (normal(2, 3, positions, 4, seed=seed + i).requires_grad_() for i in range(3))
    bias = normal(3, positions, positions, seed=seed + 3).requires_grad_() if biased else None
    inputs = [q, k, v, *([bias] if biased else [])]
    results = []
    for form in (attend, attend_plainly):
        out = form(q, k, v, bias)
        first = torch.autograd.grad((out * normal(*out.shape, seed=seed + 5)).sum(), inputs, create_graph=True)
        total = sum((g * normal(*g.shape, seed=seed + 6 + i)).sum() for i, g in enumerate(first))
        second = torch.autograd.grad(total, inputs)
        results.append([out, *first, *second])
    for got, expected in zip(*results, strict=True):
        close(got, expected, rtol=1e-8, atol=1e-9)


def test_a_third_derivative_is_an_error():
    q = normal(1, 1, 2, 2).requires_grad_()
    (first,) = torch.autograd.grad(attend(q, q, q).square().sum(), q, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="third derivative"):
        second.square().sum().backward()


@laws
@given(seed=seeds)
def test_what_is_known_fixes_the_belief(seed):
    energy, context = made("free")
    y = beliefs(energy, 2, seed=seed)
    stirred = torch.where((context >= 0)[..., None], beliefs(energy, 2, seed=seed + 9), y)
    function = energy.given(context)
    close(function(y), function(stirred))
    _, grad = energy_and_grad(function, y)
    assert not bool(grad[context >= 0].any())
    assert bool((grad[context < 0] != 0).any(-1).all())


def test_rows_may_be_of_any_length_without_places():
    energy, _ = made("window")
    for size in (1, 2, 9):
        assert energy.given(torch.full((2, size), -1))(normal(3, 2, size, 3).softmax(-1)).shape == (3, 2)


def test_positions_out_of_the_window_have_no_say_in_one_block():
    energy = BeliefEBT(3, relations={"kind": "order", "reach": 1, "window": True}, dim=8, heads=2).double()
    context, y = torch.full((1, 5), -1), beliefs(energy, 1).repeat(1, 2, 1)[:, :5]
    moved = y.clone()
    moved[:, 4] = y[:, 4].flip(-1)
    before, after = (energy.position_energies(each, energy.encode(context)) for each in (y, moved))
    close(before[:, :3], after[:, :3])
    assert bool((before[:, 3:] != after[:, 3:]).all())


def test_relations_number_pairs():
    board = boxes(2, 3).among(36)
    for i, j in itertools.product(range(36), repeat=2):
        (r, c), (s, d) = divmod(i, 6), divmod(j, 6)
        assert board[i, j] == (r == s) + 2 * (c == d) + 4 * (r // 2 == s // 2 and c // 3 == d // 3)
    grid = lines(3, 3).among(9)
    assert grid[0, 8] == 4
    assert grid[2, 6] == 8
    far = offsets(1).among(16)
    assert far[0, 15] == far[0, 5] == 8  # clipped
    assert order(1).among(4)[3].tolist() == [0, 0, 0, 1]
    assert order(1, window=True).among(4)[3].tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: relations_of({"kind": "circles"}), "boxes, lines"),
        (lambda: relations_of({"kind": "boxes", "side": 3}), "side"),
        (lambda: relations_of(torch.zeros(2, 3)), "whole numbers"),
        (lambda: relations_of(torch.tensor([[0, -1], [0, 0]])), "at least 0"),
        (lambda: boxes(2, 3).among(16), "16 positions"),
        (lambda: relations_of(torch.zeros(2, 2, dtype=torch.long)).among(3), "3 positions"),
        (lambda: BeliefEBT(3, dim=9, heads=2), "dim=9"),
        (lambda: BeliefEBT(3, head="bilinear"), "head='bilinear'"),
        (lambda: BeliefEBT(3, head="scalar", hidden=2), "hidden=2"),
        (lambda: BeliefEBT(3, context_vocab=5), "fixed=False"),
        (lambda: BeliefEBT(3).given(torch.zeros(2, 4)), "float32"),
        (lambda: BeliefEBT(3).given(None), "NoneType"),
        (lambda: BeliefEBT(3, length=5).given(torch.zeros(2, 4, dtype=torch.long)), "4 positions"),
        (lambda: BeliefEBT(3).given(torch.zeros(2, 4, dtype=torch.long))(torch.rand(2, 4, 2)), r"\(2, 4, 2\).*2, 4, 3"),
        (lambda: BeliefEBT(3)(torch.rand(2, 4, 3)), "energy.given"),
        (lambda: LoopedNetwork(3, state="belief and hidden"), "state="),
    ],
)
def test_what_cannot_work_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_bfloat16_autocast_follows_float32():
    torch.manual_seed(0)
    energy, context = BeliefEBT(3, dim=8, heads=2), torch.tensor([[-1, 2, -1]])
    start, sampler = torch.randn(4, 1, 3, 3), MirrorDescent(1.0, 4)
    plain = sampler.sample(energy.given(context), start).softmax(-1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = sampler.sample(energy.given(context), start).softmax(-1)
    close(narrow.float(), plain, rtol=0.0, atol=0.05)


def test_a_trained_energy_thinks_and_a_loop_repeats():
    """Three cells that must all differ: the energy and both looped networks learn it in a moment."""
    torch.manual_seed(0)
    orders = torch.tensor(list(itertools.permutations(range(3))))
    context = torch.where(torch.arange(3) == 0, orders, -1)
    context[:, 1] = orders[:, 1]
    networks = {
        "energy": (BeliefEBT(3, length=3, dim=16, heads=2), MirrorDescent(1.0, 4)),
        "belief": (LoopedNetwork(3, length=3, dim=16, heads=2), FixedPoint(4)),
        "hidden": (LoopedNetwork(3, length=3, dim=16, heads=2, state="hidden"), FixedPoint(4)),
    }
    for network, sampler in networks.values():
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
        for _ in range(60):
            y = sampler.sample(network.given(context), torch.randn(6, 3, 3), unroll="full")
            loss = torch.nn.functional.cross_entropy(y[:, 2, :3], orders[:, 2])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        end = sampler.sample(network.given(context), torch.randn(6, 3, 3))
        assert torch.equal(end[:, 2, :3].argmax(-1), orders[:, 2])


@pytest.mark.slow
def test_compiled_training_has_the_same_gradients():
    """`energy.compile()`, which `--compile` calls, under the fully unrolled loss; and in bfloat16."""
    task = Puzzles({"kind": "sudoku", "box": (2, 2), "clues": (7, 10), "hard": 6}, n=60)
    energy, sampler = BeliefEBT(dim=16, heads=2, **task.spec), MirrorDescent(1.0, steps=2, learnable=True, momentum=0.5)
    objective, batch = Reconstruction(sampler, task, unroll="full"), next(iter(task.loader("train", 8)))

    def gradients(half=False):
        energy.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = objective(energy, batch, generator=torch.Generator().manual_seed(0)).value
        loss.backward()
        return torch.cat([parameter.grad.flatten() for parameter in energy.parameters()])

    eager, half = gradients(), gradients(half=True)
    energy.compile()
    assert torch.allclose(gradients(), eager, rtol=1e-4, atol=1e-6)
    for rounded in (half, gradients(half=True)):
        assert torch.cosine_similarity(rounded, eager, 0) > 0.999

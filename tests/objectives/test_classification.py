"""Cross-entropy and the joint likelihood: closed forms, finite differences, and a model whose parameters are recovered."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from ebm.energies import JointClassifier
from ebm.interfaces import Batch
from ebm.objectives import ContrastiveDivergence, CrossEntropy, JointLikelihood
from ebm.samplers import MALA, LangevinDynamics, ReplayAugmented
from tests.helpers import close, gradient, grads, normal, quadratic, seeded


class Parabolas(nn.Module):
    """Logits −|y − m_c|²/2 + a_c: the joint density is a mixture of Gaussians with a label for its component."""

    def __init__(self, means, logits):
        super().__init__()
        self.means = nn.Parameter(torch.tensor(means, dtype=torch.float64))
        self.weights = nn.Parameter(torch.tensor(logits, dtype=torch.float64))

    def forward(self, y):
        return self.weights - (y[:, None] - self.means).square().sum(-1) / 2


def labelled(rows=50, seed=0):
    labels = torch.randint(3, (rows,), generator=seeded(seed))
    centres = torch.tensor([[-2.0, 0.0], [1.0, 1.5], [1.0, -1.5]], dtype=torch.float64)
    return Batch(centres[labels] + normal(rows, 2, seed=seed + 1), labels)


def model(means=((-1.0, 0.3), (1.0, 1.0), (0.5, -1.0)), logits=(0.0, 0.2, -0.3)):
    return JointClassifier(Parabolas(means, logits), event=1)


def joint(**keywords):
    return JointLikelihood(LangevinDynamics(step_size=0.1, steps=3), **keywords)


def test_cross_entropy_is_that_of_the_logits():
    energy, batch = model(), labelled()
    loss = CrossEntropy()(energy, batch)
    close(loss.value, functional.cross_entropy(energy.logits(batch.target), batch.context))
    close(loss.terms["accuracy"], (energy.logits(batch.target).argmax(-1) == batch.context).double().mean())
    close(loss.value, (energy.given(batch.context)(batch.target) - energy(batch.target)).mean())


def test_the_joint_likelihood_is_the_sum_of_its_parts():
    energy, batch = model(), labelled()
    both = joint(weight=2.5, energy_l2=0.1, data_noise=0.2)(energy, batch, generator=seeded())
    parts = ContrastiveDivergence(joint().sampler, "noise", 0.1, 0.2)(energy, Batch(batch.target), generator=seeded())
    labels = CrossEntropy()(energy, batch)
    close(both.value, parts.value + 2.5 * labels.value)
    assert both.terms.keys() == parts.terms.keys() | labels.terms.keys()


def test_weights_count_rows():
    batch = labelled(6)
    weight = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    kept = weight > 0
    for objective in (CrossEntropy(), joint(start="data")):
        whole = objective(model(), batch._replace(weight=weight), start=None, generator=seeded())
        part = CrossEntropy()(model(), Batch(batch.target[kept], batch.context[kept]))
        close(whole.terms["cross_entropy"], part.value)


@pytest.mark.parametrize("name", ["cross-entropy", "joint"])
def test_gradients_are_finite_differences(name):
    energy, batch = model(), labelled(20)
    ends = batch.target + 0.3  # chains that take no step end where they start: the loss is a plain function of the parameters
    still = JointLikelihood(LangevinDynamics(steps=0), weight=3.0)

    def loss():
        return CrossEntropy()(energy, batch).value if name == "cross-entropy" else still(energy, batch, start=ends).value

    for parameter in energy.parameters():
        found = grads(loss(), parameter)[0]

        def at(values, parameter=parameter):
            with torch.no_grad():
                kept, parameter.data = parameter.data, values
                value = loss()
                parameter.data = kept
            return value

        close(found, gradient(at, parameter.data.clone()), rtol=1e-6, atol=1e-8)


def test_parameters_of_a_mixture_are_recovered_within_their_standard_error():
    """Maximum likelihood of labelled Gaussians: each mean is its rows' mean, of variance 1/n_c."""
    rows, truth = 3000, torch.tensor([[-2.0, 0.0], [1.0, 1.5], [1.0, -1.5]], dtype=torch.float64)
    batch, energy = labelled(rows, seed=5), model()
    chains = ReplayAugmented(MALA(step_size=0.5, steps=2), capacity=rows, fresh=0.0)
    objective, g = JointLikelihood(chains, start="data"), seeded()
    optimizer = torch.optim.Adam(energy.parameters(), 0.1)
    tail = []
    for step in range(240):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 / (1 + step / 20)
        objective(energy, batch, generator=g).value.backward()
        optimizer.step()
        optimizer.zero_grad()
        tail += [energy.network.means.detach().clone()] if step >= 120 else []
    error = (torch.stack(tail).mean(0) - truth) / math.sqrt(3 / rows)
    assert error.abs().max() < 4
    assert error.abs().max() > 0.05  # the bound says something: the errors are of its size


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CrossEntropy()(quadratic, labelled()), "function has no logits"),
        (lambda: CrossEntropy()(model(), Batch(normal(3, 2))), r"holds no labels \(rows,\)"),
        (lambda: CrossEntropy()(model(), labelled(), start=normal(50, 2)), "moves no chains"),
        (lambda: joint(weight=-1.0), "weight=-1.0: pass a number of at least 0"),
    ],
)
def test_errors_restate_the_call(call, message):
    with pytest.raises(ValueError, match=message):
        call()

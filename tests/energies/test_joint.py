"""The joint classifier: its three readings agree, and labels are the context."""

import pytest
import torch
from torch import nn

from ebm.energies import JointClassifier, joint_conv
from tests.helpers import close, normal


def linear(classes=4):
    torch.manual_seed(0)
    return JointClassifier(nn.Linear(3, classes), event=1).double()


def test_the_three_readings_are_one_density():
    energy, y = linear(), normal(5, 3)
    by_label = torch.stack([energy.given(torch.full((5,), label))(y) for label in range(4)], -1)
    close(by_label, -energy.network(y))
    close(energy(y), -(-by_label).logsumexp(-1))
    close((energy(y)[:, None] - by_label).exp(), energy.logits(y).softmax(-1))


def test_candidates_share_labels():
    energy, y, labels = linear(), normal(2, 5, 3), torch.tensor([0, 3, 1, 1, 2])
    close(energy.given(labels)(y), torch.stack([energy.given(labels)(each) for each in y]))


def test_labels_of_any_whole_dtype_are_labels():
    energy, y = linear(), normal(3, 3)
    for dtype in (torch.uint8, torch.int32):
        close(energy.given(torch.tensor([0, 3, 1], dtype=dtype))(y), energy.given(torch.tensor([0, 3, 1]))(y))


def test_images_have_three_axes():
    energy = joint_conv(channels=2, image_size=(6, 8), width=2, classes=3)
    assert energy.logits(torch.zeros(4, 5, 2, 6, 8)).shape == (4, 5, 3)
    assert energy.given(torch.tensor([0, 1, 2, 0, 1]))(torch.zeros(4, 5, 2, 6, 8)).shape == (4, 5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: JointClassifier(nn.Linear(3, 2), event=0), r"event=0\): an input has at least one axis"),
        (lambda: linear().given(torch.zeros(5)), r"the context is torch.float32: pass labels as a tensor of whole numbers"),
        (lambda: linear().given([1, 2]), "the context is list"),
        (
            lambda: linear().given(torch.tensor([1, 2]))(normal(5, 3)),
            r"labels \(2,\) for chains \(5,\): pass one label for every row",
        ),
        (lambda: joint_conv(image_size=8)(torch.zeros(2, 1, 9, 9)), r"inputs are .* event \(1, 8, 8\)"),
        (lambda: linear().given(torch.tensor([True, False])), "the context is torch.bool"),
        (lambda: joint_conv(width=0), "a width and outputs of at least 1"),
        (
            lambda: joint_conv()(torch.zeros(3, 3)),
            r"y has shape \(3, 3\), but inputs are \(\*chains, \*event\), event \(1, 28, 28\)",
        ),
    ],
)
def test_errors_restate_the_call(call, message):
    with pytest.raises(ValueError, match=message):
        call()

"""What losses share: cross-entropy against torch's, tops of masked rows by hand."""

from __future__ import annotations

import math

import pytest
import torch

from vadprep.heads.losses import cross_entropy, squared_changes, top_mean

MASK = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_cross_entropy_is_torchs_in_value_and_gradient(dtype, label):
    """Down to 1e-11: what a long video of CSL-TAL comes to must still be learnt from."""
    values = [1e-11, 1e-9, 1e-7, 1e-3, 0.3, 0.999, 1 - 1e-6]
    p = torch.tensor(values, dtype=dtype).requires_grad_()
    ours = cross_entropy(p, torch.full_like(p, label))
    theirs = torch.nn.functional.binary_cross_entropy(
        p, torch.full_like(p, label), reduction="none"
    )
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(each.sum(), p)[0] for each in (ours, theirs)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("logit", [-20.0, -43.0, -68.0])
def test_cross_entropy_has_its_gradient_where_torchs_has_none(logit):
    x = torch.tensor(logit, requires_grad=True)
    found = cross_entropy(x.sigmoid(), torch.tensor(1.0))
    assert found.item() == pytest.approx(-logit, rel=1e-6)
    assert torch.autograd.grad(found, x)[0].item() == pytest.approx(-1, rel=1e-6)


def test_cross_entropy_is_finite_at_the_ends_and_lets_nan_through():
    p = torch.tensor([0.0, 1.0, 0.0, 1.0]).requires_grad_()
    found = cross_entropy(p, torch.tensor([1.0, 0.0, 0.0, 1.0]))
    assert found.isfinite().all() and found[2:].abs().max() < 1e-6
    assert torch.autograd.grad(found.sum(), p)[0].isfinite().all()
    assert cross_entropy(torch.tensor([math.nan]), torch.ones(1)).isnan().all()


def test_the_mean_of_the_top_takes_what_there_is():
    values = torch.tensor([[0.1, 0.5, 0.3], [0.2, 9.0, 9.0], [9.0, 9.0, 9.0]])
    found = top_mean(values, MASK, torch.tensor([2, 2, 2]))
    assert found.tolist() == pytest.approx([0.4, 0.2, 0.0])


def test_changes_are_between_valid_neighbours():
    values = torch.tensor([[0.0, 0.5, 0.2], [0.2, 9.0, 9.0], [9.0, 0.0, 9.0]])
    assert squared_changes(values, MASK).tolist() == pytest.approx([0.25 + 0.09, 0.0, 0.0])

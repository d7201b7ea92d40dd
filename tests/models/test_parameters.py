"""Which parameters belong to normalisation layers."""

from __future__ import annotations

import pytest
from torch import nn

from pcode.models import make_model, normalization_parameters


def test_resnet20() -> None:
    model = make_model("resnet20", 3, 32, 10, seed=6)
    names = normalization_parameters(model)
    # 19 convolutions outside of the shortcuts, 2 inside, each with a scale and a shift.
    assert len(names) == 2 * 21
    parameters = dict(model.named_parameters())
    assert all(parameters[name].ndim == 1 for name in names)
    left = parameters.keys() - names
    assert {parameters[name].ndim for name in left} == {1, 2, 4}
    assert [name for name in left if parameters[name].ndim == 1] == ["classifier.bias"]


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm1d(4),
        nn.BatchNorm2d(4),
        nn.BatchNorm3d(4),
        nn.SyncBatchNorm(4),
        nn.InstanceNorm2d(4, affine=True),
        nn.GroupNorm(2, 4),
        nn.LayerNorm(4),
    ],
)
def test_every_normalisation_layer(layer: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(layer))
    assert normalization_parameters(model) == {"1.0.weight", "1.0.bias"}
    assert normalization_parameters(layer) == {"weight", "bias"}


def test_none() -> None:
    assert normalization_parameters(make_model("mlp", 1, 8, 10, seed=6)) == set()
    assert normalization_parameters(nn.Sequential(nn.BatchNorm2d(4, affine=False))) == set()

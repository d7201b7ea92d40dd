"""Which parameters belong to normalisation layers."""

from __future__ import annotations

import pytest
from torch import nn

from pcode.models import make_model, normalization_parameters
from tests.models.building import build


def test_resnet20() -> None:
    model = build("resnet20", (3, 32, 32))
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


@pytest.mark.parametrize(
    ("arch", "num_layers"),
    [
        ("wideresnet28", 2 * 12 + 1),
        ("densenet", 3 * 12 + 2 + 1),
        ("vgg16", 13),
        # The bottlenecks' three each, the shortcuts of four stages, the first.
        ("resnet50", 3 * 16 + 4 + 1),
    ],
)
def test_normalisation_layers_of_models(arch: str, num_layers: int) -> None:
    model = build(arch, (3, 32, 32))
    names = normalization_parameters(model)
    assert len(names) == 2 * num_layers
    assert all(model.get_parameter(name).ndim == 1 for name in names)


@pytest.mark.parametrize(
    ("arch", "input_shape"),
    [("mlp", (1, 8, 8)), ("lenet", (1, 28, 28)), ("logistic_regression", (8,)), ("rnn_lm", ())],
)
def test_none(arch: str, input_shape: tuple[int, ...]) -> None:
    assert normalization_parameters(build(arch, input_shape)) == set()
    assert normalization_parameters(nn.Sequential(nn.BatchNorm2d(4, affine=False))) == set()


def test_the_scales_of_weight_normalisation_are_such() -> None:
    flags = {"rnn_n_hidden": 4, "rnn_n_layers": 2, "rnn_tie_weights": True, "drop_rate": 0.0}
    model = make_model("rnn_lm", (), 9, 1, {**flags, "rnn_weight_norm": True})
    assert normalization_parameters(model) == {"lstm.scales.0", "lstm.scales.1"}

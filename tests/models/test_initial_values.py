"""Initial parameters: their distributions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tests.models.building import build


def assert_uniform(values: torch.Tensor, bound: float) -> None:
    """As many as there are must come near the bound and have the standard deviation."""
    assert values.abs().max() <= bound
    assert values.abs().max() > 0.9 * bound
    assert values.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)


@pytest.mark.parametrize("arch", ["resnet56", "wideresnet16", "densenet22", "vgg11"])
def test_kernels_are_those_of_he(arch: str) -> None:
    model = build(arch, (3, 32, 32))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            std = math.sqrt(2 / (module.kernel_size[0] ** 2 * module.in_channels))
            sampling_error = std / math.sqrt(2 * module.weight.numel())
            assert module.weight.std().item() == pytest.approx(std, abs=5 * sampling_error)
            assert module.bias is None or (module.bias == 0).all()
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()


@pytest.mark.parametrize("normalized", [True, False])
def test_language_model(normalized: bool) -> None:
    model = build(
        "rnn_lm", (), 300, rnn_n_hidden=100, rnn_tie_weights=False, rnn_weight_norm=normalized
    )
    values = {name: parameter.detach() for name, parameter in model.named_parameters()}
    assert_uniform(values.pop("embedding.weight"), 0.1)
    assert_uniform(values.pop("decoder.weight"), 0.1)
    assert (values.pop("decoder.bias") == 0).all()
    for layer in range(2):
        weights = values[f"lstm.weight_hh_l{layer}"]
        norms = values.pop(f"lstm.scales.{layer}", None)
        assert (norms is not None) == normalized
        if norms is not None:
            torch.testing.assert_close(norms, weights.square().sum(dim=1).sqrt())
    assert len(values) == 2 * 4
    for parameter in values.values():
        assert_uniform(parameter, 1 / math.sqrt(100))


def test_weight_normalisation_changes_nothing_at_first() -> None:
    tokens = torch.arange(6).view(2, 3)
    plain, normalized = (
        build("rnn_lm", (), 9, rnn_n_hidden=8, rnn_weight_norm=flag) for flag in (False, True)
    )
    torch.testing.assert_close(normalized(tokens)[0], plain(tokens)[0])

"""Models by name: sizes, shapes, initial values."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pcode.errors import UserError
from pcode.models import MODELS, PLANNED, make_model


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def resnet_size(depth: int, num_channels: int, num_classes: int) -> int:
    """Counted from the table of He et al., section 4.2, with 1 x 1 convolutions as shortcuts."""
    num_blocks = (depth - 2) // 6
    total = 9 * num_channels * 16 + 2 * 16 + 64 * num_classes + num_classes
    for width in (16, 32, 64):
        total += 2 * num_blocks * (9 * width * width + 2 * width)
    for narrow, wide in ((16, 32), (32, 64)):
        total += 9 * narrow * wide - 9 * wide * wide  # a stage's first convolution
        total += narrow * wide + 2 * wide  # its shortcut
    return total


def test_resnet20_has_the_published_size() -> None:
    assert num_parameters(make_model("resnet20", 3, 32, 10, seed=6)) == 272_474


@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize("depth", [8, 14, 20, 32, 44, 56, 110])
def test_resnet_sizes(depth: int, num_channels: int) -> None:
    model = make_model(f"resnet{depth}", num_channels, 32, 100, seed=6)
    assert num_parameters(model) == resnet_size(depth, num_channels, 100)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    shortcuts = [m for m in layers if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert len(layers) - len(shortcuts) == depth


@pytest.mark.parametrize(("num_channels", "image_size"), [(1, 8), (3, 32), (1, 28)])
@pytest.mark.parametrize("arch", ["resnet8", "resnet20", "mlp"])
def test_outputs_and_gradients(arch: str, num_channels: int, image_size: int) -> None:
    model = make_model(arch, num_channels, image_size, 7, seed=6)
    inputs = torch.randn(4, num_channels, image_size, image_size, generator=torch.Generator())
    before = inputs.clone()
    outputs = model(inputs)
    assert outputs.shape == (4, 7)
    assert torch.equal(inputs, before)
    outputs.square().sum().backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


def test_resnet_stages_halve_the_image() -> None:
    model = make_model("resnet20", 1, 8, 10, seed=6)
    shapes = []
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape[1:])))
    model(torch.zeros(2, 1, 8, 8))
    assert shapes[0] == (16, 8, 8)
    assert shapes[-1] == (64, 2, 2)
    assert set(shapes) == {(16, 8, 8), (32, 4, 4), (64, 2, 2)}


def test_resnet_initial_values() -> None:
    model = make_model("resnet56", 3, 32, 10, seed=6)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            std = math.sqrt(2 / (module.kernel_size[0] ** 2 * module.in_channels))
            sampling_error = std / math.sqrt(2 * module.weight.numel())
            assert module.weight.std().item() == pytest.approx(std, abs=5 * sampling_error)
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()


@pytest.mark.parametrize("arch", ["resnet8", "mlp"])
def test_the_seed_alone_decides_the_initial_values(arch: str) -> None:
    torch.manual_seed(1)
    first = make_model(arch, 1, 8, 10, seed=6).state_dict()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again = make_model(arch, 1, 8, 10, seed=6).state_dict()
    other = make_model(arch, 1, 8, 10, seed=7).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_mlp_layers() -> None:
    model = make_model("mlp", 3, 4, 10, seed=6, mlp_num_layers=3, mlp_hidden_size=20, drop_rate=0.5)
    assert num_parameters(model) == (48 + 1) * 20 + (20 + 1) * 20 + (20 + 1) * 10
    rates = [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
    assert rates == [0.5, 0.5]
    linear = make_model("mlp", 1, 8, 10, seed=6, mlp_num_layers=1)
    assert num_parameters(linear) == 65 * 10


def test_mlp_options_out_of_range_are_refused() -> None:
    with pytest.raises(UserError, match="--mlp_num_layers 0: at least 1"):
        make_model("mlp", 1, 8, 10, seed=6, mlp_num_layers=0)
    with pytest.raises(UserError, match="--mlp_hidden_size -3: at least 1"):
        make_model("mlp", 1, 8, 10, seed=6, mlp_hidden_size=-3)
    for rate in (-0.1, 1.0, math.nan):
        with pytest.raises(UserError, match=f"--drop_rate {rate}: from 0 to below 1"):
            make_model("mlp", 1, 8, 10, seed=6, drop_rate=rate)


@pytest.mark.parametrize("arch", MODELS)
def test_every_model_is_built(arch: str) -> None:
    assert isinstance(make_model(arch, 1, 8, 10, seed=6), nn.Module)


@pytest.mark.parametrize("arch", PLANNED)
def test_a_planned_model_is_refused_as_such(arch: str) -> None:
    with pytest.raises(UserError, match=f"--arch '{arch}' is not built yet; built: resnet8, "):
        make_model(arch, 3, 32, 10, seed=6)


@pytest.mark.parametrize("arch", ["resnet2", "resnet9", "resnet26"])
def test_a_depth_that_does_not_exist_is_refused(arch: str) -> None:
    with pytest.raises(UserError, match=rf"--arch '{arch}' is not known; built: resnet8"):
        make_model(arch, 3, 32, 10, seed=6)


@pytest.mark.parametrize("arch", ["resnet", "resnet-20", "ResNet20", "resnet20 ", "", "vgg"])
def test_an_unknown_model_is_refused(arch: str) -> None:
    with pytest.raises(UserError, match=r"is not known; built: .*mlp"):
        make_model(arch, 3, 32, 10, seed=6)

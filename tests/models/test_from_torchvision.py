"""Models of torchvision: the same function, for any number of channels where that is offered."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import nn

from pcode.models import builder, normalization_parameters
from pcode.utils.errors import UserError
from pcode.utils.options import options_of
from tests.models.building import build

DEPTHS = (18, 34, 50, 101, 152)
NUM_CLASSES = 7


def reference(depth: int, values: dict[str, torch.Tensor]) -> nn.Module:
    """torchvision's class with these values."""
    with torch.device("meta"):
        model: nn.Module = getattr(torchvision.models, f"resnet{depth}")(num_classes=NUM_CLASSES)
    model.load_state_dict(values, assign=True)
    return model.eval()


@pytest.mark.parametrize(
    "depth", [*DEPTHS[:3], *(pytest.param(depth, marks=pytest.mark.slow) for depth in DEPTHS[3:])]
)
def test_resnets_are_those_of_torchvision(depth: int) -> None:
    model = build(f"resnet{depth}", (3, 64, 64), NUM_CLASSES)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    before = images.clone()
    model(images).square().sum().backward()
    assert torch.equal(images, before)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    values = model.eval().state_dict()
    torch.testing.assert_close(model(images), reference(depth, values)(images), atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_channels", [1, 2])
def test_other_numbers_of_channels(num_channels: int) -> None:
    """The first convolution is linear: a channel twice is one with the sum of the kernels."""
    model = build("resnet18", (num_channels, 64, 64), NUM_CLASSES).eval()
    values = dict(model.state_dict())
    images = torch.rand(2, num_channels, 64, 64, generator=torch.Generator().manual_seed(1))
    kernels = values["conv1.weight"]
    if num_channels == 1:
        values["conv1.weight"] = torch.cat([0.5 * kernels, 0.2 * kernels, 0.3 * kernels], dim=1)
        coloured = images.expand(2, 3, 64, 64)
    else:
        values["conv1.weight"] = torch.cat([kernels, torch.ones_like(kernels[:, :1])], dim=1)
        coloured = torch.cat([images, torch.zeros_like(images[:, :1])], dim=1)
    expected = reference(18, values)(coloured)
    torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=1e-5)
    # fan_out, as torchvision's other kernels: 64 maps of 7 x 7
    assert kernels.std().item() == pytest.approx((2 / (64 * 49)) ** 0.5, rel=0.05)


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_any_model_for_classification(name: str) -> None:
    assert not options_of(builder(name))
    model = build(name, (3, 64, 64), NUM_CLASSES)
    assert type(model).__module__.startswith("torchvision.models.")
    images = torch.rand(2, 3, 64, 64)
    assert model(images).shape == (2, NUM_CLASSES)
    assert torch.equal(copy.deepcopy(model).eval()(images), model.eval()(images))


@pytest.mark.parametrize(("name", "size"), [("googlenet", 64), ("inception_v3", 299)])
def test_no_auxiliary_outputs(name: str, size: int) -> None:
    build_one = builder(name)
    with torch.device("meta"):
        model = build_one((3, size, size), NUM_CLASSES)
        outputs = model.train()(torch.empty(2, 3, size, size))
    assert isinstance(outputs, torch.Tensor)
    assert outputs.shape == (2, NUM_CLASSES)


@pytest.mark.parametrize(
    ("name", "input_shape", "reason"),
    [
        ("alexnet", (3, 32, 32), "too small"),
        ("vit_b_16", (3, 32, 32), "Expected 224 but got 32"),
        ("densenet121", (1, 64, 64), "of 3 channels"),
        ("mobilenet_v2", (8,), ""),
    ],
)
def test_samples_that_do_not_fit_are_refused(
    name: str, input_shape: tuple[int, ...], reason: str
) -> None:
    samples = " x ".join(map(str, input_shape))
    message = rf"^--arch {name}: takes .*images.*{reason}.*; the samples of .* are {samples}$"
    with torch.device("meta"), pytest.raises(UserError, match=message):
        build(name, input_shape)


@pytest.mark.parametrize(
    "name", ["fasterrcnn_resnet50_fpn", "raft_small", "fcn_resnet50", "r3d_18"]
)
def test_models_for_anything_else_are_not_known(name: str) -> None:
    with pytest.raises(UserError, match=f"^--arch '{name}' is not known"):
        builder(name)


@pytest.mark.parametrize("name", ["resnet50", "convnext_tiny", "vit_b_16", "densenet121"])
def test_weight_decay_spares_every_normalisation(name: str) -> None:
    """All vectors but the biases of convolutions, linear layers and attention."""
    with torch.device("meta"):
        model = builder(name)((3, 224, 224), 10)
    others = (nn.Conv2d, nn.Linear, nn.MultiheadAttention)
    biases = {
        f"{prefix}.{own}"
        for prefix, module in model.named_modules()
        if isinstance(module, others)
        for own, _ in module.named_parameters(recurse=False)
    }
    vectors = {own for own, parameter in model.named_parameters() if parameter.ndim == 1}
    assert normalization_parameters(model) == vectors - biases

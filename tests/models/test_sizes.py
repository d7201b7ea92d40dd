"""Numbers of parameters: as published, and counted from the papers' tables."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from tests.models.building import build, num_parameters, size

COLOURED, IMAGENET = (3, 32, 32), (3, 224, 224)


@pytest.mark.parametrize(
    ("arch", "input_shape", "num_classes", "expected"),
    [
        ("resnet20", COLOURED, 10, 272_474),
        ("resnet18", IMAGENET, 1000, 11_689_512),
        ("resnet34", IMAGENET, 1000, 21_797_672),
        ("resnet50", IMAGENET, 1000, 25_557_032),
        ("resnet101", IMAGENET, 1000, 44_549_160),
        ("resnet152", IMAGENET, 1000, 60_192_808),
        ("densenet121", IMAGENET, 1000, 7_978_856),
        ("densenet169", IMAGENET, 1000, 14_149_480),
        ("vgg11", COLOURED, 10, 9_231_114),
        ("lenet", (1, 28, 28), 10, 61_706),
        ("lenet", (1, 32, 32), 10, 61_706),
    ],
)
def test_published_sizes(
    arch: str, input_shape: tuple[int, ...], num_classes: int, expected: int
) -> None:
    assert size(arch, input_shape, num_classes) == expected


@pytest.mark.parametrize(
    ("arch", "flags", "millions"),
    [
        ("wideresnet28", {"wideresnet_widen_factor": 10}, 36.5),
        ("wideresnet40", {"wideresnet_widen_factor": 4}, 8.9),
        ("wideresnet16", {"wideresnet_widen_factor": 8}, 11.0),
        ("densenet", {}, 1.0),
        ("densenet40", {}, 1.0),
        ("densenet100", {}, 7.0),
        ("densenet100", {"densenet_bc_mode": True}, 0.8),
        ("densenet250", {"densenet_bc_mode": True, "densenet_growth_rate": 24}, 15.3),
        ("vgg16", {}, 14.7),
    ],
)
def test_sizes_published_in_millions(arch: str, flags: dict[str, Any], millions: float) -> None:
    assert size(arch, COLOURED, 10, **flags) / 1e6 == pytest.approx(millions, abs=0.05)


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


@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize("depth", [8, 14, 20, 32, 44, 56, 110])
def test_resnet_sizes(depth: int, num_channels: int) -> None:
    model = build(f"resnet{depth}", (num_channels, 32, 32), 100)
    assert num_parameters(model) == resnet_size(depth, num_channels, 100)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    shortcuts = [m for m in layers if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert len(layers) - len(shortcuts) == depth


@pytest.mark.parametrize("factor", [1, 2, 5])
@pytest.mark.parametrize("depth", [10, 28])
def test_wide_resnet_sizes(depth: int, factor: int) -> None:
    num_blocks = (depth - 4) // 6
    total, width = 9 * 3 * 16, 16
    for wide in (16 * factor, 32 * factor, 64 * factor):
        total += 9 * width * wide + (2 * num_blocks - 1) * 9 * wide * wide
        total += 2 * width + (2 * num_blocks - 1) * 2 * wide  # normalisation, before convolutions
        total += width * wide if width != wide else 0
        width = wide
    total += 2 * width + 7 * (width + 1)
    assert size(f"wideresnet{depth}", COLOURED, 7, wideresnet_widen_factor=factor) == total


@pytest.mark.parametrize(("bc", "compression"), [(False, 0.5), (True, 0.5), (True, 1.0)])
@pytest.mark.parametrize("growth", [4, 12])
def test_densenet_sizes(bc: bool, compression: float, growth: int) -> None:
    flags = {
        "densenet_growth_rate": growth,
        "densenet_bc_mode": bc,
        "densenet_compression": compression,
    }
    width = 2 * growth if bc else 16
    total = 9 * 3 * width
    for stage in range(3):
        if stage > 0:
            kept = int(compression * width) if bc else width
            total += 2 * width + width * kept
            width = kept
        for _ in range(6 if bc else 12):  # 40 = 3 * 12 + 4
            inputs = width
            if bc:
                total += 2 * inputs + inputs * 4 * growth
                inputs = 4 * growth
            total += 2 * inputs + 9 * inputs * growth
            width += growth
    total += 2 * width + 10 * (width + 1)
    assert size("densenet40", COLOURED, 10, **flags) == total


@pytest.mark.parametrize(
    ("arch", "widths"),
    [
        ("vgg11", "64 128 256 256 512 512 512 512"),
        ("vgg13", "64 64 128 128 256 256 512 512 512 512"),
        ("vgg16", "64 64 128 128 256 256 256 512 512 512 512 512 512"),
        ("vgg19", "64 64 128 128 256 256 256 256 512 512 512 512 512 512 512 512"),
    ],
)
def test_vgg_sizes(arch: str, widths: str) -> None:
    total, width = 0, 3
    for wide in map(int, widths.split()):
        total += 9 * width * wide + wide + 2 * wide
        width = wide
    assert size(arch, COLOURED, 100) == total + 100 * (width + 1)
    assert len(widths.split()) + 3 == int(arch[3:])  # three linear layers in the paper


def test_mlp_sizes() -> None:
    flags = {"mlp_num_layers": 3, "mlp_hidden_size": 20}
    assert size("mlp", (3, 4, 4), **flags) == (48 + 1) * 20 + (20 + 1) * 20 + (20 + 1) * 10
    assert size("mlp", (48,), **flags) == size("mlp", (3, 4, 4), **flags)
    assert size("mlp", (1, 8, 8), mlp_num_layers=1) == 65 * 10
    assert size("logistic_regression", (1, 8, 8)) == 65 * 10
    assert size("logistic_regression", (2000,), 2) == 2001 * 2


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize(("width", "layers", "num_words"), [(650, 3, 28_869), (10, 1, 5)])
def test_language_model_sizes(
    width: int, layers: int, num_words: int, tied: bool, normalized: bool
) -> None:
    flags = {
        "rnn_n_hidden": width,
        "rnn_n_layers": layers,
        "rnn_tie_weights": tied,
        "rnn_weight_norm": normalized,
    }
    # Four gates, each with an input matrix, a hidden matrix and two biases.
    total = layers * 4 * width * (2 * width + 2) + num_words * (width + 1)
    total += 0 if tied else num_words * width
    total += layers * 4 * width if normalized else 0
    assert size("rnn_lm", (), num_words, **flags) == total
    if width == 650 and tied and not normalized:
        assert total == 28_949_319

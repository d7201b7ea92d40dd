"""Models by name: what they take, what they give, and what is refused."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pcode.models import MODELS, NAMES, builder, make_model, task_of
from pcode.models.normalization import EvoNormS0
from pcode.utils.errors import UserError
from pcode.utils.options import options_of
from tests.models.building import build

DIGITS, COLOURED = (1, 8, 8), (3, 32, 32)
OF_IMAGES = [arch for arch in MODELS if arch not in ("mlp", "logistic_regression", "rnn_lm")]
# The largest, resnet101 and resnet152, are tried in test_from_torchvision.py.
ON_DIGITS = """
    resnet8 resnet14 resnet20 resnet32 resnet44 resnet56 resnet110 resnet18 resnet34 resnet50
    wideresnet28 densenet10 vgg11 vgg13 vgg16 vgg19 mlp logistic_regression
""".split()
CASES = [
    *((arch, DIGITS) for arch in ON_DIGITS),
    ("resnet20", COLOURED),
    ("resnet20", (1, 28, 28)),
    ("resnet8", (2, 5, 9)),
    ("resnet18", (4, 33, 47)),
    ("wideresnet10", (1, 28, 28)),
    ("wideresnet10", (2, 5, 9)),
    ("densenet13", (2, 4, 9)),
    ("densenet", COLOURED),
    ("vgg11", (1, 28, 28)),
    ("vgg11", (3, 40, 70)),
    ("vgg11", (3, 1, 6)),
    ("lenet", (1, 28, 28)),
    ("lenet", COLOURED),
    ("mlp", (2000,)),
    ("logistic_regression", (300,)),
]


@pytest.mark.parametrize(("arch", "input_shape"), CASES)
def test_outputs_gradients_and_copies(arch: str, input_shape: tuple[int, ...]) -> None:
    model = build(arch, input_shape, 7)
    inputs = torch.randn(3, *input_shape, generator=torch.Generator().manual_seed(1))
    before = inputs.clone()
    outputs = model(inputs)
    assert outputs.shape == (3, 7)
    assert torch.equal(inputs, before)
    outputs.square().sum().backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    model.eval()
    twin = copy.deepcopy(model)
    assert torch.equal(twin(inputs), model(inputs))
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1)
    assert not torch.equal(twin(inputs), model(inputs))


@pytest.mark.parametrize("arch", ["resnet20", "wideresnet10"])
def test_stages_halve_the_image(arch: str) -> None:
    model = build(arch, DIGITS, wideresnet_widen_factor=1)
    shapes = []
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape[1:])))
    model(torch.zeros(2, *DIGITS))
    assert shapes[0] == (16, 8, 8)
    assert shapes[-1] == (64, 2, 2)
    assert {shape[1:] for shape in shapes} == {(8, 8), (4, 4), (2, 2)}


@pytest.mark.parametrize(
    ("input_shape", "halvings"),
    [(COLOURED, 5), ((3, 64, 64), 5), ((1, 28, 28), 4), (DIGITS, 3), ((1, 1, 1), 0)],
)
def test_vgg_halves_the_image_while_there_is_one(
    input_shape: tuple[int, ...], halvings: int
) -> None:
    model = build("vgg11", input_shape)
    assert sum(isinstance(module, nn.MaxPool2d) for module in model.modules()) == halvings


def test_lenet_pads_small_images_with_zeros() -> None:
    small, large = build("lenet", (1, 28, 28)), build("lenet", (1, 32, 32))
    images = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(small(images), large(nn.functional.pad(images, (2, 2, 2, 2))))


def test_logistic_regression_is_linear() -> None:
    model = build("logistic_regression", (2, 3), 5)
    weight, bias = model.parameters()
    inputs = torch.rand(4, 2, 3)
    torch.testing.assert_close(model(inputs), inputs.reshape(4, 6) @ weight.T + bias)


def test_a_wide_block_is_as_in_the_paper() -> None:
    """Without weights in its convolutions a block of equal widths passes its input on."""
    model = build("wideresnet16", DIGITS, wideresnet_widen_factor=1)
    block = model.get_submodule("blocks.1")
    for module in block.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)
    inputs = torch.randn(2, 16, 4, 4)
    assert torch.equal(block(inputs), inputs)


def test_a_dense_layer_keeps_what_it_gets() -> None:
    model = build("densenet10", DIGITS, densenet_growth_rate=5)
    layer = model.get_submodule("stages.0")
    inputs = torch.randn(2, 16, 8, 8)
    outputs = layer(inputs.clone())
    assert outputs.shape == (2, 16 + 5, 8, 8)
    assert torch.equal(outputs[:, :16], inputs)


@pytest.mark.parametrize(
    ("arch", "num_dropouts"), [("mlp", 2), ("wideresnet10", 3), ("densenet10", 8)]
)
def test_dropout(arch: str, num_dropouts: int) -> None:
    model = build(arch, DIGITS, mlp_num_layers=3, drop_rate=0.5)
    rates = [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
    assert rates == [0.5] * num_dropouts
    inputs = torch.rand(2, *DIGITS)

    def outputs(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        logits: torch.Tensor = model(inputs)
        return logits

    assert torch.equal(outputs(1), outputs(1))
    assert not torch.equal(outputs(1), outputs(2))
    model.eval()
    assert torch.equal(outputs(1), outputs(2))


@pytest.mark.parametrize(
    "arch", ["resnet8", "resnet18", "wideresnet10", "densenet10", "vgg11", "mlp"]
)
def test_the_seed_alone_decides_the_initial_values(arch: str) -> None:
    torch.manual_seed(1)
    first = build(arch, DIGITS, seed=6).state_dict()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again = build(arch, DIGITS, seed=6).state_dict()
    other = build(arch, DIGITS, seed=7).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(
    ("arch", "flags", "message"),
    [
        ("mlp", {"mlp_num_layers": 0}, "--mlp_num_layers 0: must be at least 1"),
        ("mlp", {"mlp_hidden_size": -3}, "--mlp_hidden_size -3: must be at least 1"),
        (
            "wideresnet28",
            {"wideresnet_widen_factor": 0},
            "--wideresnet_widen_factor 0: must be at least 1",
        ),
        ("densenet", {"densenet_growth_rate": 0}, "--densenet_growth_rate 0: must be at least 1"),
        (
            "densenet43",
            {"densenet_bc_mode": True},
            r"--densenet_bc_mode True: its depths are 10, 16, 22, ... \(6m \+ 4\), not 43",
        ),
        *(
            (
                "densenet",
                {"densenet_bc_mode": True, "densenet_compression": compression},
                f"--densenet_compression {compression}: from 0.1 to 1",
            )
            for compression in (0.0, -1.0, 1.5, math.nan)
        ),
        *(
            (arch, {"drop_rate": rate}, f"--drop_rate {rate}: {reason}")
            for arch in ("mlp", "wideresnet28", "densenet")
            for rate, reason in (
                (-0.1, "must be at least 0"),
                (1.0, "must be below 1"),
                (math.nan, "must be at least 0"),
            )
        ),
    ],
)
def test_flags_out_of_range_are_refused(arch: str, flags: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        build(arch, DIGITS, **flags)


def test_compression_is_that_of_the_bc_form_alone() -> None:
    plain = build("densenet10", DIGITS, densenet_compression=7.0).state_dict()
    assert plain.keys() == build("densenet10", DIGITS).state_dict().keys()


@pytest.mark.parametrize("arch", OF_IMAGES)
@pytest.mark.parametrize(("input_shape", "samples"), [((2000,), "2000"), ((), "words")])
def test_a_model_of_images_takes_nothing_else(
    arch: str, input_shape: tuple[int, ...], samples: str
) -> None:
    message = f"^--arch {arch}: takes images.*; the samples of this data set are {samples}$"
    with pytest.raises(UserError, match=message):
        build(arch, input_shape)


@pytest.mark.parametrize(
    ("arch", "input_shape", "message"),
    [
        ("lenet", DIGITS, "images of 28 x 28 or 32 x 32 pixels; .* are 1 x 8 x 8"),
        ("lenet", (1, 28, 32), "images of 28 x 28 or 32 x 32 pixels; .* are 1 x 28 x 32"),
        ("densenet", (1, 3, 8), "images of 4 x 4 pixels or more; .* are 1 x 3 x 8"),
        ("mlp", (), "images or vectors; .* are words"),
        ("logistic_regression", (), "images or vectors; .* are words"),
        ("rnn_lm", COLOURED, "words; .* are 3 x 32 x 32"),
        ("rnn_lm", (5,), "words; .* are 5"),
    ],
)
def test_samples_that_do_not_fit_are_refused(
    arch: str, input_shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(UserError, match=f"^--arch {arch}: takes {message}$"):
        build(arch, input_shape)


def test_flags_reach_those_that_take_them() -> None:
    wide = {"wideresnet_widen_factor", "drop_rate"}
    assert not options_of(builder("lenet"))
    assert options_of(builder("resnet20")).keys() == {"normalization"}
    assert options_of(builder("wideresnet16")).keys() == wide
    assert "drop_rate" in options_of(builder("densenet40"))
    assert {arch for arch in MODELS if task_of(arch) == "language"} == {"rnn_lm"}
    assert isinstance(make_model("resnet8", DIGITS, 10, 6, {"drop_rate": math.nan}), nn.Module)


@pytest.mark.parametrize("arch", ["resnet2", "resnet9", "resnet26", "resnet1100"])
def test_a_depth_that_does_not_exist_is_refused(arch: str) -> None:
    with pytest.raises(UserError, match=rf"--arch '{arch}' is not known; .*built: resnet8"):
        builder(arch)


@pytest.mark.parametrize(
    "arch",
    ["wideresnet29", "wideresnet4", "wideresnet-2", "wideresnet028", "densenet41", "densenet4"],
)
def test_a_depth_outside_of_a_family_is_refused(arch: str) -> None:
    with pytest.raises(UserError, match=r"wideresnetDEPTH \(6m \+ 4 layers\), densenetDEPTH \(3m"):
        builder(arch)


@pytest.mark.parametrize("arch", ["resnet", "resnet-20", "ResNet20", "resnet20 ", "", "vgg", "x"])
def test_an_unknown_model_is_refused(arch: str) -> None:
    with pytest.raises(UserError, match=r"is not known; .*built: .*mlp") as refusal:
        builder(arch)
    assert "\n" not in str(refusal.value)


def test_a_slip_is_answered_with_what_is_like_it() -> None:
    with pytest.raises(UserError, match=r"^--arch 'ResNet20' is not known; like it: resnet20, "):
        builder("ResNet20")
    with pytest.raises(UserError, match=r"^--arch 'mobilnet_v2' .* like it: mobilenet_v2, "):
        builder("mobilnet_v2")
    with pytest.raises(UserError) as refusal:
        builder("resnet05")  # like resnet50, which is torchvision's name as well
    near = str(refusal.value).split("like it: ")[1].split(";")[0].split(", ")
    assert "resnet50" in near
    assert len(near) == len(set(near))


def test_help_names_all_families() -> None:
    text = ", ".join(NAMES)
    assert all(arch in text for arch in MODELS)
    assert "wideresnetDEPTH" in text
    assert "torchvision" in text


def test_torchvision_is_imported_for_its_models_alone() -> None:
    program = (
        "import sys; from pcode.models import make_model; from pcode.config import make_config;"
        "make_model('wideresnet10', (1, 8, 8), 10, 6, make_config().flat());"
        "sys.exit('torchvision' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=100)


@pytest.mark.parametrize("arch", ["resnet20", "vgg11"])
def test_without_batches_a_sample_is_alone(arch: str) -> None:
    """With groups of channels, or nothing, what others are in the batch does not matter."""
    inputs = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    for kind in ("batch", "group", "evonorm", "none"):
        model = build(arch, COLOURED, 10, normalization=kind)
        alone, together = model(inputs[:2])[0], model(inputs)[0]
        assert torch.allclose(alone, together, atol=1e-4) == (kind != "batch")


def test_evonorm_is_its_formula() -> None:
    """x sigmoid(v x) over the deviation of a group, of 2; the nonlinearity is a ResNet's only one
    behind a normalisation that had a ReLU.
    """
    draw = np.random.default_rng(1)
    x = draw.normal(2, 3, size=(2, 6, 4, 5))
    v, weight, bias = draw.normal(size=(3, 6, 1, 1))
    layer = EvoNormS0(6).double()
    with torch.no_grad():
        for name, value in (("v", v), ("weight", weight), ("bias", bias)):
            getattr(layer, name).copy_(torch.from_numpy(value))
    deviation = np.repeat([[half.std() for half in (of[:3], of[3:])] for of in x], 3, axis=1)
    want = x / (1 + np.exp(-v * x)) / deviation[:, :, None, None] * weight + bias
    got = layer(torch.from_numpy(x)).detach().numpy()
    assert np.abs(got - want).max() < 1e-4
    model = build("resnet20", COLOURED, 10, normalization="evonorm")
    assert sum(isinstance(module, EvoNormS0) for module in model.modules()) == 1 + 9
    assert not any(isinstance(module, nn.ReLU | nn.BatchNorm2d) for module in model.modules())


def test_vgg_without_normalisation_is_the_published_one() -> None:
    """Only convolutions and the linear layer have parameters."""
    model = build("vgg11", COLOURED, 10, normalization="none")
    kinds = {type(module) for module in model.modules() if [*module.parameters(recurse=False)]}
    assert kinds == {nn.Conv2d, nn.Linear}

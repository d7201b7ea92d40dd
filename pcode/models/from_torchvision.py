"""torchvision's models, without pretrained weights.

torchvision is imported here when the first of them is asked for: the import takes a second.
"""

from types import ModuleType
from typing import Any

from torch import nn

from pcode.models.base import UnfitInputsError, image_shape, shape_error
from pcode.utils.errors import UserError

# Those that would give a tuple while training: without their additional classifiers.
WITHOUT_AUXILIARY: dict[str, dict[str, Any]] = {
    name: {"aux_logits": False, "init_weights": True} for name in ("googlenet", "inception_v3")
}


def _models() -> ModuleType:
    """Import torchvision.models, or raise a UserError."""
    try:
        import torchvision  # noqa: PLC0415 - slow, and seldom needed
    # A torchvision made for another torch fails with RuntimeError.
    except (ImportError, RuntimeError) as error:
        raise UserError(f"torchvision is needed, and cannot be imported: {error}") from None
    models: ModuleType = torchvision.models
    return models


def torchvision_names() -> list[str]:
    """Return the names of its models for classification."""
    names: list[str] = _models().list_models(module=_models())
    return names


def torchvision_resnet(name: str, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """ResNet-18 to -152 for large images: torchvision's, for any number of channels.

    Source: He, Zhang, Ren, Sun, "Deep residual learning for image recognition", arXiv 1512.03385,
    table 1; initial values are torchvision's. ResNet-50 for 3 channels and 1000 classes has
    25,557,032 parameters.
    """
    num_channels, _, _ = image_shape(input_shape)
    model: nn.Module = _models().get_model(name, weights=None, num_classes=num_classes)
    if num_channels != 3:
        first = nn.Conv2d(num_channels, 64, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(first.weight, mode="fan_out", nonlinearity="relu")
        model.conv1 = first
    return model


def torchvision_model(name: str, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Make one of torchvision_names(), as torchvision makes it."""
    if image_shape(input_shape)[0] != 3:
        raise UnfitInputsError("images of 3 channels")
    model: nn.Module = _models().get_model(
        name, weights=None, num_classes=num_classes, **WITHOUT_AUXILIARY.get(name, {})
    )
    if reason := shape_error(model, input_shape, batch_size=2):
        raise UnfitInputsError(f"other images ({reason})")
    return model

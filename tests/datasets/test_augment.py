"""Random crops and mirror images, beside torchvision's own operations on one image."""

from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch
from PIL.Image import Image
from torchvision.transforms import functional

from pcode.datasets.in_memory import ImagePreparation, channel_statistics, crops_and_mirror_images

MEAN, DEVIATION = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)


def draw_images(count: int, channels: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    shape = (count, channels, height, width)
    return torch.randint(1, 256, shape, generator=generator, dtype=torch.uint8)


def preparation(padding: int | None) -> ImagePreparation:
    mean, deviation = torch.tensor([MEAN, DEVIATION])[..., None, None] * 255
    return ImagePreparation(mean, deviation, padding)


def as_torchvision(image: torch.Tensor, padding: int, top: int, left: int, flip: bool) -> Image:
    """The crop of a padded PIL image, mirrored or not."""
    _, height, width = image.shape
    padded = functional.pad(functional.to_pil_image(image), padding)
    cropped: Image = functional.crop(padded, top, left, height, width)
    mirrored: Image = functional.hflip(cropped)
    return mirrored if flip else cropped


def crop_of(image: torch.Tensor, made: torch.Tensor, padding: int) -> tuple[int, int, bool]:
    """Where torchvision has to crop and whether to mirror for the same pixels; there is one way."""
    places = range(2 * padding + 1)
    (found,) = (
        (top, left, flip)
        for top, left, flip in product(places, places, (False, True))
        if np.array_equal(
            functional.pil_to_tensor(as_torchvision(image, padding, top, left, flip)), made
        )
    )
    return found


@pytest.mark.parametrize(("height", "width", "padding"), [(8, 8, 2), (5, 7, 1), (6, 4, 3)])
def test_every_image_is_a_crop_of_torchvisions_and_normalised_like_it(
    height: int, width: int, padding: int
) -> None:
    images = draw_images(24, 3, height, width)
    seed = torch.Generator().manual_seed
    made = crops_and_mirror_images(images, padding, seed(1))
    inputs = preparation(padding)(images, seed(1))
    assert inputs.dtype == torch.float32
    assert inputs.shape == images.shape
    found = set()
    for image, crop, values in zip(images, made, inputs, strict=True):
        place = crop_of(image, crop, padding)
        tensor = functional.to_tensor(as_torchvision(image, padding, *place))
        expected = functional.normalize(tensor, MEAN, DEVIATION)
        torch.testing.assert_close(values, expected, rtol=0, atol=1e-6)
        found.add(place)
    assert len(found) > 8


def test_without_a_generator_images_are_only_normalised() -> None:
    images = draw_images(10, 3, 6, 6)
    for padding in (None, 4):
        for image, values in zip(images, preparation(padding)(images, None), strict=True):
            tensor = functional.to_tensor(functional.to_pil_image(image))
            expected = functional.normalize(tensor, MEAN, DEVIATION)
            torch.testing.assert_close(values, expected, rtol=0, atol=1e-6)


def test_without_padding_there_is_no_augmentation() -> None:
    images = draw_images(10, 3, 6, 6)
    prepare = preparation(None)
    assert torch.equal(prepare(images, torch.Generator().manual_seed(1)), prepare(images, None))


def test_every_place_and_both_directions_are_equally_likely() -> None:
    image = torch.arange(1, 17, dtype=torch.uint8).view(1, 1, 4, 4)
    count, padding = 18_000, 1
    made = crops_and_mirror_images(
        image.expand(count, -1, -1, -1), padding, torch.Generator().manual_seed(2)
    )
    patterns = Counter(bytes(crop.flatten().tolist()) for crop in made)
    assert len(patterns) == 18
    # 1000 of each are expected; five standard deviations are 154.
    assert max(abs(number - 1000) for number in patterns.values()) < 154


def test_the_generator_decides_on_everything() -> None:
    images = draw_images(32, 3, 8, 8)
    seed = torch.Generator().manual_seed
    first = preparation(2)(images, seed(1))
    torch.rand(3)
    assert torch.equal(preparation(2)(images, seed(1)), first)
    assert not torch.equal(preparation(2)(images, seed(2)), first)


def test_images_stay_as_they_are_stored() -> None:
    images = draw_images(8, 3, 8, 8)
    before = images.clone()
    preparation(2)(images, torch.Generator().manual_seed(1))
    preparation(None)(images, None)
    assert torch.equal(images, before)


def test_the_number_of_threads_changes_no_bit() -> None:
    images = draw_images(256, 3, 32, 32)
    threads = torch.get_num_threads()
    made = []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            made.append(preparation(4)(images, torch.Generator().manual_seed(1)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(made[0], made[1])
    assert torch.equal(made[0], made[2])


def test_statistics_are_those_of_all_pixels() -> None:
    images = draw_images(5000, 2, 5, 4)
    images[:, 1] //= 3
    mean, deviation = channel_statistics(images)
    pixels = images.numpy().astype(np.float64)
    np.testing.assert_allclose(mean.flatten(), pixels.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(deviation.flatten(), pixels.std((0, 2, 3)), rtol=1e-6)


def test_a_channel_without_contrast_becomes_zeros() -> None:
    images = torch.full((3, 1, 4, 4), 7, dtype=torch.uint8)
    inputs = ImagePreparation(*channel_statistics(images))(images, None)
    assert torch.equal(inputs, torch.zeros(3, 1, 4, 4))

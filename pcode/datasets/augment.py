"""Random crops and mirror images of a whole batch at once, and what a model takes."""

from dataclasses import dataclass

import torch

from pcode.utils.devices import kept_on, to_device


@dataclass(frozen=True, eq=False)
class ImagePreparation:
    """Stored images -> a model's inputs: an InMemory data set's `prepare`.

    With a generator and a padding, every image is cropped, at a place of its own, from itself with
    zeros around it, and is mirrored with probability 1/2; then, with or without, pixels become
    (pixel - mean) / deviation of their channel, float32.

    It works on the device on which the images lie; the draws are made on the CPU, so that they are
    the same on every device. Nothing is summed, so that the number of threads changes no bit.

    Source: He, Zhang, Ren, Sun, Deep residual learning for image recognition (CVPR 2016), section
    4.2. The values are those of torchvision's RandomCrop, RandomHorizontalFlip, ToTensor and
    Normalize, to 1e-6; where those take an image at a time, this takes a batch.

    Attributes:
        mean, deviation: of each channel, float32, C x 1 x 1, of pixels from 0 to 255.
        padding: zeros on each side, in pixels; None: neither crops nor mirror images.
    """

    mean: torch.Tensor
    deviation: torch.Tensor
    padding: int | None = None

    def __call__(self, images: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        """Return a batch of float32 inputs.

        Args:
            images: uint8, N x C x H x W.
            generator: a CPU generator; None for the test set, which is taken as it is.
        """
        if generator is not None and self.padding is not None:
            images = crops_and_mirror_images(images, self.padding, generator)
        # Two passes in place after the conversion: a type promotion costs more than all three, and
        # a division more than both.
        inputs = images.to(torch.float32)
        inputs -= kept_on(self.mean, images.device)
        inputs *= 1 / kept_on(self.deviation, images.device)
        return inputs


def crops_and_mirror_images(
    images: torch.Tensor, padding: int, generator: torch.Generator
) -> torch.Tensor:
    """Crop every padded image to its own size at random, and mirror it with probability 1/2.

    All images and all their mirror images are laid out with their zeros in one sheet. A crop is
    then a window of it that its first pixel alone identifies, and one indexed copy of a view of
    all windows makes the batch.

    Args:
        images: N x C x H x W, of any dtype.
        padding: zeros on each side, in pixels.
        generator: a CPU generator.
    """
    count, channels, height, width = images.shape
    mirrored = torch.randint(2, (count,), generator=generator)
    top, left = torch.randint(2 * padding + 1, (2, count), generator=generator)
    sheet = images.new_zeros(2, count, channels, height + 2 * padding, width + 2 * padding)
    inside = sheet[..., padding : padding + height, padding : padding + width]
    inside[0] = images
    inside[1] = images.flip(-1)
    to_mirrored, to_next, to_channel, to_row, to_column = sheet.stride()
    last = (channels - 1) * to_channel + (height - 1) * to_row + (width - 1) * to_column
    windows = sheet.as_strided(
        (sheet.numel() - last, channels, height, width), (1, to_channel, to_row, to_column)
    )
    first = mirrored * to_mirrored + torch.arange(count) * to_next + top * to_row + left * to_column
    return windows.index_select(0, to_device(first, images.device))

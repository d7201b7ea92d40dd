"""Handwritten digits that come with scikit-learn: nothing to download."""

from __future__ import annotations

import torch

from pcode.datasets.in_memory import InMemory
from pcode.seeding import derive_seed

# The split belongs to the data set, not to the run: every run is tested on the same digits.
SPLIT_SEED = 0
TEST_SHARE = 5


def load_digits_dataset() -> InMemory:
    """1437 digits for training and 360 for testing, 1 x 8 x 8, ten classes.

    Pixels (0 to 16) are divided by 16 and normalised with the mean and the standard deviation of
    all training pixels. The split is stratified: in an order by class and, within a class, by a
    fixed draw, every fifth digit is for testing. The draw is a hash of the digit's position, so
    that it changes with no version of any library.

    Source: UCI Optical Recognition of Handwritten Digits, test part, as in
    sklearn.datasets.load_digits; the published set has no split of these 1797 digits.
    """
    # Here, because it takes a second and no other data set needs it.
    from sklearn.datasets import load_digits  # noqa: PLC0415

    images, labels = load_digits(return_X_y=True)
    inputs = torch.from_numpy(images).to(torch.float32).view(-1, 1, 8, 8) / 16
    targets = torch.from_numpy(labels).to(torch.int64)
    order = sorted(
        range(len(targets)),
        key=lambda index: (int(targets[index]), derive_seed(SPLIT_SEED, "digits", index)),
    )
    test = sorted(order[::TEST_SHARE])
    train = sorted(set(order) - set(test))
    deviation, mean = torch.std_mean(inputs[train], correction=0)
    inputs = (inputs - mean) / deviation
    return InMemory(
        "digits",
        train_inputs=inputs[train],
        train_targets=targets[train],
        test_inputs=inputs[test],
        test_targets=targets[test],
        num_classes=10,
    )

"""Handwritten digits that come with scikit-learn: nothing to download."""

from importlib.metadata import distribution

import numpy as np
import torch

from pcode.datasets.base import Split
from pcode.datasets.in_memory import InMemory
from pcode.utils.seeding import derive_seed

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
    # The file itself, since importing scikit-learn takes longer than a small run's epoch.
    file = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    digits = torch.from_numpy(np.loadtxt(str(file), dtype=np.uint8, delimiter=","))
    inputs = digits[:, :-1].to(torch.float32).view(-1, 1, 8, 8) / 16
    targets = digits[:, -1].to(torch.int64)
    order = sorted(
        range(len(targets)),
        key=lambda index: (int(targets[index]), derive_seed(SPLIT_SEED, "digits", index)),
    )
    test = sorted(order[::TEST_SHARE])
    train = sorted(set(order) - set(test))
    deviation, mean = torch.std_mean(inputs[train], correction=0)
    inputs = (inputs - mean) / deviation
    train_split, test_split = (Split(inputs[part], targets[part]) for part in (train, test))
    return InMemory("digits", train_split, test_split, num_classes=10)

"""The division of own data into those to train and those to test on: by name where they are divided, else at random."""

from collections.abc import Collection

import torch
from torch import Tensor

from laser_fl.data.examples import stratified
from laser_fl.shapes import Int64, Shaped

TRAIN = "train"
TESTS = ("test", "valid", "validation", "val", "dev")  # names of the part to test on
TEST_SHARE = 0.2  # of examples that are not divided


def name_of_test(names: Collection[str]) -> str:
    """Return the name of the part to test on; "" where the names are not those of a division."""
    return next((name for name in TESTS if name in names), "") if TRAIN in names else ""


def divided(labels: Shaped[Tensor, "examples ..."]) -> tuple[Int64[Tensor, " train"], Int64[Tensor, " test"]]:
    """Return the rows to train and to test on, always the same ones, with each label in proportion."""
    test = stratified(labels, max(1, round(TEST_SHARE * len(labels))))
    stays = torch.ones(len(labels), dtype=torch.bool)
    stays[test] = False
    return stays.nonzero().flatten(), test

"""Images shifted and mirrored at random."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedsim.errors import UserError
from fedsim.learning.augmenting import augmented


def rng(seed: int = 0) -> np.random.Generator:
    """A generator."""
    return np.random.default_rng(seed)


def found(original: torch.Tensor, made: torch.Tensor, most_y: int, most_x: int) -> tuple[int, int, bool]:
    """By how much an image was moved down and to the right, and whether it is mirrored; exactly one way fits."""
    _, height, width = original.shape
    fits = []
    for mirrored in (False, True):
        image = made.flip(-1) if mirrored else made
        for down in range(-most_y, most_y + 1):
            for right in range(-most_x, most_x + 1):
                moved = torch.zeros_like(original)
                rows, columns = slice(max(0, down), height + min(0, down)), slice(max(0, right), width + min(0, right))
                source = original[:, max(0, -down) : height - max(0, down), max(0, -right) : width - max(0, right)]
                moved[:, rows, columns] = source
                if moved.equal(image):
                    fits.append((down, right, mirrored))
    assert len(fits) == 1
    return fits[0]


def test_images_move_by_up_to_an_eighth_and_half_of_them_are_mirrored() -> None:
    """Every shift occurs, both ways; what comes in from outside is zero."""
    images = torch.rand(300, 2, 16, 8, generator=torch.Generator().manual_seed(0)) + 0.1
    made = augmented(images, rng())
    assert made.shape == images.shape
    ways = [found(original, image, 2, 1) for original, image in zip(images, made, strict=True)]
    assert {way[0] for way in ways} == {-2, -1, 0, 1, 2}
    assert {way[1] for way in ways} == {-1, 0, 1}
    for axis, count in ((0, 5), (1, 3)):
        share = np.unique([way[axis] for way in ways], return_counts=True)[1] / 300
        assert abs(share - 1 / count).max() < 0.1, "all alike"
    assert abs(np.mean([way[2] for way in ways]) - 0.5) < 0.1


def test_images_of_32_pixels_move_by_four() -> None:
    """As CIFAR-10 is commonly augmented."""
    images = torch.rand(300, 1, 32, 32, generator=torch.Generator().manual_seed(0)) + 0.1
    first_rows = augmented(images, rng())[:, 0, :, 8:24].abs().sum(-1)
    top = (first_rows == 0).int().cumprod(1).sum(1)
    assert top.max() == 4


def test_small_images_are_mirrored_only() -> None:
    """An eighth of seven pixels is none."""
    images = torch.rand(50, 1, 7, 7)
    for original, image in zip(images, augmented(images, rng()), strict=True):
        assert image.equal(original) or image.equal(original.flip(-1))


def test_the_generator_decides() -> None:
    """The same one makes the same images; the original is left as it is, in its memory layout."""
    images = torch.rand(20, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    before = images.clone()
    one, two, other = (augmented(images, rng(seed)) for seed in (1, 1, 2))
    assert one.equal(two)
    assert not one.equal(other)
    assert images.equal(before)
    assert one.is_contiguous(memory_format=torch.channels_last)
    assert one.dtype == images.dtype


@pytest.mark.parametrize("shape", [(8, 6), (8, 3, 4)])
def test_what_is_no_image_is_refused(shape: tuple[int, ...]) -> None:
    """With the way out."""
    with pytest.raises(UserError, match=r"samples of shape .* only images can: set augment_copies: 0"):
        augmented(torch.zeros(shape), rng())

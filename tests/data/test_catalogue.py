"""The catalogue knows data sets without opening them."""

import pytest

from fedsim.data.catalogue import DataInfo, find, names
from fedsim.errors import UserError


def test_names_are_sorted_and_found() -> None:
    """Every name of the catalogue can be found under itself."""
    assert list(names()) == sorted(names())
    assert {"digits", "mnist", "cifar10", "cifar100", "svhn", "wikitext2"} <= set(names())
    assert all(find(name).name == name for name in names())


def test_unknown_name_suggests_the_nearest() -> None:
    """A misspelt name is answered with the nearest one and all there are."""
    with pytest.raises(UserError, match=r"unknown data set 'cifr10'; did you mean cifar10\? there are: cifar10, cifar"):
        find("cifr10")


def test_fitted_changes_samples_and_shape() -> None:
    """A subset and a size show in the numbers."""
    info = find("cifar10").fitted(20_000, 64)
    assert info == DataInfo(name="cifar10", kind="image", train=20_000, test=10_000, shape=(3, 64, 64), classes=10)


@pytest.mark.parametrize("samples", [0, -1, 1438])
def test_subset_has_to_fit(samples: int) -> None:
    """A subset is neither empty nor larger than the set."""
    with pytest.raises(UserError, match=f"samples: {samples}, but the training set of digits has 1,437; choose 1-1437"):
        find("digits").fitted(samples, None)


def test_resize_is_for_images() -> None:
    """Text has no image size, and an image size is positive."""
    with pytest.raises(UserError, match="resize: 32, but wikitext2 holds texts, not images"):
        find("wikitext2").fitted(None, 32)
    with pytest.raises(UserError, match="resize: 0 is no image size"):
        find("digits").fitted(None, 0)


def test_windows_too_long_for_a_corpus() -> None:
    """A window longer than the smaller part is refused."""
    with pytest.raises(UserError, match=r"tokens.length: 200000, but the smaller part of tinyshakespeare has 111,540"):
        find("tinyshakespeare", length=200_000)

"""Decoding and fitting of pictures."""

import numpy as np
import pytest
from PIL import Image

from fedsim.data import images
from fedsim.data.images import BadPicture, decode, fitted, size_and_channels

from .conftest import encoded, some_pictures


def test_decoded_pixels_are_the_encoded_ones() -> None:
    """PNG loses nothing; channels come first."""
    pictures = some_pictures(5)
    out = np.empty((5, 3, 6, 5), np.uint8)
    decode([encoded(picture) for picture in pictures], out, resize=False)
    np.testing.assert_array_equal(out, np.stack(pictures).transpose(0, 3, 1, 2))


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures decoded in threads are those decoded one after another, and errors come through."""
    data = [encoded(picture) for picture in some_pictures(40)]
    one, many = np.empty((40, 3, 6, 5), np.uint8), np.empty((40, 3, 6, 5), np.uint8)
    decode(data, one, resize=False)
    monkeypatch.setattr(images, "THREADED_PIXELS", 1)
    monkeypatch.setattr(images, "_CHUNK", 3)
    decode(data, many, resize=False)
    np.testing.assert_array_equal(one, many)
    with pytest.raises(BadPicture, match="has no bytes"):
        decode([*data, None], np.empty((41, 3, 6, 5), np.uint8), resize=False)


def test_grey_and_colour() -> None:
    """Grey pictures become three channels where colour is wanted, and the other way round."""
    grey, colour = some_pictures(1, (6, 5))[0], some_pictures(1)[0]
    assert size_and_channels([encoded(grey)]) == (1, 6, 5)
    assert size_and_channels([encoded(grey), encoded(colour)]) == (3, 6, 5)
    out = np.empty((1, 3, 6, 5), np.uint8)
    decode([encoded(grey)], out, resize=False)
    np.testing.assert_array_equal(out[0], np.stack([grey] * 3))


def test_decoding_at_a_size_is_decoding_then_fitting() -> None:
    """Both ways of resizing give the same pixels, which are pillow's."""
    picture = some_pictures(1)[0]
    out = np.empty((1, 3, 9, 9), np.uint8)
    decode([encoded(picture)], out, resize=True)
    np.testing.assert_array_equal(out, fitted(picture.transpose(2, 0, 1)[None], 9))
    by_pillow = np.asarray(Image.fromarray(picture).resize((9, 9), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(out[0], by_pillow.transpose(2, 0, 1))


def test_fitted_at_size_is_the_same_memory() -> None:
    """Nothing is copied for images that fit already."""
    array = np.zeros((2, 1, 8, 8), np.float32)
    assert fitted(array, 8) is array


def test_bad_pictures_are_named() -> None:
    """A picture of another size or of broken bytes is named by its row."""
    good = encoded(some_pictures(1)[0])
    out = np.empty((2, 3, 6, 5), np.uint8)
    with pytest.raises(BadPicture) as caught:
        decode([good, encoded(some_pictures(1, (4, 4, 3))[0])], out, resize=False)
    assert (caught.value.row, caught.value.reason) == (1, "is 4 x 4 and not 5 x 6; set `resize`")
    with pytest.raises(BadPicture, match="cannot be decoded"):
        decode([good, good[: len(good) // 2]], out, resize=False)
    with pytest.raises(BadPicture, match="cannot be decoded"):
        size_and_channels([b"nothing"])
    with pytest.raises(BadPicture, match="has no bytes"):
        size_and_channels([None])

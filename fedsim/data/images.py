"""Pictures to arrays with pillow: decoding once, fitting to a size. Knows nothing of data sets.

pillow releases the interpreter's lock while it decodes, but a 32 x 32 picture is half interpreter work, and threads
only fight for the lock (10,000 CIFAR images on two cores: 0.49 s alone, 0.62 s on two threads). Large ones scale.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedsim.data.dataset import AnyArray

THREADED_PIXELS: Final = 64 * 64
"""Pictures of at least this many pixels are decoded and fitted in threads."""

_FORMATS: Final = {b"\xff\xd8\xff": ("JPEG",), b"\x89PN": ("PNG",)}
"""By a file's first bytes, the one format to try: a quarter quicker than letting pillow try all it knows."""

_CHUNK: Final = 256  # pictures a task: a task costs about as much as one small picture


class BadPicture(Exception):
    """Picture number `row` of those asked for cannot be used; `reason` continues a sentence about it."""

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(row, reason)
        self.row = row
        self.reason = reason


def decode(encoded: Sequence[bytes | None], out: NDArray[np.uint8], *, resize: bool) -> None:
    """Decode each of `encoded` into a row of `out` (samples, 1 or 3 channels, height, width).

    Args:
        encoded: files as bytes: JPEG, PNG, or whatever else pillow reads.
        out: where the pixels go; its shape says how many channels and which size.
        resize: fit pictures of another size (bilinear) instead of refusing them.

    Raises:
        BadPicture: one cannot be decoded or has another size.
    """
    from PIL import Image

    channels, height, width = out.shape[1:]
    mode = "L" if channels == 1 else "RGB"

    def one(row: int) -> None:
        data = encoded[row]
        if data is None:
            raise BadPicture(row, "has no bytes")
        try:
            picture: Image.Image = Image.open(BytesIO(data), formats=_FORMATS.get(data[:3]))
            picture = picture if picture.mode == mode else picture.convert(mode)
            if picture.size != (width, height):
                if not resize:
                    size = f"{picture.size[0]} x {picture.size[1]}"
                    raise BadPicture(row, f"is {size} and not {width} x {height}; set `resize`")
                picture = picture.resize((width, height), Image.Resampling.BILINEAR)
            pixels = np.frombuffer(picture.tobytes(), np.uint8)
        except (OSError, ValueError, SyntaxError) as error:  # what pillow raises for broken files
            raise BadPicture(row, f"cannot be decoded ({error})") from error
        out[row] = pixels.reshape(height, width, channels).transpose(2, 0, 1)

    _each(one, len(encoded), height * width)


def size_and_channels(encoded: Sequence[bytes | None]) -> tuple[int, int, int]:
    """(channels, height, width) from the headers of pictures: the size of the first, 3 channels if any has colour.

    Raises:
        BadPicture: one is no picture.
    """
    from PIL import Image

    size, channels = (0, 0), 1
    for row, data in enumerate(encoded):
        if data is None:
            raise BadPicture(row, "has no bytes")
        try:
            with Image.open(BytesIO(data)) as picture:
                size = size if row else picture.size
                channels = channels if picture.mode in ("1", "L", "I;16", "I", "F") else 3
        except (OSError, ValueError, SyntaxError) as error:
            raise BadPicture(row, f"cannot be decoded ({error})") from error
    return channels, size[1], size[0]


def fitted(images: AnyArray, size: int) -> AnyArray:
    """Images (samples, channels, height, width) of uint8 or float32 at `size` x `size`, bilinear; at size: as is."""
    from PIL import Image

    samples, channels, height, width = images.shape
    if (height, width) == (size, size):
        return images
    out = np.empty((samples, channels, size, size), images.dtype)
    planes, fitted_planes = images.reshape(-1, height, width), out.reshape(-1, size, size)

    def one(row: int) -> None:
        plane = Image.fromarray(np.ascontiguousarray(planes[row]))
        fitted_planes[row] = np.asarray(plane.resize((size, size), Image.Resampling.BILINEAR))

    _each(one, len(planes), size * size)
    return out


def _each(work: Callable[[int], None], count: int, pixels: int) -> None:
    """Do `work` for rows 0 to count - 1, in threads where that is quicker."""

    def chunk(start: int) -> None:
        for row in range(start, min(start + _CHUNK, count)):
            work(row)

    starts = range(0, count, _CHUNK)
    if pixels < THREADED_PIXELS or len(starts) == 1:
        for start in starts:
            chunk(start)
    else:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for done in [pool.submit(chunk, start) for start in starts]:
                done.result()

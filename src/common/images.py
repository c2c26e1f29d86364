"""Opening pictures safely: RGB, decoded in full, no decompression bombs."""

import random
import warnings
from collections.abc import Iterable
from pathlib import Path

from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 64_000_000  # an 8000 x 8000 photograph; more is a mistake or an attack


def open_image(path: str | Path) -> Image.Image:
    """The picture at `path` as RGB, transparency laid on white.

    Raises:
        ValueError: the file does not decode, is cut off, or has more than MAX_PIXELS pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", Image.DecompressionBombWarning
            )  # our own limit is lower than Pillow's error
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ValueError(
                        f"{path} has {image.width} x {image.height} pixels, over {MAX_PIXELS:,}: scale it down"
                    )
                image.load()
                if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                    image = image.convert("RGBA")
                    ground = Image.new("RGBA", image.size, "white")
                    image = Image.alpha_composite(ground, image)
                return image.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path} does not decode as an image ({error}). Replace or delete it, or pass --skip_bad_images"
        ) from error


def random_view(image: Image.Image, amount: float, rng: random.Random) -> Image.Image:
    """The picture moved by up to `amount` of its sides and zoomed by up to as much, on the colour of its corner."""
    zoom = 1 + amount * rng.uniform(-1, 1)
    matrix = []
    for axis, side in enumerate(image.size):
        offset = side / 2 - (side / 2 + amount * rng.uniform(-1, 1) * side) / zoom
        matrix += [0 if axis else 1 / zoom, 1 / zoom if axis else 0, offset]
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=image.getpixel((0, 0))
    )


def undecodable(paths: Iterable[Path]) -> dict[Path, str]:
    """The files that do not decode, each with its reason."""
    bad: dict[Path, str] = {}
    for path in paths:
        try:
            open_image(path)
        except ValueError as error:
            bad[path] = str(error)
    return bad

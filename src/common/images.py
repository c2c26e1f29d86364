"""Opening pictures safely: RGB, decoded in full, no decompression bombs."""

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


def undecodable(paths: Iterable[Path]) -> dict[Path, str]:
    """The files that do not decode, each with its reason."""
    bad: dict[Path, str] = {}
    for path in paths:
        try:
            open_image(path)
        except ValueError as error:
            bad[path] = str(error)
    return bad

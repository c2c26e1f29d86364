"""Opening pictures safely: RGB, decoded in full, no decompression bombs."""

import io
import random
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 64_000_000  # an 8000 x 8000 photograph; more is a mistake or an attack
WEB_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")  # Pillow has others: EPS starts Ghostscript
JPEG_QUALITY = 90
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # our limit is below that of Pillow's error


def open_image(path: str | Path) -> Image.Image:
    """The picture at `path` as RGB, transparency laid on white.

    Raises:
        ValueError: the file does not decode, is cut off, or has more than MAX_PIXELS pixels.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(
                    f"{path} has {image.width} x {image.height} pixels, over {MAX_PIXELS:,}: scale it down"
                )
            image.load()
            return _on_white(_with_colours(image))
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path} does not decode as an image ({error}). Replace or delete it, or pass --skip_bad_images"
            " to a command that has it"
        ) from error


def _with_colours(image: Image.Image) -> Image.Image:
    """As RGBA where anything is transparent, else as RGB."""
    if image.mode.startswith("I"):  # 16 bits of grey: Pillow would cut them off at 255, not scale them
        image = Image.fromarray((np.asarray(image) // 256).clip(0, 255).astype(np.uint8))
    is_transparent = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    return image.convert("RGBA" if is_transparent else "RGB")


def _on_white(image: Image.Image) -> Image.Image:
    """RGBA or RGB as RGB, transparency laid on white."""
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


class Jpeg(NamedTuple):
    """An encoded picture and its size in pixels."""

    data: bytes
    width: int
    height: int


def to_jpeg(data: bytes, max_side: int) -> Jpeg:
    """A picture from the web as an upright RGB JPEG whose sides are at most `max_side`, made smaller where needed.

    Raises:
        ValueError: `data` is no whole picture in one of WEB_FORMATS, or has more than MAX_PIXELS pixels.
    """
    Image.init()  # all formats; those that this Pillow lacks drop out
    formats = [name for name in WEB_FORMATS if name in Image.OPEN]
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels, over {MAX_PIXELS:,}")
            image.draft("RGB", (max_side, max_side))  # a JPEG of twice the size is decoded at half of it
            image.load()
            picture = _with_colours(ImageOps.exif_transpose(image))
            picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    except UnidentifiedImageError as error:
        raise ValueError("no picture of a format of the web") from error
    except Exception as error:  # whatever a decoder trips over in bytes from anywhere, they are no picture
        raise ValueError(f"no whole picture ({error})") from error
    out = io.BytesIO()
    picture = _on_white(picture)
    picture.save(out, "JPEG", quality=JPEG_QUALITY)
    return Jpeg(out.getvalue(), *picture.size)


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

"""Colour, shape and texture of pictures as plain numbers, without any learnt weights.

A picture is cropped to what differs from its border (products are photographed on plain grounds), so that place and
size of the product hardly matter. Shape letters: N pictures, S their side.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from src.common.images import open_image
from src.common.log import logger

SIDE = 64  # pixels per side that the statistics see
GROUND_DISTANCE = 0.10  # of RGB, from which on a pixel is no longer ground
MIN_SHARE = 0.02  # of the picture that must be product; otherwise all of it is
HUES, LEVELS = 12, 3
CELLS = 8  # per side of the gradient histograms and of the silhouette
ORIENTATIONS = 8
RINGS, RAYS = 6, 6  # of the spectrum: grain and direction of a pattern
PICTURES_AT_ONCE = 256


def statistics_of_files(
    paths: Sequence[Path | None], skip_bad_images: bool = False
) -> tuple[list[np.ndarray], np.ndarray]:
    """Blocks of statistics, each (N, F) float64, and (N,) bool: which pictures are there; rows of others are 0.

    Raises:
        ValueError: a picture does not decode, unless `skip_bad_images`.
    """
    known = np.zeros(len(paths), bool)
    blocks: list[np.ndarray] = []
    for start in range(0, len(paths), PICTURES_AT_ONCE):
        rows, crops, masks = [], [], []
        for row in range(start, min(start + PICTURES_AT_ONCE, len(paths))):
            path = paths[row]
            if path is None:
                continue
            try:
                crop, mask = crop_product(open_image(path))
            except ValueError as error:
                if not skip_bad_images:
                    raise
                logger.warning(f"skipped: {error}")
                continue
            rows.append(row)
            crops.append(crop)
            masks.append(mask)
        if rows:
            found = statistics(np.stack(crops), np.stack(masks))
            blocks = blocks or [np.zeros((len(paths), block.shape[1])) for block in found]
            for block, values in zip(blocks, found, strict=True):
                block[rows] = values
            known[rows] = True
    return blocks, known


def crop_product(image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """The product at SIDE x SIDE: (S, S, 3) float64 RGB in [0, 1], and (S, S) float64, 1 where it is no ground."""
    image.thumbnail((2 * SIDE, 2 * SIDE), Image.Resampling.BOX)
    pixels = np.asarray(image, np.float64) / 255
    mask = _not_ground(pixels)
    if mask.mean() >= MIN_SHARE:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        image = image.crop((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
        mask = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    else:
        mask = np.ones_like(mask)
    # Keep the proportions: a long product is not a square one.
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    corner = ((SIDE - size[1]) // 2, (SIDE - size[0]) // 2)
    place = (slice(corner[0], corner[0] + size[1]), slice(corner[1], corner[1] + size[0]))
    crop, whole_mask = np.ones((SIDE, SIDE, 3)), np.zeros((SIDE, SIDE))
    crop[place] = np.asarray(image.resize(size, Image.Resampling.BILINEAR), np.float64) / 255
    resized = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)
    whole_mask[place] = np.asarray(resized, np.float64) / 255
    return crop, whole_mask


def _not_ground(pixels: np.ndarray) -> np.ndarray:
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return np.abs(pixels - np.median(border, 0)).max(2) > GROUND_DISTANCE


def statistics(crops: np.ndarray, masks: np.ndarray) -> list[np.ndarray]:
    """Blocks (N, F) of colour, layout of colour, shape, gradients and texture.

    Args:
        crops: (N, S, S, 3) RGB in [0, 1]; masks: (N, S, S) in [0, 1], 1 on the product.
    """
    grey = crops @ np.array([0.299, 0.587, 0.114])
    gradients = _gradient_histograms(grey)
    return [
        _colour_histograms(crops, masks),
        _cell_means(crops * masks[..., None], 4).reshape(len(crops), -1),
        _cell_means(masks[..., None], CELLS).reshape(len(crops), -1),
        gradients.reshape(len(crops), -1),
        gradients.mean((1, 2)),
        _spectrum(grey, masks),
    ]


def _colour_histograms(crops: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """(N, HUES + LEVELS) square roots of the shares of each hue, weighted by chroma, and of each level of grey."""
    high, low = crops.max(3), crops.min(3)
    chroma = high - low
    red, green, blue = np.moveaxis(crops, 3, 0)
    safe = np.where(chroma > 0, chroma, 1)
    sector = np.select(
        [high == red, high == green], [(green - blue) / safe % 6, (blue - red) / safe + 2], (red - green) / safe + 4
    )
    hue = sector / 6 * HUES
    lower = np.floor(hue).astype(int)
    upper_share = hue - lower
    flat_rows = np.broadcast_to(np.arange(len(crops))[:, None, None], lower.shape)

    def shares(bins: np.ndarray, weights: np.ndarray, num_bins: int) -> np.ndarray:
        cells = (flat_rows * num_bins + bins % num_bins).ravel()
        return np.bincount(cells, weights.ravel(), len(crops) * num_bins).reshape(len(crops), num_bins)

    coloured = masks * chroma
    hues = shares(lower, coloured * (1 - upper_share), HUES) + shares(lower + 1, coloured * upper_share, HUES)
    greys = shares(np.minimum((high * LEVELS).astype(int), LEVELS - 1), masks * (1 - chroma), LEVELS)
    histogram = np.concatenate([hues, greys], 1)
    return np.sqrt(histogram / (histogram.sum(1, keepdims=True) + 1e-9))


def _cell_means(values: np.ndarray, cells: int) -> np.ndarray:
    """(N, cells, cells, C) means of (N, S, S, C)."""
    edge = SIDE // cells
    return values.reshape(len(values), cells, edge, cells, edge, -1).mean((2, 4))


def _gradient_histograms(grey: np.ndarray) -> np.ndarray:
    """(N, CELLS, CELLS, ORIENTATIONS) lengths of the gradients of each direction, square roots (HOG, Dalal 2005)."""
    down, right = np.gradient(grey, axis=(1, 2))
    length = np.hypot(down, right)
    direction = np.arctan2(down, right) / np.pi % 1 * ORIENTATIONS
    bins = np.floor(direction).astype(int) % ORIENTATIONS
    means = [_cell_means((length * (bins == bin_))[..., None], CELLS) for bin_ in range(ORIENTATIONS)]
    return np.sqrt(np.concatenate(means, 3))


def _spectrum(grey: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """(N, RINGS * RAYS) logarithms of the power at each grain and direction: what tells dots from stripes anywhere."""
    weight = masks.sum((1, 2), keepdims=True) + 1e-9
    centred = (grey - (grey * masks).sum((1, 2), keepdims=True) / weight) * masks
    power = np.abs(np.fft.rfft2(centred)) ** 2 / weight
    rows, columns = np.meshgrid(np.fft.fftfreq(SIDE), np.fft.rfftfreq(SIDE), indexing="ij")
    radius = np.hypot(rows, columns) * SIDE
    ring = np.floor(np.log2(np.maximum(radius, 1)) / np.log2(SIDE / 2) * RINGS).astype(int)
    ray = np.floor((np.arctan2(rows, columns) / np.pi + 0.5 + 0.5 / RAYS) * RAYS).astype(int) % RAYS
    cells = np.where(ring < RINGS, ring * RAYS + ray, RINGS * RAYS).ravel()
    sums = np.zeros((len(grey), RINGS * RAYS + 1))
    np.add.at(sums.T, cells, power.reshape(len(grey), -1).T)
    return np.log(sums[:, :-1] + 1e-3)

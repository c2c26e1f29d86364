"""Samples -> model inputs: packed rows for training, left-padded prompts for decoding."""

from collections.abc import Mapping, Sequence
from heapq import heapreplace
from typing import Any

import numpy as np
import torch

from src.blocks import Block, block_of, runs, starts
from src.prompt import Sample

WELL_FILLED = 0.985  # share of tokens in rows that were dealt out, above which no better packing is sought
ROUNDS = 6  # of dealing in which the longest sample goes to the emptiest row; the rest evens out by itself


class TrainingCollator:
    """Packs samples into rows and marks what is to be learnt.

    Samples are laid side by side in rows of at most `row_length` tokens (more, where one sample is longer). The mask
    keeps them apart and gives branches their shape, so that each token sees just what it would see in a sample of its
    own; it is told in a few numbers a sample, which `src.attention` reads.
    """

    def __init__(self, pad_token_id: int, mrope: bool, row_length: int = 256):
        """
        Args:
            row_length: 0: a batch is one row, for attention whose cost does not grow with the row, as on a CPU.
        """
        self.pad_token_id, self.mrope, self.row_length = pad_token_id, mrope, row_length

    def __call__(self, samples: Block | Sequence[Sample]) -> dict[str, Any]:
        """
        Returns, for R rows of W tokens of which P are followed by a token to learn:
            input_ids: (R, W) int64.
            position_ids: (R, W) int64, or (3, R, W) for M-RoPE.
            attention_mask: (1, 1, S, 2) int64, size and `visible` of each piece (see Block) in the order of the tokens;
                padding is a piece too.
            predict: (R, W) bool, True where the next token is to be learnt.
            labels: (P,) int64: those tokens, rows in order.
            task_ids: (P,) int64: the task that each belongs to.
            pixel_values and the like: as the model takes them, where there are pictures.
        """
        block = samples if isinstance(samples, Block) else block_of(samples)
        rows = pack(block.sizes, self.row_length)
        if rows.any():
            order = np.argsort(rows, kind="stable")
            rows, block = rows[order], block.take(order)
        loads = np.bincount(rows, block.sizes).astype(np.int64)
        shape = (len(loads), int(loads.max()))
        padding = shape[1] - loads
        begins = starts(block.sizes) + starts(padding)[rows]  # of the samples, in all rows laid end to end
        row_ends = np.bincount(rows, block.num_pieces).astype(np.int64).cumsum()
        sizes, visible = np.insert(block.piece_sizes, row_ends, padding), np.insert(block.visible, row_ends, 0)
        if not padding.all():  # an empty piece would be a sample to no one's use
            sizes, visible = sizes[sizes > 0], visible[sizes > 0]
        predict = np.zeros(shape, bool)
        predict.reshape(-1)[np.repeat(begins, block.num_targets) + block.predict] = True
        return {
            "input_ids": torch.from_numpy(self._ids(block, loads, shape)),
            "position_ids": torch.from_numpy(self._positions(block, loads, runs(visible, sizes).reshape(shape))),
            "attention_mask": torch.from_numpy(np.stack([sizes, visible], 1))[None, None],
            "predict": torch.from_numpy(predict),
            "labels": torch.from_numpy(block.targets),
            "task_ids": torch.from_numpy(np.repeat(block.tasks, block.num_targets)),
            **image_inputs([image for images in block.images for image in images]),
        }

    def _ids(self, block: Block, loads: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """(R, W): the tokens of each row, then padding."""
        ids = np.full(shape, self.pad_token_id)
        tokens, begin = block.source.take(runs(block.cut_begins, block.cut_sizes)), 0
        for row, load in zip(ids, loads.tolist(), strict=True):
            row[:load] = tokens[begin : begin + load]
            begin += load
        return ids

    def _positions(self, block: Block, loads: np.ndarray, plain: np.ndarray) -> np.ndarray:
        """(R, W), or (3, R, W) for M-RoPE: those of the samples' pictures over the plain ones."""
        if not self.mrope:
            return plain
        positions = np.tile(plain, (3, 1, 1))
        if block.positions is not None:
            for row, (end, load) in enumerate(zip(loads.cumsum().tolist(), loads.tolist(), strict=True)):
                positions[:, row, :load] = block.positions[:, end - load : end]
        return positions


class PromptCollator:
    """Pads prompts on the left for decoding, so that every prompt ends in the last column."""

    def __init__(self, pad_token_id: int, mrope: bool):
        self.pad_token_id, self.mrope = pad_token_id, mrope

    def __call__(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        """
        Returns, for B prompts of at most T tokens: input_ids (B, T), attention_mask (B, T) int64, position_ids (B, T)
        or (3, B, T), and the inputs of the pictures.
        """
        shape = (len(samples), max(len(sample.ids) for sample in samples))
        ids, mask = np.full(shape, self.pad_token_id, np.int64), np.zeros(shape, np.int64)
        positions = np.zeros((3, *shape), np.int64)
        for row, sample in enumerate(samples):
            ids[row, shape[1] - len(sample.ids) :] = sample.ids
            mask[row, shape[1] - len(sample.ids) :] = 1
            positions[:, row, shape[1] - len(sample.ids) :] = sample.positions
        return {
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.from_numpy(mask),
            "position_ids": torch.from_numpy(positions if self.mrope else positions[0]),
            **image_inputs([image for sample in samples for image in sample.images]),
        }


def pack(sizes: np.ndarray, row_length: int) -> np.ndarray:
    """The row of each sample: few rows, none longer than `row_length` or the longest sample, and all about as full.

    Args:
        sizes: (N,) tokens of the samples.
        row_length: 0: all in one row.
    """
    capacity = max(row_length or int(sizes.sum()), int(sizes.max()))
    num_rows = -(-int(sizes.sum()) // capacity)
    if num_rows == 1:
        return np.zeros(len(sizes), np.int64)
    rows = _deal(sizes, num_rows)
    fullest = np.bincount(rows, sizes).max()
    if fullest <= capacity and sizes.sum() >= WELL_FILLED * num_rows * fullest:
        return rows
    while True:
        rows = _to_the_emptiest(sizes, num_rows)
        if np.bincount(rows, sizes).max() <= capacity:
            return rows
        num_rows += 1 + num_rows // 20


def _deal(sizes: np.ndarray, num_rows: int) -> np.ndarray:
    """Deals samples to rows as one deals cards, each round of samples alike in size: fast, and even if sizes are."""
    order = np.argsort(sizes, kind="stable")
    rest = len(sizes) % num_rows
    rounds = order[rest:].reshape(-1, num_rows)
    rounds = rounds[np.argsort(sizes[rounds[:, 0]] - sizes[rounds[:, -1]], kind="stable")]  # most unlike first
    rows, loads = np.empty(len(sizes), np.int64), np.zeros(num_rows, np.int64)
    rows[order[:rest]], loads[:rest] = np.arange(rest), sizes[order[:rest]]
    for samples in rounds[:ROUNDS]:  # the longest to the emptiest row
        fullest_first = np.argsort(-loads, kind="stable")
        rows[samples] = fullest_first
        loads[fullest_first] += sizes[samples]
    others = rounds[ROUNDS:].copy()
    others[1::2] = others[1::2, ::-1]  # forth and back
    rows[others] = np.argsort(-loads, kind="stable")
    return rows


def _to_the_emptiest(sizes: np.ndarray, num_rows: int) -> np.ndarray:
    """Each sample to the row that is emptiest by then, longest first."""
    order = np.argsort(-sizes, kind="stable")
    rows, loads = [], [(0, row) for row in range(num_rows)]
    for size in sizes[order].tolist():
        load, row = loads[0]
        rows.append(row)
        heapreplace(loads, (load + size, row))
    result = np.empty(len(sizes), np.int64)
    result[order] = rows
    return result


def image_inputs(images: Sequence[Mapping[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    """Inputs of several pictures joined along the first dimension, those with fewer crops filled up with zeros."""
    joined = {}
    for name in images[0] if images else ():
        values = [image[name] for image in images]
        if values[0].ndim == 5:  # LLaVA-OneVision: (1, crops, 3, H, W)
            most = max(value.shape[1] for value in values)
            values = [np.pad(v, [(0, 0), (0, most - v.shape[1]), (0, 0), (0, 0), (0, 0)]) for v in values]
        joined[name] = torch.from_numpy(np.concatenate(values))
    return joined

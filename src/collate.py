"""Samples -> model inputs: packed rows for training, left-padded prompts for decoding."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from src.prompt import Sample

IGNORE = -100


class TrainingCollator:
    """Packs samples into rows and marks what is to be learnt.

    Samples are laid side by side in rows of `row_length` tokens (more, where one sample is longer), longest first into
    the first row with room. The attention mask keeps them apart and gives branches their shape, so that each token sees
    just what it would see in a sample of its own.
    """

    def __init__(self, pad_token_id: int, mrope: bool, row_length: int = 256):
        self.pad_token_id, self.mrope, self.row_length = pad_token_id, mrope, row_length

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """
        Returns, for R rows of W tokens of which P are followed by a token to learn:
            input_ids: (R, W) int64.
            position_ids: (R, W) int64, or (3, R, W) for M-RoPE.
            attention_mask: (R, 1, W, W) bool, True where a token sees another.
            predict: (R, W) bool, True where the next token is to be learnt.
            labels: (P,) int64: those tokens, rows in order.
            task_ids: (P,) int64: the task that each belongs to.
            pixel_values and the like: as the model takes them, where there are pictures.
        """
        rows = pack([len(sample.ids) for sample in samples], self.row_length)
        width = max(sum(len(samples[i].ids) for i in row) for row in rows)
        shape = (len(rows), width)
        ids = np.full(shape, self.pad_token_id, np.int64)
        positions = np.zeros((3, *shape), np.int64)
        begin, start, visible = (np.tile(np.arange(width), (len(rows), 1)) for _ in range(3))  # padding sees itself
        visible[:] = 0
        predict = np.zeros(shape, bool)
        labels, tasks, images = [], [], []
        for number, row in enumerate(rows):
            offset = 0
            for sample in (samples[i] for i in row):
                span = slice(offset, offset + len(sample.ids))
                ids[number, span] = sample.ids
                positions[:, number, span] = sample.positions
                begin[number, span] = offset
                start[number, span] = offset + sample.start
                visible[number, span] = offset + sample.visible
                predict[number, offset + sample.predict] = True
                order = np.argsort(sample.predict, kind="stable")
                labels.append(sample.targets[order])
                tasks.append(np.full(len(order), sample.task))
                images += sample.images
                offset += len(sample.ids)
        key = np.arange(width)
        sees = key >= start[..., None]
        sees |= (key >= begin[..., None]) & (key < visible[..., None])
        sees &= key <= key[:, None]
        return {
            "input_ids": torch.from_numpy(ids),
            "position_ids": torch.from_numpy(positions if self.mrope else positions[0]),
            "attention_mask": torch.from_numpy(sees)[:, None],
            "predict": torch.from_numpy(predict),
            "labels": torch.from_numpy(np.concatenate(labels)),
            "task_ids": torch.from_numpy(np.concatenate(tasks)),
            **image_inputs(images),
        }


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


def pack(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """First-fit decreasing: the positions that share a row of at most `row_length` (or of the longest length)."""
    capacity = max(row_length, max(lengths))
    rows: list[list[int]] = []
    room: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        row = next((number for number, left in enumerate(room) if left >= lengths[place]), None)
        if row is None:
            rows.append([])
            room.append(capacity)
            row = len(rows) - 1
        rows[row].append(place)
        room[row] -= lengths[place]
    return rows


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

"""One place for random numbers: generators are seeded here, and choices made that no generator's state may sway."""

import hashlib
import random

import numpy as np
import torch

FEISTEL_ROUNDS = 6


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_numbers(key: str, places: np.ndarray) -> np.ndarray:
    """(N,) int64 from 0 up: numbers that depend on `key` and `places[i]` alone, in whatever company they are drawn.

    SplitMix64 (Steele, Lea and Flood, 2014) at those places of the sequence that `key` starts.
    """
    start = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    state = (places.astype(np.uint64) + np.uint64(start)) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (state >> np.uint64(1)).astype(np.int64)


def shuffled(key: str, places: np.ndarray, total: int) -> np.ndarray:
    """(N,) int64: what stands at some places of `range(total)` in a random order that `key` gives.

    The whole order is never made, so it takes no memory. A Feistel network permutes the numbers of the fewest bits that
    hold `total`; what falls outside goes through it again until it falls inside (Black and Rogaway, 2002).
    """
    bits = max(2, (total - 1).bit_length())
    low = np.uint64(bits // 2)
    masks = np.uint64((1 << (bits - bits // 2)) - 1), np.uint64((1 << (bits // 2)) - 1)  # of the high and the low half
    order = np.asarray(places, np.int64).copy()
    outside = np.arange(len(order))
    while len(outside):
        numbers = order[outside].astype(np.uint64)
        high, rest = numbers >> low, numbers & masks[1]
        for step in range(FEISTEL_ROUNDS):  # the halves take turns, for they may differ in size
            if step % 2:
                rest ^= random_numbers(f"{key}/{step}", high).astype(np.uint64) & masks[1]
            else:
                high ^= random_numbers(f"{key}/{step}", rest).astype(np.uint64) & masks[0]
        order[outside] = ((high << low) | rest).astype(np.int64)
        outside = outside[order[outside] >= total]
    return order

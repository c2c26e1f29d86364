"""One place for random numbers: generators are seeded here, and choices made that no generator's state may sway."""

import hashlib
import random

import numpy as np
import torch


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

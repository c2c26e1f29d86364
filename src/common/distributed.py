"""Ranks: who am I, sharding without padding, gathering. Everything works without torchrun, as one rank of one."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:  # torch takes seconds to import, and logging needs ranks only
    import torch

T = TypeVar("T")


def rank() -> int:
    return int(os.environ.get("RANK", 0))


def local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", 0))


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def is_main() -> bool:
    return rank() == 0


def resolve_device(name: str = "auto") -> "torch.device":
    """`auto` is this rank's GPU where there is one, else the CPU; an explicit cuda without a GPU is an error."""
    import torch

    if name == "auto":
        name = f"cuda:{local_rank()}" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {name}: this machine has no usable GPU. Use --device cpu")
    return device


def init_process_group(device: "torch.device") -> None:
    """Joins the ranks that torchrun started; does nothing for one process."""
    import torch
    import torch.distributed as dist

    if world_size() > 1 and not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")


def shard(values: Sequence[T]) -> Sequence[T]:
    """This rank's part: every `world_size()`-th value. Nothing is padded, nothing dropped."""
    return values[rank() :: world_size()]


def gather(value: T) -> list[T]:
    """The value of every rank, in rank order, on every rank."""
    if world_size() == 1:
        return [value]
    import torch.distributed as dist

    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Waits for all ranks."""
    if world_size() > 1:
        import torch.distributed as dist

        dist.barrier()


def finish() -> None:
    """Leaves the process group."""
    if world_size() > 1:
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()

"""Ranks: who am I, sharding without padding, gathering. Everything works without torchrun, as one rank of one."""

import os
import re
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


def check_device_name(name: str) -> str:
    """`name`, which must be a way to write --device; says so before torch is there to ask."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise ValueError(f"there is no device {name!r}: choose auto, cpu, cuda or cuda:N")
    return name


def resolve_device(name: str = "auto") -> "torch.device":
    """`auto` and `cuda` are this rank's GPU; without one `auto` is the CPU. A GPU that is not there is an error."""
    import torch

    check_device_name(name)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not count):
        return torch.device("cpu")
    if not count:
        raise ValueError(f"--device {name}: this machine has no usable GPU. Use --device cpu")
    number = int(name.partition(":")[2] or local_rank())
    if number >= count:
        raise ValueError(f"--device {name}, rank {rank()}: GPU {number} is asked for, and there are {count}, from 0")
    return torch.device("cuda", number)


def init_process_group(device: "torch.device") -> None:
    """Joins the ranks that torchrun started; does nothing for one process."""
    import torch
    import torch.distributed as dist

    if world_size() > 1 and not dist.is_initialized():
        from src.common.machines import meet

        meet()
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

"""A GPU for machines without one: tensors that say `cuda:0`, compute on the CPU, and never mix with those of the CPU.

What is sent to a GPU too late, or made on the CPU and used beside what lies there, fails here as it would on a GPU; and
code that asks for the kind of a device takes the way of a GPU. Not shown: speed, memory, kernels, NCCL, and gradients,
since torch's engine asks the driver for a stream.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map
from transformers import PreTrainedModel

GPU = torch.device("cuda", 0)
READ = {
    Tensor.tolist, Tensor.item, Tensor.__int__, Tensor.__float__, Tensor.__bool__, Tensor.__index__, Tensor.__len__,
    Tensor.__format__,
}  # fmt: skip
MOVES = {"_to_copy", "copy_", "copy", "to", "type_as"}
is_loading = False  # transformers makes models on devices of its own, and they are moved afterwards


class OnGpu(Tensor):
    """`inner`, on the CPU, as it would be told of on a GPU."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "OnGpu":
        made = Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            layout=inner.layout, device=GPU,
        )  # fmt: skip
        made.inner = inner
        return made

    def __repr__(self, **_) -> str:
        return f"OnGpu({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return computed(func, args, kwargs or {})


def bare(value):
    """A tensor of the CPU for one of the GPU; the CPU for the GPU."""
    if isinstance(value, OnGpu):
        return value.inner
    return torch.device("cpu") if isinstance(value, torch.device) and value.type == "cuda" else value


def dressed(value):
    return OnGpu(value) if isinstance(value, Tensor) and not isinstance(value, OnGpu) else value


def computed(func, args, kwargs):
    """What an operation gives, on the device where a GPU's would lie.

    Raises:
        RuntimeError: tensors of both devices meet; a single number of the CPU may meet any.
    """
    if is_loading:
        return func(*args, **kwargs)
    flat = tree_flatten((args, kwargs))[0]
    tensors = [value for value in flat if isinstance(value, Tensor)]
    there = any(isinstance(value, OnGpu) for value in tensors)
    name = func.overloadpacket.__name__ if hasattr(func, "overloadpacket") else func.__name__
    if there and name not in MOVES and any(not isinstance(value, OnGpu) and value.dim() for value in tensors):
        raise RuntimeError(f"{func}: tensors on cuda:0 and on the cpu")
    result = func(*tree_map(bare, args), **tree_map(bare, kwargs))
    if result is None:
        return None  # a list of tensors was changed in its place
    if name.endswith("_") and not name.endswith("__"):
        return args[0]  # likewise
    asked = next((value for value in flat if isinstance(value, torch.device)), None)
    if asked is not None:
        there = asked.type == "cuda"
    elif name in MOVES:
        there = isinstance(tensors[-1], OnGpu)  # like another tensor
    return tree_map(dressed, result) if there else result


class Dispatching(TorchDispatchMode):
    """For operations that make tensors on the GPU of none that lie there."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return computed(func, args, kwargs or {})


class Calling(TorchFunctionMode):
    """For what asks the driver before it comes to an operation: indexing, reading, making."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if is_loading:
            return func(*args, **kwargs)
        first = args[0] if args else None
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            return self.indexed(func, *args)
        if isinstance(first, OnGpu) and func in READ:
            return func(first.inner, *args[1:])
        if isinstance(first, OnGpu) and func in (Tensor.numpy, Tensor.__array__):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
        device = kwargs.get("device")
        if device is not None and torch.device(device).type == "cuda" and not isinstance(first, Tensor):
            return OnGpu(func(*tree_map(bare, args), **{**kwargs, "device": "cpu"}))
        try:
            return func(*args, **kwargs)
        except RuntimeError as error:
            if "not linked with support for cuda" not in str(error):
                raise
        with _disable_current_modes():
            return computed(func, args, kwargs)

    @staticmethod
    def indexed(func, tensor, index, *value):
        if not isinstance(tensor, OnGpu):
            if any(isinstance(part, OnGpu) for part in tree_flatten((index, value))[0]):
                raise RuntimeError("a tensor on the cpu is indexed by, or given, one on cuda:0")
            return func(tensor, index, *value)
        if any(isinstance(part, Tensor) and not isinstance(part, OnGpu) and part.dim() for part in value):
            raise RuntimeError("a tensor on cuda:0 is given one on the cpu")
        with _disable_current_modes():
            return dressed(func(tensor.inner, tree_map(bare, index), *map(bare, value)))


@contextmanager
def pretended_gpu() -> Iterator[torch.device]:
    """One GPU is there, as far as anybody can see."""

    def load(cls, *args, **kwargs):
        global is_loading
        is_loading = True
        try:
            return loader(cls, *args, **kwargs)
        finally:
            is_loading = False

    def store(self, folder, **kwargs):
        keep(self, folder, state_dict=tree_map(bare, dict(self.state_dict())), **kwargs)

    def enter(self):
        self.grad_before = torch.is_grad_enabled()
        torch.set_grad_enabled(False)

    def leave(self, *_):
        torch.set_grad_enabled(self.grad_before)

    def load_on_gpu(*args, map_location=None, **kwargs):
        table = read(*args, map_location="cpu", **kwargs)
        there = map_location is not None and torch.device(map_location).type == "cuda"
        return tree_map(dressed, table) if there else table

    read, write, loader = torch.load, torch.save, PreTrainedModel.from_pretrained.__func__
    keep = PreTrainedModel.save_pretrained
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # a parameter's tensor cannot change its kind
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PreTrainedModel, "from_pretrained", classmethod(load))
        patch.setattr(PreTrainedModel, "save_pretrained", store)
        patch.setattr(torch.inference_mode, "__enter__", enter)  # its tensors cannot be dressed
        patch.setattr(torch.inference_mode, "__exit__", leave)
        patch.setattr(torch, "load", load_on_gpu)
        patch.setattr(torch, "save", lambda table, *args, **kwargs: write(tree_map(bare, table), *args, **kwargs))
        patch.setattr(torch.cuda, "is_available", lambda: not is_loading)
        for name, value in (("_lazy_init", None), ("device_count", 1), ("set_device", None)):
            patch.setattr(torch.cuda, name, lambda *_, value=value: value)
        patch.setattr(torch.cuda, "mem_get_info", lambda *_: (80 << 30, 80 << 30))
        patch.setattr(torch.cuda, "get_rng_state", lambda *_: torch.get_rng_state())
        try:
            with torch.no_grad(), Dispatching(), Calling():
                yield GPU
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(overwrites)

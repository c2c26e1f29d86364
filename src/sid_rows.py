"""The rows of SID tokens, which train while the rest of an embedding or head stays as it was.

PEFT's trainable tokens hold, save and load these rows. Their own forward writes the rows into a copy of the whole
matrix, so that every step makes that copy and a gradient of the same size: 0.9 GB each for 152k tokens of width 1,536.
Here the old matrix is used as it stands, and the rows take their places in what comes out.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import MethodType

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@contextmanager
def gathered(parameters: Iterable[nn.Parameter], change: bool = False) -> Iterator[None]:
    """Inside, parameters that ZeRO-3 has cut among the ranks are whole; a change of theirs by rank 0 is everybody's."""
    cut = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    if not cut:
        yield
        return
    from deepspeed.zero import GatheredParameters

    with GatheredParameters(cut, modifier_rank=0 if change else None):
        yield


def num_rows(table: nn.Parameter) -> int:
    """Rows of a matrix, also where ZeRO-3 has left this rank only a part of it."""
    return getattr(table, "ds_shape", table.shape)[0]


def prepare_token_layers() -> None:
    """Lets PEFT copy rows out of a matrix that ZeRO-3 has cut; its own way needs CUDA."""
    from peft.tuners.trainable_tokens.layer import TrainableTokensLayer

    def collect(self, weight: nn.Parameter, rows: list[int], width: int) -> Tensor:
        with gathered([weight]):
            return weight.detach()[rows].clone()

    TrainableTokensLayer._collect_token_weights = collect


def use_rows(model: nn.Module, vocabulary: int) -> None:
    """Gives the trainable rows of a PEFT model the forward of this module.

    Args:
        vocabulary: rows of the embeddings.
    """
    from peft.tuners.trainable_tokens.layer import TrainableTokensLayer

    for layer in [module for module in model.modules() if isinstance(module, TrainableTokensLayer)]:
        (ids,) = layer.token_indices.values()
        place = torch.full((vocabulary,), -1)
        place[ids] = torch.arange(len(ids))
        layer.register_buffer("sid_ids", torch.tensor(ids), persistent=False)
        layer.register_buffer("place", place, persistent=False)  # of each token among the rows; -1: it has none
        layer.forward = MethodType(_embed if isinstance(layer.base_layer, nn.Embedding) else _project, layer)


def _embed(layer: nn.Module, tokens: Tensor) -> Tensor:
    """Embeddings of tokens: of SID tokens their own rows, else those of the old matrix."""
    (rows,) = layer.trainable_tokens_delta.values()
    old, place = layer.base_layer(tokens), layer.place[tokens]
    return torch.where((place >= 0).unsqueeze(-1), F.embedding(place.clamp_min(0), rows).to(old), old)


def _project(layer: nn.Module, hidden: Tensor) -> Tensor:
    """Logits: of SID tokens by their own rows, else by the old matrix."""
    (rows,) = layer.trainable_tokens_delta.values()
    logits = layer.base_layer(hidden)
    return logits.index_copy(-1, layer.sid_ids, F.linear(hidden, rows.to(hidden)).to(logits))

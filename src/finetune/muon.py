"""Muon for the hidden matrices of a model and AdamW for everything else, as one optimizer.

Muon steps along the orthogonalised momentum of a matrix (Jordan et al., 2024,
https://kellerjordan.github.io/posts/muon). Its steps are scaled to the size of AdamW's (Liu et al., 2025,
https://arxiv.org/abs/2502.16982), so that one learning rate and one weight decay suit both.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from src.models import TOKEN_TABLES


class MuonAdamW(Optimizer):
    """Every trainable parameter of a model, each in the optimizer that suits it.

    Schedulers and gradient scalers see one optimizer, whose groups are those of its parts.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        decaying: Collection[str] = (),
    ):
        """
        Args:
            decaying: names of the parameters that decay; those of Muon all do.

        Raises:
            ValueError: this torch has no Muon, or nothing that trains is a hidden matrix.
        """
        if not hasattr(torch.optim, "Muon"):
            raise ValueError(f"torch {torch.__version__} has no Muon: install torch 2.9 or newer")
        matrices, rest = split_parameters(model)
        if not matrices:
            raise ValueError("nothing for Muon to train: only embeddings, norms or biases do. Use another --optim")
        groups = [
            {"params": [p for name, p in rest.items() if (name in decaying) == decays], "weight_decay": amount}
            for decays, amount in ((True, weight_decay), (False, 0.0))
        ]
        groups = [group for group in groups if group["params"]]
        self.parts: list[Optimizer] = [
            torch.optim.Muon(matrices.values(), lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        ]
        if groups:
            self.parts.append(AdamW(groups, lr=lr, betas=betas))
        super().__init__([{"params": group["params"]} for part in self.parts for group in part.param_groups], {})
        self._share_groups()

    def _share_groups(self) -> None:
        """A scheduler writes its learning rates into these very tables."""
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure=None):
        loss = closure() if closure is not None else None
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share_groups()


def split_parameters(model: nn.Module) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """What trains, by name: matrices from hidden states to hidden states, LoRA's too; and all the rest.

    The rest is embeddings, heads and rows of SID tokens, whose rows stand for tokens; norms, biases and convolutions.
    """
    tables = {id(p) for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    matrices: dict[str, nn.Parameter] = {}
    rest: dict[str, nn.Parameter] = {}
    for name, parameter in model.named_parameters():  # a tied matrix comes once
        if parameter.requires_grad:
            of_tokens = id(parameter) in tables or any(part in name for part in TOKEN_TABLES)
            (rest if parameter.ndim != 2 or of_tokens else matrices)[name] = parameter
    return matrices, rest

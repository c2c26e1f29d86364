"""SASRec: a causal transformer over item embeddings, whose dot products with all items are scores.

Reference: Kang and McAuley, 2018, https://arxiv.org/abs/1808.09781; with a softmax over all items as in Klenitskiy and
Vasilev, 2023, https://arxiv.org/abs/2309.07602, and with more than the next item as target in the manner of Pancha et
al., 2022, https://arxiv.org/abs/2205.04507. Shape letters: B users, T positions, D width, N items;
item 0 is padding, item j + 1 is column j of the catalogue.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

INIT_STD = 0.02
SCORES_AT_ONCE = (1 << 20, 1 << 27)  # scores of items at a time: on a CPU, on a GPU


class SASRec(nn.Module):
    def __init__(self, num_items: int, max_len: int, hidden_size: int, num_layers: int, num_heads: int, dropout: float):
        super().__init__()
        self.items = nn.Embedding(num_items + 1, hidden_size, padding_idx=0)
        self.positions = nn.Embedding(max_len, hidden_size)
        self.norm, self.dropout = nn.LayerNorm(hidden_size), nn.Dropout(dropout)
        layer = nn.TransformerEncoderLayer(
            hidden_size, num_heads, 4 * hidden_size, dropout, activation="gelu", batch_first=True
        )
        self.layers = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=INIT_STD)
        for parameter in (layer.self_attn.in_proj_weight for layer in self.layers.layers):
            nn.init.normal_(parameter, std=INIT_STD)
        with torch.no_grad():
            self.items.weight[0] = 0

    def forward(self, sequences: Tensor) -> Tensor:
        """(B, T, D) states after each of (B, T) items, which are padded with 0 on the right."""
        length = sequences.shape[1]
        states = self.items(sequences) + self.positions.weight[:length]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=sequences.device)
        return self.layers(self.dropout(self.norm(states)), mask=mask, is_causal=True)

    def scores(self, states: Tensor) -> Tensor:
        """(M, N) of (M, D) states."""
        return states @ self.items.weight[1:].t()

    def last(self, sequences: Tensor) -> Tensor:
        """(B, D) state after the last item of each sequence."""
        ends = (sequences > 0).sum(1) - 1
        return self(sequences)[torch.arange(len(sequences), device=sequences.device), ends]


class AllItemsLoss(torch.autograd.Function):
    """Cross-entropy over all items, with its gradients, in parts that fit into the cache: M x N scores never exist."""

    @staticmethod
    def forward(ctx, states: Tensor, weight: Tensor, targets: Tensor, shares: Tensor) -> Tensor:
        """(): mean over M; (M, D) states, (N, D) weight, (M, H) int64 targets from 0 and their shares, 1 a row."""
        num_rows = max(1, SCORES_AT_ONCE[states.device.type == "cuda"] // len(weight))
        state_gradients, weight_gradients = torch.empty_like(states), torch.zeros_like(weight)
        total = states.new_zeros(())
        buffer = states.new_empty(min(num_rows, len(states)), len(weight))
        parts = zip(*(whole.split(num_rows) for whole in (states, targets, shares, state_gradients)), strict=True)
        for rows, right, share, gradients in parts:
            scores = torch.mm(rows, weight.t(), out=buffer[: len(rows)])
            scores -= scores.amax(1, keepdim=True)
            own = (scores.gather(1, right) * share).sum(1, keepdim=True)
            sums = scores.exp_().sum(1, keepdim=True)
            total += (sums.log() - own).sum()
            scores /= sums
            scores.scatter_add_(1, right, -share)
            torch.mm(scores, weight, out=gradients)
            weight_gradients.addmm_(scores.t(), rows)
        ctx.save_for_backward(state_gradients, weight_gradients)
        return total / len(states)

    @staticmethod
    def backward(ctx, upstream: Tensor) -> tuple[Tensor, Tensor, None, None]:
        state_gradients, weight_gradients = ctx.saved_tensors
        factor = upstream / len(state_gradients)
        return state_gradients * factor, weight_gradients * factor, None, None


def upcoming(sequences: Tensor, horizon: int) -> tuple[Tensor, Tensor]:
    """Targets of each position but the last: the items that come after it, the nearer the more.

    Args:
        sequences: (B, T + 1) items, padded with 0 on the right.
        horizon: H, how many of them.

    Returns:
        (B, T, H) items, 0 where there is none, and their float32 shares, each half of the one before, 1 together.
    """
    items = functional.pad(sequences[:, 1:], (0, horizon - 1)).unfold(1, horizon, 1)
    shares = (items > 0) * 0.5 ** torch.arange(horizon, device=items.device)
    return items, shares / shares.sum(2, keepdim=True).clamp(min=1e-9)


def softmax_loss(model: SASRec, states: Tensor, targets: Tensor, shares: Tensor) -> Tensor:
    """(): cross-entropy over all items; (M, D) states, (M, H) targets from 1, 0 where there is none, and shares."""
    return AllItemsLoss.apply(states, model.items.weight[1:], (targets - 1).clamp(min=0), shares)


def binary_loss(model: SASRec, states: Tensor, targets: Tensor, shares: Tensor) -> Tensor:
    """(): each target against an item drawn at random from all; the paper leaves the user's own items out."""
    others = torch.randint(1, len(model.items.weight), targets.shape, device=targets.device)
    right, wrong = (torch.einsum("md,mhd->mh", states, model.items(items)) for items in (targets, others))
    losses = functional.softplus(-right) + functional.softplus(wrong)
    return (losses * shares).sum(1).mean()


LOSSES = {"ce": softmax_loss, "bce": binary_loss}

"""SASRec: a causal transformer over item embeddings, whose dot products with all items are scores.

Reference: Kang and McAuley, 2018, https://arxiv.org/abs/1808.09781; with a softmax over all items as in Klenitskiy and
Vasilev, 2023, https://arxiv.org/abs/2309.07602. Shape letters: B users, T positions, D width, N items;
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
    def forward(ctx, states: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        """(): mean over M; (M, D) states, (N, D) weight, (M,) int64 targets from 0."""
        num_rows = max(1, SCORES_AT_ONCE[states.device.type == "cuda"] // len(weight))
        state_gradients, weight_gradients = torch.empty_like(states), torch.zeros_like(weight)
        total = states.new_zeros(())
        buffer = states.new_empty(min(num_rows, len(states)), len(weight))
        parts = zip(*(whole.split(num_rows) for whole in (states, targets, state_gradients)), strict=True)
        for rows, right, gradients in parts:
            scores = torch.mm(rows, weight.t(), out=buffer[: len(rows)])
            scores -= scores.amax(1, keepdim=True)
            own = scores.gather(1, right[:, None])
            sums = scores.exp_().sum(1, keepdim=True)
            total += (sums.log() - own).sum()
            scores /= sums
            scores.scatter_add_(1, right[:, None], torch.full_like(own, -1.0))
            torch.mm(scores, weight, out=gradients)
            weight_gradients.addmm_(scores.t(), rows)
        ctx.save_for_backward(state_gradients, weight_gradients)
        return total / len(states)

    @staticmethod
    def backward(ctx, upstream: Tensor) -> tuple[Tensor, Tensor, None]:
        state_gradients, weight_gradients = ctx.saved_tensors
        factor = upstream / len(state_gradients)
        return state_gradients * factor, weight_gradients * factor, None


def softmax_loss(model: SASRec, states: Tensor, targets: Tensor) -> Tensor:
    """(): cross-entropy of the right one of all items; (M, D) states, (M,) targets from 1."""
    return AllItemsLoss.apply(states, model.items.weight[1:], targets - 1)


def binary_loss(model: SASRec, states: Tensor, targets: Tensor) -> Tensor:
    """(): the right item against one drawn at random from all; the paper leaves the user's own items out."""
    others = torch.randint(1, len(model.items.weight), targets.shape, device=targets.device)
    right, wrong = ((states * model.items(items)).sum(1) for items in (targets, others))
    loss = functional.binary_cross_entropy_with_logits
    return loss(right, torch.ones_like(right)) + loss(wrong, torch.zeros_like(wrong))


LOSSES = {"ce": softmax_loss, "bce": binary_loss}

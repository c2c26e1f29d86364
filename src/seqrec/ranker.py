"""What every evaluated model has in common: the trie of its catalogue, the search, and items from SIDs."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from src.decoding import beam_search, best_of, score_all
from src.seqrec.config import EvaluateConfig
from src.seqrec.metrics import list_length
from src.seqrec.ranking import items_of_leaves
from src.seqrec.results import Ranked
from src.tasks.catalogue import Catalogue
from src.tasks.task import Template
from src.trie import Trie


class Ranker(ABC):
    """A model that writes SIDs; subclasses put questions into its tokens.

    Attributes:
        name: of the model, for results.
        settings: what else results should say of it.
        num_tokens: whose mean log-probability a score is.
        sharing: (largest item id + 1,) how many items have the SID of each.
    """

    name: str
    settings: Mapping[str, Any] = {}

    def __init__(
        self, config: EvaluateConfig, catalogue: Catalogue, model: nn.Module, sids: np.ndarray, end_token: int,
        device: torch.device,
    ):  # fmt: skip
        """`sids`: (N, L) tokens of each of `catalogue.item_ids`."""
        self.config, self.catalogue, self.device = config, catalogue, device
        self.model, self.sids, self.end_token = model, sids, end_token
        self.list_length = list_length(config.num_beams, len(catalogue.item_ids), config.metrics)
        # Rows by popularity in training, then by id: so stand the items that share a SID.
        items = catalogue.item_ids
        self.row_order = np.lexsort((items, -catalogue.popularity[items]))
        self.place_of = np.argsort(self.row_order)
        self.trie = Trie(sids[self.row_order], device)
        self.num_tokens = self.trie.num_levels + 1
        index = catalogue.index
        numbers = index.sid_numbers()[index.rows_of(items)]
        self.sharing = np.ones(int(items[-1]) + 1, np.int64)
        self.sharing[items] = np.bincount(numbers)[numbers]

    @abstractmethod
    def rank(
        self,
        template: Template,
        histories: Sequence[np.ndarray],
        items: Sequence[int] | np.ndarray,
        texts: Sequence[int] | np.ndarray | None = None,
    ) -> Ranked:
        """Ranked items for one batch of questions.

        Args:
            template: the wording, for models that read words.
            items: fill slots such as {title}, and never the answer.
            texts: row of the query that each question is about, where the wording has one.
        """

    def search(self, inputs: Mapping[str, Tensor], histories: Sequence[np.ndarray]) -> Ranked:
        """Ranked items after encoded questions, without the histories where these are to be left out."""
        left_out = None
        if self.config.filter_history:
            ids = self.catalogue.item_ids
            left_out = [self.place_of[np.searchsorted(ids, np.asarray(part, np.int64))] for part in histories]
        search = (self.model, inputs, self.trie)
        options = (self.end_token, left_out, self.config.legal_softmax)
        if self.config.exact:
            found = best_of(score_all(*search, *options), self.list_length)
        else:
            found = beam_search(*search, self.list_length, *options)
        rows, scores = items_of_leaves(
            found.leaves.cpu().numpy(), found.scores.float().cpu().numpy(), self.trie, self.list_length, left_out
        )
        return Ranked(np.where(rows >= 0, self.catalogue.item_ids[self.row_order[rows]], -1), scores)


def load_ranker(config: EvaluateConfig, catalogue: Catalogue, device: torch.device) -> Ranker:
    """The model of `config.ckpt_model`: fine-tuned, or a TIGER."""
    from src.baselines.tiger import is_tiger

    if is_tiger(config.ckpt_model):
        from src.baselines.tiger_model import load_tiger

        return load_tiger(config, catalogue, device)
    from src.seqrec.recommender import Recommender

    return Recommender(config, catalogue, device)

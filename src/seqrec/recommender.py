"""A fine-tuned model that ranks the items of a catalogue."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from src.collate import PromptCollator, TrainingCollator
from src.common.log import logger
from src.decoding import Trie, beam_search
from src.models import AnswerRows, Loaded, load_finetuned
from src.prompt import PromptBuilder, PromptSettings, checkpoint_settings
from src.seqrec.config import EvaluateConfig
from src.seqrec.metrics import list_length
from src.seqrec.results import Ranked
from src.tasks.catalogue import Catalogue
from src.tasks.task import Template


class Recommender:
    """A fine-tuned model with the trie of its catalogue: ranks items for any questions about it."""

    def __init__(self, config: EvaluateConfig, catalogue: Catalogue, device: torch.device):
        self.config, self.catalogue, self.device = config, catalogue, device
        self.list_length = list_length(config.num_beams, len(catalogue.item_ids), config.metrics)
        dtype = torch.bfloat16 if config.bf16 else torch.float32
        self.loaded: Loaded = load_finetuned(config.ckpt_model, config.base_model, config.lora, dtype)
        self.loaded.model.to(device).eval()
        self.answer_rows = AnswerRows(self.loaded.model)
        settings = training_settings(config)
        self.builder = PromptBuilder(
            catalogue, self.loaded.tokenizer, self.loaded.processor, settings, self.loaded.merge_size
        )
        self.collate = PromptCollator(self.loaded.tokenizer.pad_token_id, self.loaded.family.mrope)
        self.trie = Trie(self.builder.sids, device)
        self.items_of_leaf = self._items_of_leaf()

    def _items_of_leaf(self) -> list[np.ndarray]:
        """Items of each SID; those that share one stand by popularity in training, then by id."""
        leaves = self.trie.nodes[-1]
        items = self.catalogue.item_ids
        order = np.lexsort((items, -self.catalogue.popularity[items], leaves))
        return np.split(items[order], np.flatnonzero(np.diff(leaves[order])) + 1)

    def rank(
        self,
        template: Template,
        histories: Sequence[np.ndarray],
        items: Sequence[int],
        texts: Sequence[int] | None = None,
    ) -> Ranked:
        """Ranked items for one batch of questions.

        Args:
            items: fill slots such as {title}, and never the answer.
            texts: row of the query that each question is about, where the wording has one.
        """
        beams = self.list_length
        reserve = self.trie.num_levels + 1
        texts = [-1] * len(items) if texts is None else texts
        questions = [
            self.builder.question(template, history, int(item), reserve, int(text))
            for history, item, text in zip(histories, items, texts, strict=True)
        ]
        inputs = {name: value.to(self.device) for name, value in self.collate(questions).items()}
        left_out = None
        if self.config.filter_history:
            left_out = [self.builder.row_of[np.asarray(history, np.int64)] for history in histories]
        found = beam_search(
            self.loaded.model, inputs, self.trie, beams, self.builder.end_token, left_out, self.config.legal_softmax
        )
        ranked = np.full((len(questions), beams), -1, np.int64)
        scores = np.full((len(questions), beams), -np.inf, np.float32)
        leaves, leaf_scores = found.leaves.cpu().numpy(), found.scores.float().cpu().numpy()
        for row, history in enumerate(histories):
            place = 0
            for leaf, score in zip(leaves[row], leaf_scores[row], strict=True):
                members = self.items_of_leaf[leaf] if leaf >= 0 else ()
                if self.config.filter_history and len(members):
                    members = members[~np.isin(members, history)]
                taken = members[: beams - place]
                ranked[row, place : place + len(taken)] = taken
                scores[row, place : place + len(taken)] = score
                place += len(taken)
        return Ranked(ranked, scores)

    def use_pictures(self, files: dict[int, Path]) -> None:
        """Shows other picture files from now on."""
        self.catalogue = replace(self.catalogue, image_files=files)
        self.builder = self.builder.with_catalogue(self.catalogue)

    @torch.inference_mode()
    def answer_losses(self, template: Template, items: Sequence[int]) -> np.ndarray:
        """(M,) cross-entropy of the right answer to a question about each item, per token."""
        samples = [self.builder.sample(template, (), int(item), task) for task, item in enumerate(items)]
        batch = TrainingCollator(self.loaded.tokenizer.pad_token_id, self.loaded.family.mrope)(samples)
        batch = {name: value.to(self.device) for name, value in batch.items()}
        labels, rows, owner = batch.pop("labels"), batch.pop("predict"), batch.pop("task_ids")
        logits = self.answer_rows.logits(self.loaded.model, rows, **batch)
        losses = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")
        total = torch.zeros(len(samples), device=self.device).index_add_(0, owner, losses)
        return (total / torch.bincount(owner, minlength=len(samples))).cpu().numpy()


def training_settings(config: EvaluateConfig) -> PromptSettings:
    """The settings of the checkpoint's prompts, from its run.json; --max_his_len alone may differ, which is said."""
    settings = checkpoint_settings(config.ckpt_model, config.prompt_lang)
    if config.max_his_len is not None and config.max_his_len != settings.max_his_len:
        logger.info("--max_his_len %d instead of the checkpoint's %d", config.max_his_len, settings.max_his_len)
        settings = PromptSettings(**{**vars(settings), "max_his_len": config.max_his_len})
    return settings

"""A fine-tuned model that ranks the items of a catalogue."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from src.collate import PromptCollator, TrainingCollator
from src.common.log import logger
from src.models import AnswerRows, Loaded, load_finetuned
from src.prompt import PromptBuilder
from src.prompt_settings import PromptSettings, checkpoint_settings
from src.seqrec.config import EvaluateConfig
from src.seqrec.ranker import Ranker
from src.seqrec.results import Ranked
from src.tasks.catalogue import Catalogue
from src.tasks.task import Template


class Recommender(Ranker):
    """A fine-tuned model: ranks items for any questions about its catalogue, in its wordings."""

    def __init__(self, config: EvaluateConfig, catalogue: Catalogue, device: torch.device):
        dtype = torch.bfloat16 if config.bf16 else torch.float32
        self.loaded: Loaded = load_finetuned(config.ckpt_model, config.base_model, config.lora, dtype)
        self.loaded.model.to(device).eval()
        self.answer_rows = AnswerRows(self.loaded.model)
        settings = training_settings(config)
        self.builder = PromptBuilder(
            catalogue, self.loaded.tokenizer, self.loaded.processor, settings, self.loaded.merge_size
        )
        self.collate = PromptCollator(self.loaded.tokenizer.pad_token_id, self.loaded.family.mrope)
        self.name = self.loaded.model.config.model_type
        super().__init__(config, catalogue, self.loaded.model, self.builder.sids, self.builder.end_token, device)

    def rank(
        self,
        template: Template,
        histories: Sequence[np.ndarray],
        items: Sequence[int] | np.ndarray,
        texts: Sequence[int] | np.ndarray | None = None,
    ) -> Ranked:
        reserve = self.trie.num_levels + 1
        texts = [-1] * len(items) if texts is None else texts
        questions = [
            self.builder.question(template, history, int(item), reserve, int(text))
            for history, item, text in zip(histories, items, texts, strict=True)
        ]
        return self.search({name: value.to(self.device) for name, value in self.collate(questions).items()}, histories)

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

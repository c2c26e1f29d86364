"""A trained TIGER: its prompts, its folder, and how it is evaluated as every other model is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

from src.baselines.tiger import TIGER_FILE, TIGER_RECORD, TigerConfig
from src.common.artifacts import TOKEN_META, file_hash, read_json, share_weights, write_json
from src.common.record import write_record
from src.common.sid import SidIndex
from src.seqrec.config import EvaluateConfig
from src.seqrec.ranker import Ranker
from src.seqrec.results import Ranked
from src.tasks.catalogue import Catalogue
from src.tasks.task import Template

PAD, END, FIRST_TOKEN = 0, 1, 2


def vocabulary_size(index: SidIndex) -> int:
    return int(FIRST_TOKEN + sum(index.codebook_sizes))


def new_model(config: TigerConfig, index: SidIndex) -> T5ForConditionalGeneration:
    """Random weights."""
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=vocabulary_size(index), d_model=config.hidden_size, d_kv=config.head_size,
            d_ff=config.intermediate_size, num_layers=config.num_layers, num_heads=config.num_heads,
            dropout_rate=config.dropout, decoder_start_token_id=PAD, pad_token_id=PAD, eos_token_id=END,
        )
    )  # fmt: skip


class Tiger(Ranker):
    """A T5 over the tokens of SIDs. Its questions are histories; it reads no words."""

    name = "tiger"

    def __init__(
        self, config: EvaluateConfig, catalogue: Catalogue, model: T5ForConditionalGeneration, max_his_len: int,
        device: torch.device,
    ):  # fmt: skip
        index = catalogue.index
        starts = FIRST_TOKEN + np.cumsum([0, *index.codebook_sizes[:-1]])
        self.max_his_len = max_his_len
        super().__init__(config, catalogue, model, index.codes[index.rows_of(catalogue.item_ids)] + starts, END, device)

    def rank(
        self,
        template: Template | None,
        histories: Sequence[np.ndarray],
        items: Sequence[int] | np.ndarray = (),
        texts: Sequence[int] | np.ndarray | None = None,
    ) -> Ranked:
        kept = [np.asarray(part, np.int64)[-self.max_his_len :] for part in histories]
        columns = np.full((len(kept), max(map(len, kept))), -1, np.int64)
        for row, part in zip(columns, kept, strict=True):
            row[: len(part)] = np.searchsorted(self.catalogue.item_ids, part)
        return self.search(self.questions(columns), histories)

    def questions(self, columns: np.ndarray) -> dict[str, Tensor]:
        """Inputs of the encoder: SIDs of (B, T) columns of the catalogue and an end, padded on the right as they are
        with -1."""
        tokens = np.where(columns[..., None] >= 0, self.sids[columns], PAD).reshape(len(columns), -1)
        tokens = np.pad(tokens, ((0, 0), (0, 1)), constant_values=PAD)
        tokens[np.arange(len(columns)), (columns >= 0).sum(1) * self.sids.shape[1]] = END
        ids = torch.from_numpy(tokens).to(self.device)
        return {"input_ids": ids, "attention_mask": (ids != PAD).long()}

    def answers(self, items: np.ndarray) -> Tensor:
        """(B, L + 1): SIDs of (B,) item ids, and the end."""
        sids = self.sids[np.searchsorted(self.catalogue.item_ids, items)]
        return torch.from_numpy(np.pad(sids, ((0, 0), (0, 1)), constant_values=END)).to(self.device)


def save_tiger(folder: Path, tiger: Tiger, settings: dict[str, Any], record: dict[str, Any]) -> None:
    """What `load_tiger` and `--ckpt_model` take; tiger.json comes last, so a folder that has it is whole.

    Args:
        record: of the run that trained it.
    """
    (folder / TIGER_FILE).unlink(missing_ok=True)
    tiger.model.save_pretrained(folder)
    share_weights(folder)
    index = tiger.catalogue.index
    meta = {"index_sha256": file_hash(index.file), "codebook_sizes": list(index.codebook_sizes)}
    write_json(folder / TOKEN_META, meta)
    write_json(folder / TIGER_FILE, {"max_his_len": tiger.max_his_len, "settings": settings})
    write_record(folder / TIGER_RECORD, {"artefact": "TIGER", **record}, {"model": folder})


def load_tiger(config: EvaluateConfig, catalogue: Catalogue, device: torch.device) -> Tiger:
    """The model that `save_tiger` wrote, for the index that it was trained with."""
    saved = read_json(config.ckpt_model / TIGER_FILE)
    model = T5ForConditionalGeneration.from_pretrained(
        config.ckpt_model, dtype=torch.bfloat16 if config.bf16 else torch.float32
    )
    max_his_len = saved["max_his_len"] if config.max_his_len is None else config.max_his_len
    tiger = Tiger(config, catalogue, model.to(device).eval(), max_his_len, device)
    tiger.settings = saved["settings"]
    return tiger

"""Models of every family: loading, SID tokens, LoRA, saving."""

import re
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from src.common import artifacts
from src.common.codebooks import load_codebooks
from src.common.log import logger
from src.common.record import run_record, write_record
from src.common.sid import SidIndex
from src.families import Family, check_base_model, check_finetuned, family_of_config
from src.processors import load_processor
from src.sid_rows import gathered, num_rows, prepare_token_layers, use_rows

ATTENTION = "sdpa"  # takes our boolean masks of any shape; eager attention would add them to the scores as numbers
TOKEN_TABLES = ("embed_tokens", "lm_head", "trainable_tokens")  # in names of parameters whose rows stand for tokens
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Loaded(NamedTuple):
    model: nn.Module
    tokenizer: Any
    processor: Any | None  # of a VLM
    family: Family

    @property
    def merge_size(self) -> int | None:
        """Patches of a side that become one image token, where positions are M-RoPE."""
        return self.model.config.vision_config.spatial_merge_size if self.family.mrope else None


def quiet_libraries() -> None:
    """One voice: GRec's. Libraries speak of errors only, and draw no bars for what takes a moment."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*deprecated", category=FutureWarning)


def load_model(path: str | Path, dtype: torch.dtype, model_type: str | None = None, weights: bool = True) -> Loaded:
    """A model with its tokenizer and processor.

    Args:
        path: folder or hub name of weights in the Hugging Face layout.
        model_type: the family that it must be of; None: any.
        weights: False gives the shapes only, on the `meta` device.

    Raises:
        FileNotFoundError: `path` is no folder with a model, and the hub does not give one either.
        ValueError: it is of another family than `model_type` says, or of none that GRec knows.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    quiet_libraries()
    check_base_model(path, model_type)
    try:
        config = AutoConfig.from_pretrained(path)
    except OSError as error:
        raise FileNotFoundError(
            f"there is no model at {path}, neither as a folder nor on a hub that can be reached"
            f" ({str(error).splitlines()[0]}). Give a folder with weights, or make a tiny model with"
            f" python3 scripts/make_tiny_model.py"
        ) from error
    family = family_of_config(path, config.model_type, model_type)
    auto = AutoModelForImageTextToText if family.vision else AutoModelForCausalLM
    if weights:
        model = auto.from_pretrained(path, dtype=dtype, attn_implementation=ATTENTION)
        if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
            # Under ZeRO-3 transformers notes one change of names too many: a VLM would be saved as model.model.layers.
            vars(model).pop("_weight_conversions", None)
    else:
        with torch.device("meta"):
            model = auto.from_config(config, dtype=dtype, attn_implementation=ATTENTION)
    processor = load_processor(path)
    tokenizer = processor.tokenizer if family.vision else processor
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return Loaded(model, tokenizer, processor if family.vision else None, family)


def load_captioner(path: str | Path, dtype: torch.dtype) -> tuple[nn.Module, Any]:
    """BLIP-2 or InstructBLIP from a folder, with the processor that is its own."""
    from transformers import AutoModelForImageTextToText

    quiet_libraries()
    processor = load_processor(path)
    if processor.tokenizer.pad_token_id is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    return AutoModelForImageTextToText.from_pretrained(path, dtype=dtype), processor


# ---- SID tokens ------------------------------------------------------------------------------------------------------
def add_sid_tokens(loaded: Loaded, tokens: Sequence[str]) -> list[int]:
    """Adds SID tokens to the tokenizer and rows to the model; gives their ids. Tokens already there stay as they are.

    Rows are added only where the model has none to spare: published models pad their vocabulary, and a row beyond the
    tokenizer's last token is as free as a new one.
    """
    from tokenizers import AddedToken

    loaded.tokenizer.add_tokens([AddedToken(token, normalized=False) for token in tokens])
    ids = loaded.tokenizer.convert_tokens_to_ids(list(tokens))
    if max(ids) >= num_rows(loaded.model.get_input_embeddings().weight):
        loaded.model.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
    return ids


@torch.no_grad()
def init_sid_rows(
    loaded: Loaded, ids: Sequence[int], index: SidIndex, how: str, texts: dict[int, str] | None = None, seed: int = 42
) -> str:
    """Gives the rows of SID tokens a start, in the input embeddings and in an untied head alike.

    Args:
        how: `random` (the spread of the other rows around their mean), `centroid` (the codebooks' geometry through a
            seeded random projection, same spread), `text` (mean of the old rows of the words of the member items), or
            `auto`: centroid if the index has codebooks beside it, else text if items have texts, else random.
        texts: text of each item id, for `text`.

    Returns:
        the way that was taken.
    """
    with gathered(_tables(loaded.model), change=True):
        return _init_sid_rows(loaded, ids, index, how, texts or {}, seed)


def _init_sid_rows(
    loaded: Loaded, ids: Sequence[int], index: SidIndex, how: str, texts: dict[int, str], seed: int
) -> str:
    books = _codebooks(index)
    if how == "auto":
        how = "centroid" if books else "text" if any(texts.values()) else "random"
    if how == "centroid" and not books:
        raise ValueError(f"--sid_init centroid needs the codebooks beside {index.path}: make the index with this GRec")
    generator = torch.Generator().manual_seed(seed)
    new = torch.tensor(ids)
    tables = _tables(loaded.model)
    old = torch.ones(len(tables[0]), dtype=torch.bool)
    old[new] = False
    old[len(loaded.tokenizer) :] = False
    base = tables[0][old.to(tables[0].device)].float().cpu()
    noise = torch.randn(len(ids), base.shape[1], generator=generator)
    if how == "centroid":
        noise = torch.cat([_projected(book, base.shape[1], generator) for book in books])
    rows = base.mean(0) + noise * base.std(0)
    if how == "text":
        rows = _mean_of_words(loaded, index, texts, tables[0], rows)
    for table in tables:
        table[new.to(table.device)] = rows.to(table)
    return how


def _tables(model: nn.Module) -> list[nn.Parameter]:
    """The input embeddings, and the head where it is a matrix of its own."""
    modules = (model.get_input_embeddings(), model.get_output_embeddings())
    return list({id(module.weight): module.weight for module in modules}.values())


def _codebooks(index: SidIndex) -> list[Tensor]:
    """The codebooks beside an index, if they cover its grid."""
    books = [torch.from_numpy(book) for book in load_codebooks(index)]
    return books if len(books) == index.num_levels else []


def _projected(book: Tensor, width: int, generator: torch.Generator) -> Tensor:
    """Codewords in `width` dimensions with unit spread, their distances kept on average; a level has its own centre."""
    book = book.float() - book.float().mean(0)
    book = book / book.std().clamp_min(1e-8)
    projection = torch.randn(book.shape[1], width, generator=generator) / book.shape[1] ** 0.5
    centre = torch.randn(1, width, generator=generator)
    return (book @ projection + centre) / 2**0.5


def _mean_of_words(loaded: Loaded, index: SidIndex, texts: dict[int, str], table: Tensor, fallback: Tensor) -> Tensor:
    """Row of each SID token: mean of the embeddings of its items' words; `fallback` where a code has no item."""
    words = loaded.tokenizer([texts.get(int(item), "") for item in index.item_ids], add_special_tokens=False)[
        "input_ids"
    ]
    means = torch.stack(
        [table[torch.tensor(w, device=table.device)].float().mean(0).cpu() if w else fallback.mean(0) for w in words]
    )
    rows = fallback.clone()
    tokens = torch.from_numpy(index.codes + index.level_offsets)
    for level in range(index.num_levels):
        total = torch.zeros_like(fallback).index_add_(0, tokens[:, level], means)
        count = torch.bincount(tokens[:, level], minlength=len(fallback)).unsqueeze(1)
        rows = torch.where(count > 0, total / count.clamp_min(1), rows)
    return rows + 0.02 * fallback.std() * torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))


# ---- what trains -----------------------------------------------------------------------------------------------------
def add_lora(
    loaded: Loaded,
    sid_ids: Sequence[int],
    rank: int,
    alpha: int,
    dropout: float,
    targets: Sequence[str] = LORA_TARGETS,
    modules_to_save: Sequence[str] = (),
    one_dtype: bool = False,
) -> nn.Module:
    """The model with LoRA on the language model's linear layers, and trainable SID rows.

    Without `modules_to_save` just the new rows of the embeddings (and of an untied head) train, and are all that the
    adapter holds of them (https://arxiv.org/abs/2106.09685; PEFT's trainable tokens). With `embed_tokens,lm_head` those
    matrices train as a whole. A tied head stays tied.

    Args:
        sid_ids: tokens whose rows train; none where no token is new.
        one_dtype: what trains has the dtype of the model, not float32, as engines that cut parameters need it.
    """
    from peft import LoraConfig, get_peft_model

    visual = "|".join(loaded.family.visual_modules)
    outside = rf"(?!.*\b({visual})\b)" if visual else ""
    pattern = rf"{outside}(.*\.)?({'|'.join(map(re.escape, targets))})"
    modules = dict(loaded.model.named_modules())
    layers = [path for path, module in modules.items() if isinstance(module, nn.Linear) and re.match(outside, path)]
    _check_names("lora_target_modules", targets, layers)
    _check_names("lora_modules_to_save", modules_to_save, list(modules))
    tied = bool(getattr(loaded.model.config, "tie_word_embeddings", False))
    extra: dict[str, Any] = {}
    if modules_to_save:
        extra["modules_to_save"] = list(modules_to_save)
        extra["ensure_weight_tying"] = tied
    elif sid_ids:
        extra["trainable_token_indices"] = {"embed_tokens": list(sid_ids)}
        if not tied:
            extra["trainable_token_indices"]["lm_head"] = list(sid_ids)
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=pattern, **extra)
    prepare_token_layers()
    vocabulary = num_rows(loaded.model.get_input_embeddings().weight)
    model = get_peft_model(loaded.model, config, autocast_adapter_dtype=not one_dtype)
    use_rows(model, vocabulary)
    # By itself PEFT writes the whole embeddings of a resized text model, twice, into every checkpoint.
    model.save_pretrained = partial(model.save_pretrained, save_embedding_layers=False)
    return model


def _check_names(flag: str, names: Sequence[str], paths: Sequence[str]) -> None:
    """Each name that a flag gives must end a path of the model: PEFT is content if any does, or even none."""
    for name in names:
        if not any(f".{path}".endswith(f".{name}") for path in paths):
            last = {path.rpartition(".")[2] for path in paths}
            there = ", ".join(sorted(part for part in last if part.isidentifier()))
            raise ValueError(f"--{flag} {name} fits nothing in this model, which has {there}")


FREEZE = ("none", "visual", "embeddings", "all", "only_embeddings")


def freeze(loaded: Loaded, what: str, sid_ids: Sequence[int]) -> None:
    """Stops parts of a model from training (`--freeze`, full fine-tuning).

    Args:
        what: `visual` the vision tower; `embeddings` the old token rows, so that only SID rows train among them; `all`
            both; `only_embeddings` everything but the SID rows.
    """
    for name, parameter in loaded.model.named_parameters():
        visual = any(part in loaded.family.visual_modules for part in name.split("."))
        if what == "only_embeddings" or (what in ("visual", "all") and visual):
            parameter.requires_grad_(False)
    if what in ("embeddings", "all", "only_embeddings"):
        tables = _tables(loaded.model)
        rows = torch.zeros(num_rows(tables[0]), 1, dtype=torch.bool)
        rows[list(sid_ids)] = True
        for table in tables:
            table.requires_grad_(bool(sid_ids))
            if sid_ids:
                table.register_hook(lambda gradient: gradient * rows.to(gradient))


class AnswerRows:
    """Lets the head see only the positions that predict an answer, so that logits of prompt tokens are never made.

    A hook in front of the output embedding: it works for every family, under DDP, DeepSpeed and PEFT alike. The model
    then takes the batches of TrainingCollator, whose masks are told by pieces.
    """

    def __init__(self, model: nn.Module):
        from src.attention import use_packed_attention  # imports transformers

        use_packed_attention(model)
        self.rows: Tensor | None = None
        model.get_output_embeddings().register_forward_pre_hook(self._select)

    def _select(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        return None if self.rows is None else (inputs[0][self.rows], *inputs[1:])

    def logits(self, model: nn.Module, rows: Tensor, **inputs: Tensor) -> Tensor:
        """(P, V) logits at the P places where `rows` (R, W) is True."""
        self.rows = rows
        try:
            return model(**inputs, use_cache=False).logits
        finally:
            self.rows = None


# ---- checkpoints -----------------------------------------------------------------------------------------------------
def token_meta(index: SidIndex, base_vocab_size: int, new_tokens: bool = True) -> dict[str, Any]:
    """What `token_meta.json` says; it lists no SID tokens where the model got none."""
    return {
        "sid_tokens": index.all_tokens if new_tokens else [],
        "base_vocab_size": base_vocab_size,
        "codebook_sizes": list(index.codebook_sizes),
        "index_sha256": artifacts.file_hash(index.path) if index.path else None,
    }


def load_finetuned(ckpt_model: str | Path, base_model: str | Path | None, lora: bool, dtype: torch.dtype) -> Loaded:
    """A fine-tuned model: the whole of it, or a base with the LoRA adapter of `ckpt_model` merged into memory.

    Raises:
        FileNotFoundError, ValueError: as `check_finetuned`.
    """
    check_finetuned(ckpt_model, base_model, lora)
    ckpt = Path(ckpt_model)
    if not lora:
        return load_model(ckpt, dtype)
    from peft import PeftModel

    assert base_model is not None  # check_finetuned has seen to it
    loaded = load_model(base_model, dtype)
    processor = load_processor(ckpt)
    tokenizer = processor.tokenizer if loaded.family.vision else processor
    loaded = loaded._replace(tokenizer=tokenizer, processor=processor if loaded.family.vision else None)
    if (meta := artifacts.load_token_meta(ckpt)) is not None and meta["sid_tokens"]:
        add_sid_tokens(loaded, meta["sid_tokens"])
    model = PeftModel.from_pretrained(loaded.model, ckpt)
    logger.info("merged the adapter %s into %s", ckpt, base_model)
    return loaded._replace(model=model.merge_and_unload())


def save_plain(loaded: Loaded, folder: Path, ckpt_model: Path) -> None:
    """A whole model with all that evaluation reads, which `ckpt_model` has of the fine-tuning run."""
    loaded.model.save_pretrained(folder)
    (loaded.processor or loaded.tokenizer).save_pretrained(folder)
    save_records(folder, ckpt_model)


def write_merged_record(folder: Path, inputs: Mapping[str, Any]) -> None:
    """Lets the run.json of a merged model, that of the fine-tuning run, name what was merged as its inputs.

    Its settings and commit stay those of the fine-tuning, by which the model is asked.
    """
    path = folder / "run.json"
    trained = artifacts.read_json(path) if path.is_file() else {}
    trained.pop("outputs", None)
    merging = run_record(None, inputs)
    del merging["config"]
    record = {"artefact": "merged model", "inputs": merging.pop("inputs"), "merged": merging}
    write_record(path, trained | record, {"model": folder})


def save_records(folder: Path, ckpt_model: Path) -> None:
    artifacts.share_weights(folder)
    for name in (artifacts.TOKEN_META, "run.json"):
        if (ckpt_model / name).is_file():
            artifacts.write_json(folder / name, artifacts.read_json(ckpt_model / name), indent=2)


def num_parameters(model: nn.Module) -> tuple[int, int]:
    """Parameters in all, and those that train."""
    sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in model.parameters()]
    return sum(n for n, _ in sizes), sum(n for n, trains in sizes if trains)


def item_texts(items: dict[int, dict[str, Any]]) -> dict[int, str]:
    return {item: f"{fields['title']} {fields['categories']}".strip() for item, fields in items.items()}

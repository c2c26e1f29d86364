"""SIDs in ordinary tokens: fixed, told apart, the same in any place; and a model that learns and is asked in them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from src.common.artifacts import TOKEN_META
from src.common.sid import SidIndex
from src.finetune.core import finetune
from src.models import load_finetuned, load_model
from src.processors import load_processor
from src.prompt import PromptBuilder
from src.prompt_settings import PromptSettings
from src.seqrec.core import evaluate
from src.seqrec.results import predictions_path, read_predictions
from src.spelling import num_digits, spell, spelled_sids, spelling_table
from src.tasks.task import load_task
from src.trie import Trie
from tests.finetune.toy_runs import config_for
from tests.seqrec.toy_runs import config_for as evaluation_of
from tests.toy import ALL_FAMILIES, NUM_ITEMS, VISION_FAMILIES, tiny_model, toy_catalogue, toy_index

INDEX = toy_index()


def tokenizer_of(family: str):
    processor = load_processor(tiny_model(family))
    return getattr(processor, "tokenizer", processor)


def builder_of(family: str, digits: int = 2) -> PromptBuilder:
    loaded = load_model(tiny_model(family), torch.float32)
    settings = PromptSettings(sid_digits=digits)
    return PromptBuilder(toy_catalogue(), loaded.tokenizer, loaded.processor, settings, loaded.merge_size)


def numbers_tokenizer() -> PreTrainedTokenizerFast:
    """GPT-2's rule: digits stick together, and to the space before them."""
    vocab = {token: number for number, token in enumerate([*map(chr, range(33, 127)), "Ġ", "12", "Ġ1", "a,"])}
    bpe = Tokenizer(models.BPE(vocab, [("1", "2"), ("Ġ", "1"), ("a", ",")]))
    split = pre_tokenizers.Split(Regex(r" ?\d+| ?\w+| ?[^\s\w]+"), "isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    bpe.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=bpe)


# ---- tokens ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_codes_are_told_apart_by_their_tokens(family):
    tokenizer = tokenizer_of(family)
    table = spelling_table(tokenizer, "b", 3)
    assert len(table) == len(np.unique(table, axis=0)) == 1000
    assert tokenizer.decode(table[7]) == "007b"
    assert table.max() < len(tokenizer)
    sids = spelled_sids(tokenizer, INDEX, 2)
    assert len(np.unique(sids, axis=0)) == NUM_ITEMS
    for row in (0, 13, 39):
        codes = zip(INDEX.letters, INDEX.codes[row], strict=True)
        assert tokenizer.decode(sids[row]) == "".join(spell(letter, code, 2) for letter, code in codes)


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_whole_prompts_hold_the_tokens_of_the_sid_alone(family):
    """What a tokenizer makes of the whole text is what we assemble, so that others can ask the model too."""
    builder = builder_of(family)
    for task in ("seqrec", "index2item"):
        for template in load_task(task).templates:
            ids, _ = builder.prompt_ids(template, (1, 4, 13), 20)
            text = builder.tokenizer.decode(ids)
            assert builder.tokenizer(text, add_special_tokens=False)["input_ids"] == ids.tolist(), text
            answer = builder.answer_ids(template, (1, 4, 13), 20)[:-1]
            text = builder.tokenizer.decode(answer)
            assert builder.tokenizer(text, add_special_tokens=False)["input_ids"] == answer.tolist(), text


def test_tokenizers_that_merge_digits_spell_by_characters():
    tokenizer = numbers_tokenizer()
    assert len(tokenizer("12a")["input_ids"]) == 2 != len(tokenizer("13a")["input_ids"])
    table = spelling_table(tokenizer, "a", 2)
    assert tokenizer.convert_ids_to_tokens(table[12].tolist()) == ["1", "2", "a"]
    assert len(np.unique(table, axis=0)) == 100


def test_what_cannot_be_spelt_is_refused():
    with pytest.raises(ValueError, match="the tokenizer has no token for 'é'"):
        spelling_table(numbers_tokenizer(), "é", 1)
    with pytest.raises(ValueError, match="has codes of 3 digits, and the model writes 2: wrong"):
        spelled_sids(numbers_tokenizer(), SidIndex(np.arange(1), np.zeros((1, 1), np.int64), ("a",), (101,)), 2)
    assert [num_digits(replace(INDEX, codebook_sizes=(4, size, 5))) for size in (10, 11, 256, 1001)] == [1, 2, 3, 4]


# ---- trie ------------------------------------------------------------------------------------------------------------
def test_trie_holds_several_tokens_a_level():
    sids = spelled_sids(tokenizer_of("qwen2"), INDEX, 2)
    trie = Trie(sids)
    assert trie.num_levels == 9
    assert trie.num_leaves == NUM_ITEMS
    walked = []

    def walk(level: int, node: int, so_far: tuple[int, ...]) -> None:
        if level == trie.num_levels:
            walked.append(so_far)
            return
        children, tokens, exists = trie.children(level, torch.tensor(node))
        for child, token, real in zip(children.tolist(), tokens.tolist(), exists.tolist(), strict=True):
            if real:
                walk(level + 1, child, (*so_far, token))

    walk(0, 0, ())
    assert sorted(walked) == sorted(map(tuple, sids.tolist()))


# ---- from training to evaluation -------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", VISION_FAMILIES[:1])
@pytest.mark.parametrize("lora", [True, False])
def test_no_token_is_new_and_only_items_are_named(tmp_path, family, lora):
    config = config_for(
        tmp_path / "run", family, entry="train_ddp_vl_nonewtoken", add_sid_tokens=False, use_lora=lora, lora_r=4,
        tasks=("seqrec", "mmitem2index"), max_steps=4, save_and_eval_steps=2, learning_rate=0.003,
    )  # fmt: skip
    folder = finetune(config)
    record = json.loads((folder / "run.json").read_text())
    assert record["prompt_settings"]["sid_digits"] == 1
    assert record["sid_init"] == "no new rows"
    meta = json.loads((folder / TOKEN_META).read_text())
    assert (meta["sid_tokens"], meta["codebook_sizes"]) == ([], [4, 6, 5])
    loaded = load_finetuned(folder, config.base_model, lora, torch.float32)
    assert len(loaded.tokenizer) == len(tokenizer_of(family)) == len(loaded.model.get_input_embeddings().weight)
    for task in ("seqrec", "mmitem2index"):
        evaluation = evaluation_of(
            tmp_path, family, ckpt_model=folder, base_model=config.base_model, lora=lora, test_task=task,
            results_file=tmp_path / f"{task}.json",
        )  # fmt: skip
        results = json.loads(evaluate(evaluation).read_text())
        assert results["valid_beams"] == 1
        for part in read_predictions(predictions_path(evaluation.results_file)):
            assert ((part.ranked >= 0) & (part.ranked < NUM_ITEMS)).all()
            assert all(len(set(row)) == len(row) for row in part.ranked.tolist())

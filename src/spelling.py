"""SIDs in ordinary tokens, for models whose vocabulary must stay as it is: `<a_12><b_3>` is written `012a003b`.

Every code has the same number of digits, then the letter of its level: codes of a level take equally many tokens, and
none begins another, so that a SID can be read token by token. A code starts with a digit because tokenizers leave the
space before a digit alone, while they draw it into a word or a bracket: a SID is the same tokens wherever it stands.
"""

from typing import Any

import numpy as np

from src.common.sid import SidIndex


def num_digits(index: SidIndex) -> int:
    """Digits that every code of an index can be written with."""
    return len(str(max(index.codebook_sizes) - 1))


def spell(letter: str, code: int, digits: int) -> str:
    return f"{code:0{digits}}{letter}"


def spelled_sids(tokenizer: Any, index: SidIndex, digits: int) -> np.ndarray:
    """(N, T) int64: token ids of the SID of each row of an index, levels one after another.

    Raises:
        ValueError: the tokenizer lacks a digit or a letter, or a code has more digits.
    """
    if num_digits(index) > digits:
        raise ValueError(
            f"{index.path} has codes of {num_digits(index)} digits, and the model writes {digits}: wrong index?"
        )
    tables = [spelling_table(tokenizer, letter, digits) for letter in index.letters]
    return np.concatenate([table[index.codes[:, level]] for level, table in enumerate(tables)], axis=1)


def spelling_table(tokenizer: Any, letter: str, digits: int) -> np.ndarray:
    """(10 ** digits, T) int64: token ids of every code of a level.

    They are the tokenizer's own where these are equally many for all codes and the same in any place, as with Qwen and
    Llama 3; else one token a character. It depends on nothing but the arguments, so that training and inference agree.
    """
    words = [spell(letter, code, digits) for code in range(10**digits)]
    own = _ids(tokenizer, words)
    if len({len(ids) for ids in own}) == 1:
        table = np.asarray(own, np.int64)
        before, after = _ids(tokenizer, [", ", ","])
        in_place = _ids(tokenizer, [f", {word}{word}," for word in words])
        if all(ids == [*before, *word, *word, *after] for ids, word in zip(in_place, own, strict=True)):
            return table
    characters = sorted(set("".join(words)))
    ids = dict(zip(characters, tokenizer.convert_tokens_to_ids(characters), strict=True))
    missing = [character for character, token in ids.items() if token in (None, tokenizer.unk_token_id)]
    if missing:
        raise ValueError(
            f"the tokenizer has no token for {missing[0]!r}, so that SIDs cannot be spelt: train with new tokens, with"
            f" python -m src.finetune.train_ddp_vl"
        )
    return np.asarray([[ids[character] for character in word] for word in words], np.int64)


def _ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False)["input_ids"]

"""What language models are asked for: the prompts in each language, and the schema of each answer."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict

from src.common.dataset_readers import ITEM_FIELDS

PROMPT_DIR = Path(__file__).parent / "prompts"
MIN_NAME_BYTES = 12  # a shorter title ("Dress") is a kind of thing, which a query may well name


def _not_blank(text: str) -> str:
    text = " ".join(text.split())
    if not text:
        raise ValueError("a blank text")
    return text


def _distinct(texts: list[str]) -> list[str]:
    return list(dict.fromkeys(text for text in (" ".join(text.split()) for text in texts) if text))


def _some(texts: list[str]) -> list[str]:
    texts = _distinct(texts)
    if not texts:
        raise ValueError("an empty list")
    return texts


Texts = Annotated[list[str], AfterValidator(_distinct)]
SomeTexts = Annotated[list[str], AfterValidator(_some)]


class Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Enriched(Answer):
    enhanced_title: Annotated[str, AfterValidator(_not_blank)]
    tags: Texts
    highlights: Texts
    characteristics: Texts


class Preferences(Answer):
    preferences: SomeTexts


class Queries(Answer):
    querys: SomeTexts  # spelt as in <DS>.user.json


def load_prompts(language: str) -> dict[str, Any]:
    return json.loads((PROMPT_DIR / f"{language}.json").read_text(encoding="utf-8"))


def item_text(item: Mapping[str, Any], prompts: Mapping[str, Any], max_chars: int) -> str:
    """The fields of an item, one a line; empty ones are left out, a long description is cut."""
    lines = []
    for field in ITEM_FIELDS:
        text = " ".join(item[field].split())
        if max_chars and len(text) > max_chars:
            text = text[:max_chars] + " ..."
        if text:
            lines.append(prompts["fields"][field].format(text))
    return "\n".join(lines)


def history_text(items: Sequence[Mapping[str, Any]], prompts: Mapping[str, Any]) -> str:
    """Titles, brands and categories, numbered, oldest first."""
    lines = []
    for number, item in enumerate(items, 1):
        parts = [" ".join(item[field].split()) for field in ("title", "brand", "categories")]
        lines.append(f"{number}. {' | '.join(part for part in parts if part)}")
    return "\n".join(lines) or prompts["no_history"]


def names_item(query: str, title: str) -> bool:
    """Whether a query quotes the title: then it would be found by its words, without any understanding."""

    def bare(text: str) -> str:
        return "".join(character for character in text.casefold() if character.isalnum())

    name = bare(title)
    return len(name.encode()) >= MIN_NAME_BYTES and name in bare(query)

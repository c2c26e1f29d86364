"""From an answer to its fields: labels in any order and spelling that people use, and nothing that is not there."""

import json
import re
from collections.abc import Mapping, Sequence

from src.tasks.task import SLOT, Template

LABELLED = re.compile(r"(?:^|\n)\s*([^\n{}:：]+?)\s*[:：]\s*\{(\w+)\}")
DECORATION = r"[\s*_#>`\"'“”【】\[\]-]*"
# "2. **" and the like; each `*+` gives nothing back, or a line of ten thousand stars would take minutes
START = rf"{DECORATION}+(?:\(?\d{{1,2}}[.)、]{DECORATION}+)?"
FENCE = re.compile(r"^```\w*|```$")
BULLET = re.compile(r"^\s*(?:[-*•·‣▪]|\d{1,2}[.)、])\s+")
SYNONYMS = {  # of a slot, beside the label that its task writes and the slot's own name
    "enhanced_title": ("title", "enhanced title", "new title", "better title", "product title", "标题", "优化标题"),
    "title": ("product title", "name", "product name", "标题", "商品标题", "名称"),
    "tags": ("tag", "keywords", "标签", "关键词"),
    "highlights": ("highlight", "selling points", "key features", "features", "亮点", "卖点"),
    "characteristics": ("characteristic", "attributes", "specifications", "特点", "属性", "特征"),
    "brand": ("品牌",),
    "categories": ("category", "类目", "类别", "分类"),
    "description": ("描述", "商品描述", "介绍"),
}  # fmt: skip


def labels_of(template: Template) -> dict[str, str]:
    """Slot -> label of an answer whose lines are labelled, `{"tags": "Tags", ...}`; empty for an answer of one text."""
    answer = template.answer.replace("[", "").replace("]", "")
    labels = {slot: label for label, slot in LABELLED.findall(answer)}
    return labels if set(labels) == set(SLOT.findall(answer)) else {}


def parse(text: str, labels: Mapping[str, str]) -> dict[str, str]:
    """The fields of an answer, as far as it has them: slot -> text on one line.

    Labels may come in any order and case, as synonyms, numbered, in bold, or as the keys of a JSON table; entries of a
    list may stand on lines of their own, with bullets. What stands before the first label, or on a line after a field
    that is no entry of a list, belongs to no field. A label that comes twice counts the first time. A label with
    nothing behind it is no field.
    """
    spellings = _spellings(labels)
    if (table := _json_table(text)) is not None:
        found = {}
        for key, value in table.items():
            slot = spellings.get(_plain(str(key)))
            if slot and slot not in found and (words := _words_of(value)):
                found[slot] = words
        return found
    names = "|".join(sorted((re.escape(name) for name in spellings), key=len, reverse=True))
    label = re.compile(rf"{START}({names}){DECORATION}(?:[:：]|\s[-–—]\s)[\s*_`]*(.*)", re.IGNORECASE)
    lines: dict[str, list[str]] = {}
    current: list[str] | None = None  # the field that a line may go on with
    for line in text.splitlines():
        if match := label.fullmatch(line):
            slot = spellings[_plain(match[1])]
            current = None if lines.get(slot) else lines.setdefault(slot, [])
            words = match[2]
        elif BULLET.match(line) or (current is not None and not current):
            words = BULLET.sub("", line)
        elif line.strip():  # neither an entry of a list nor the first words behind a label
            current = None
            continue
        else:
            continue
        if current is not None and (words := words.strip().strip("*_`").strip()):
            current.append(words)
    return {slot: "; ".join(words) for slot, words in lines.items() if words}


def _spellings(labels: Mapping[str, str]) -> dict[str, str]:
    """Every spelling of a label -> its slot; the task's own labels win where two slots share one."""
    spellings = {}
    for slot in labels:
        for name in (slot, *SYNONYMS.get(slot, ())):
            spellings[_plain(name)] = slot
    return spellings | {_plain(label): slot for slot, label in labels.items()}


def _plain(label: str) -> str:
    return " ".join(label.replace("_", " ").lower().split())


def _json_table(text: str) -> dict | None:
    """The table that an answer is, perhaps inside a fence of Markdown; None where it is none."""
    body = FENCE.sub("", text.strip()).strip()
    if not body.startswith("{"):
        return None
    try:
        table = json.loads(body)
    except (ValueError, RecursionError):  # a model may open brackets without end
        return None
    return table if isinstance(table, dict) else None


def _words_of(value: object) -> str:
    if isinstance(value, Mapping):
        value = [f"{name}: {words}" for name, words in value.items()]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "; ".join(" ".join(str(entry).split()) for entry in value if entry not in (None, ""))
    return "" if value is None else " ".join(str(value).split())


def entries(text: str) -> set[str]:
    """The entries of a list such as tags, in lower case."""
    return {entry for part in re.split(r"[;；,，、|\n]", text) if (entry := " ".join(part.lower().split()))}

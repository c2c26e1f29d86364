"""What the toy's models are asked about."""

from src.tasks.task import KINDS, USER_TEXTS, Template, load_task
from tests.toy import VISION_FAMILIES

HISTORY = (1, 4, 13, 3, 10)  # of these item 3 has no picture
SEEN, UNSEEN = 14, 35  # an item with a picture, and one without
TEXT = 4  # row of a text about a user


def templates_for(family: str, language: str = "en") -> list[Template]:
    """Every wording that a family can be asked."""
    tasks = [load_task(name, language) for name in KINDS]
    return [
        template for task in tasks if family in VISION_FAMILIES or not task.needs_images for template in task.templates
    ]


def example(template: Template) -> dict:
    """What a wording is asked about here."""
    return {
        "history": HISTORY if {"history", "history_titles", "history_images"} & template.slots else (),
        "item": -1 if "preference" in template.slots else SEEN,
        "text": TEXT if template.slots & set(USER_TEXTS) else -1,
    }

"""Messages that docs/faq.md quotes are those of the code."""

import ast
import re
from functools import cache

import pytest

from tests.documents import OWN_PACKAGES, ROOT, TRACKED, fences

FAQ = "docs/faq.md"
SHELL_TEXT = r'"(?:\$\{[^}]*\}|[^"\\]|\\.)*"'
LEAST_WORDS = 12  # characters of a message that are its own, not values


@cache
def messages() -> tuple[re.Pattern, ...]:
    """What our code can say: its texts, with anything at all where a value goes."""
    texts = []
    for name in TRACKED:
        if name.endswith(".py") and name.split("/")[0] in OWN_PACKAGES:
            tree = ast.parse((ROOT / name).read_text())
            inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
            for node in ast.walk(tree):
                if isinstance(node, ast.JoinedStr):
                    texts.append([part.value if isinstance(part, ast.Constant) else None for part in node.values])
                elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
                    texts.append([node.value])
        elif name in ("setup.sh", "scripts/env.sh", "scripts/launch.sh"):
            for said in re.findall(rf"{SHELL_TEXT}(?: \\\n\s*{SHELL_TEXT})*", (ROOT / name).read_text()):
                joined = re.sub(r'" \\\n\s*"', " ", said)[1:-1]
                parts = re.split(r"(\$\((?:[^()]|\([^()]*\))*\)|\$\{[^}]*\}|\$\w+)", joined)
                texts.append([None if place % 2 else part for place, part in enumerate(parts)])
    long_enough = [parts for parts in texts if sum(map(len, filter(None, parts))) >= LEAST_WORDS]
    return tuple(
        re.compile("".join(".*" if part is None else re.escape(part) for part in parts), re.DOTALL)
        for parts in long_enough
    )


def quoted_messages() -> list[str]:
    return [fence.text.strip() for fence in fences(FAQ) if fence.language == "text"]


@pytest.mark.parametrize("message", quoted_messages())
def test_messages_in_the_faq_are_those_of_the_code(message):
    message = re.sub(r"^(error|setup): ", "", message)
    assert any(pattern.fullmatch(message) for pattern in messages()), f"nothing says: {message}"


def test_every_entry_of_the_faq_quotes_a_message_or_needs_none():
    """An entry is found by what was printed."""
    text = (ROOT / FAQ).read_text()
    parts = re.split(r"^### (.+)$", text, flags=re.MULTILINE)
    entries = dict(zip(parts[1::2], parts[2::2], strict=True))
    silent = {title for title, body in entries.items() if not re.search(r"^```(text|console)", body, re.MULTILINE)}
    assert len(entries) > 25
    assert {title.partition(" (")[0] for title in silent} == {
        "flash-attn is missing, or does not build",
        "The figures are poor",
    }

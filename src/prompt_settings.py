"""What decides how a model is asked, and what a fine-tuned model says of how it was."""

from dataclasses import dataclass
from pathlib import Path

from src.common.artifacts import read_json
from src.tasks.task import LANGUAGES, Task


@dataclass(frozen=True)
class PromptSettings:
    """What decides the token ids of a prompt; travels with a checkpoint, so that inference asks as training did."""

    max_his_len: int = 20
    his_sep: str = ", "
    add_prefix: bool = False
    max_his_images: int = 8
    model_max_length: int = 2048
    prompt_lang: str = "en"
    sid_digits: int = 0  # of a code, where SIDs are spelt with ordinary tokens; 0: every code is a token of its own


def checkpoint_settings(ckpt_model: str | Path, prompt_lang: str | None = None) -> PromptSettings:
    """The settings that a fine-tuned model was trained with, from its run.json; else the defaults.

    Args:
        prompt_lang: language of the wordings where there is no run.json.

    Raises:
        ValueError: `prompt_lang` is another language than the model was trained with, or has no wordings.
    """
    path = Path(ckpt_model) / "run.json"
    settings = PromptSettings(**read_json(path)["prompt_settings"]) if path.is_file() else None
    if settings is None:
        settings = PromptSettings(prompt_lang=prompt_lang or PromptSettings.prompt_lang)
    elif prompt_lang not in (None, settings.prompt_lang):
        raise ValueError(f"{ckpt_model} was trained on prompts in {settings.prompt_lang}: leave out --prompt_lang")
    if settings.prompt_lang not in LANGUAGES:
        raise ValueError(f"--prompt_lang {settings.prompt_lang!r}: choose from {', '.join(LANGUAGES)}")
    return settings


def check_templates(ckpt_model: str | Path, task: Task) -> None:
    """Refuses to ask a fine-tuned model in other wordings than it was trained on.

    Passes where its run.json says nothing of the task: another system's model, or a task that it was not trained on.

    Raises:
        ValueError: the wordings have changed since.
    """
    path = Path(ckpt_model) / "run.json"
    record = read_json(path) if path.is_file() else {}
    if record.get("templates_sha256", {}).get(task.name, task.templates_sha256) != task.templates_sha256:
        raise ValueError(
            f"the wordings of {task.name} have changed since {ckpt_model} was trained (commit"
            f" {record.get('commit', 'unknown')}): it would be asked in words that it never saw. Bring back the"
            f" {task.name}.json of that commit in src/tasks/templates, or fine-tune again"
        )

"""One dataset class for every task: integers that say which example, a wording, and a sample made of ids."""

import random
from collections.abc import Sequence

import numpy as np
from torch.utils.data import Dataset

from src.prompt import PromptBuilder, Sample, View
from src.tasks.catalogue import Split
from src.tasks.task import Task, Template


class TaskDataset(Dataset):
    """Every example of one task, each asked in `prompts_per_example` different wordings."""

    def __init__(
        self,
        task: Task,
        builder: PromptBuilder,
        split: Split,
        task_id: int = 0,
        prompts_per_example: int = 1,
        max_examples: int = 0,
        user_ratio: float = 1.0,
        seed: int = 42,
        share_prefix: bool = False,
        holdout: bool = False,
        prompt_ids: Sequence[int] | None = None,
        learn_prompt: bool = False,
        image_augment: float = 0.0,
    ):
        """
        Args:
            max_examples: a seeded random cap of the examples; 0: all.
            user_ratio: share of the users that are kept, drawn with `seed`.
            share_prefix: all targets of a user in one sample where the wording allows it; an example is then a user.
            holdout: item tasks leave out the items that validate and test.
            prompt_ids: wordings to choose from; None: all.
            image_augment: each epoch shows pictures moved and zoomed by up to this share of their size.
            learn_prompt: the tokens of the prompt are learnt too, placeholders of pictures excepted.
        """
        self.task, self.builder, self.task_id, self.seed = task, builder, task_id, seed
        self.prompts_per_example, self.learn_prompt = prompts_per_example, learn_prompt
        self.image_augment = image_augment
        self.templates: tuple[Template, ...] = tuple(
            task.templates if prompt_ids is None else (task.templates[i] for i in prompt_ids)
        )
        self.epoch = 0  # set by the trainer, so that each epoch asks in new words
        catalogue = builder.catalogue
        rng = np.random.default_rng(seed)
        if task.kind == "item":
            items = catalogue.item_split(split, holdout)
            self.examples = np.stack([items, items, items], 1)  # (M, 3): item; the rest is not used
        else:
            users, positions = catalogue.next_item_targets(split)
            if user_ratio < 1:
                kept = rng.random(catalogue.num_users) < user_ratio
                users, positions = users[kept[users]], positions[kept[users]]
            share = share_prefix and all(builder.can_share_prefix(template) for template in self.templates)
            self.examples = self._spans(users, positions, share)
        if 0 < max_examples < len(self.examples):
            self.examples = self.examples[np.sort(rng.permutation(len(self.examples))[:max_examples])]

    def _spans(self, users: np.ndarray, positions: np.ndarray, share: bool) -> np.ndarray:
        """(M, 3) int64: user, first and last target of each example.

        Targets whose window holds the user's first item share one example; those whose window has slid on stand alone.
        """
        alone = np.ones(len(users), bool)
        if share:
            settings = self.builder.settings
            most = min(settings.max_his_len or settings.model_max_length, int(positions.max(initial=0)))
            alone = positions > min(self.builder.items_that_fit(template, most) for template in self.templates)
        rows = [np.stack([users[alone], positions[alone], positions[alone]], 1)]
        if not alone.all():
            shared_users, shared_positions = users[~alone], positions[~alone]
            first = np.flatnonzero(np.concatenate([[True], shared_users[1:] != shared_users[:-1]]))
            last = np.concatenate([first[1:], [len(shared_users)]]) - 1
            rows.append(np.stack([shared_users[first], shared_positions[first], shared_positions[last]], 1))
        spans = np.concatenate(rows)
        return spans[np.lexsort((spans[:, 1], spans[:, 0]))]

    def __len__(self) -> int:
        return len(self.examples) * self.prompts_per_example

    def wording(self, example: int, draw: int) -> Template:
        """Chosen by seed, epoch and example alone: it cannot depend on which worker or rank happens to ask."""
        rng = random.Random(f"{self.seed}/{self.epoch}/{self.task.name}/{example}")
        order = rng.sample(range(len(self.templates)), len(self.templates))
        return self.templates[order[draw % len(order)]]

    def __getitem__(self, index: int) -> Sample:
        example, draw = divmod(index, self.prompts_per_example)
        view = None
        if self.image_augment:
            view = View(self.image_augment, f"{self.seed}/{self.epoch}/{self.task.name}/{example}/{draw}")
        sample = self._sample(self.wording(example, draw), view, *(int(value) for value in self.examples[example]))
        return self.builder.learn_everything(sample) if self.learn_prompt else sample

    def _sample(self, template: Template, view: View | None, first: int, second: int, third: int) -> Sample:
        catalogue = self.builder.catalogue
        if self.task.kind == "item":
            return self.builder.sample(template, (), first, self.task_id, view)
        if second == third:
            history = catalogue.history(first, second)
            return self.builder.sample(template, history, catalogue.target(first, second), self.task_id, view)
        return self.builder.shared_sample(template, catalogue.history(first, third + 1), second, self.task_id)


class Mixture(Dataset):
    """The examples of several tasks, one after another; a random sampler mixes them."""

    def __init__(self, parts: Sequence[TaskDataset]):
        self.parts = list(parts)
        self.ends = np.cumsum([len(part) for part in self.parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> Sample:
        part = int(np.searchsorted(self.ends, index, side="right"))
        return self.parts[part][index - (int(self.ends[part - 1]) if part else 0)]

    def set_epoch(self, epoch: int) -> None:
        for part in self.parts:
            part.epoch = epoch

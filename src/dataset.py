"""One dataset class for every task: integers that say which example, a wording, and a sample made of ids."""

from collections.abc import Sequence
from functools import cached_property
from math import gcd

import numpy as np
from torch.utils.data import Dataset

from src.blocks import Block, NextItemBlocks, block_of, join, next_item_blocks
from src.common.seed import random_numbers
from src.item_tokens import View
from src.prompt import PromptBuilder, Sample
from src.tasks.task import USER_TEXTS, Split, Task, Template


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
            holdout: tasks about any item leave out the items that validate and test.
            prompt_ids: wordings to choose from; None: all.
            image_augment: each epoch shows pictures moved and zoomed by up to this share of their size.
            learn_prompt: the tokens of the prompt are learnt too, placeholders of pictures excepted.
        """
        self.task, self.builder, self.task_id, self.seed = task, builder, task_id, seed
        self.prompts_per_example, self.learn_prompt = prompts_per_example, learn_prompt
        self.image_augment = image_augment
        self.template_numbers = np.arange(len(task.templates)) if prompt_ids is None else np.array(prompt_ids)
        self.templates: tuple[Template, ...] = tuple(task.templates[i] for i in self.template_numbers)
        self.epoch = 0  # set by the trainer, so that each epoch asks in new words
        catalogue = builder.catalogue
        rng = np.random.default_rng(seed)
        kept = rng.random(catalogue.num_users) < user_ratio if user_ratio < 1 else np.ones(catalogue.num_users, bool)
        if task.kind != "next_item":
            ids = task.example_ids(catalogue, split, holdout)
            if task.kind in USER_TEXTS:
                ids = ids[kept[catalogue.user_texts[task.kind].users[ids]]]
            self.examples = np.stack([ids, ids, ids], 1)  # (M, 3): item or row; the rest is not used
        else:
            users, positions = catalogue.next_item_targets(split)
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

    @property
    def dataset(self) -> str:
        return self.builder.catalogue.name

    def wording(self, example: int, draw: int) -> Template:
        return self.templates[int(self._wordings(np.array([example]), np.array([draw]))[0])]

    def _wordings(self, examples: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """Number of the template that each example is asked in, every one once before any twice.

        Chosen by seed, epoch and example alone: it cannot depend on which worker or rank happens to ask.
        """
        numbers = random_numbers(f"{self.seed}/{self.epoch}/{self.task.name}", examples)
        count = len(self.templates)
        numbers, first = np.divmod(numbers, count)
        return (first + self._steps[numbers % len(self._steps)] * draws) % count

    @cached_property
    def _steps(self) -> np.ndarray:
        """Steps that visit every template before any twice."""
        count = len(self.templates)
        return np.array([step for step in range(1, count + 1) if gcd(step, count) == 1])

    def __getitem__(self, index: int) -> Sample:
        example, draw = divmod(index, self.prompts_per_example)
        view = None
        if self.image_augment:
            view = View(self.image_augment, f"{self.seed}/{self.epoch}/{self.task.name}/{example}/{draw}")
        sample = self._sample(self.wording(example, draw), view, *(int(value) for value in self.examples[example]))
        return self.builder.learn_everything(sample) if self.learn_prompt else sample

    def __getitems__(self, indices: Sequence[int]) -> Block:
        """Several samples at once, as a DataLoader asks for them."""
        if self._next_item_blocks is None:
            return block_of([self[index] for index in indices])
        examples, draws = np.divmod(np.asarray(indices, np.int64), self.prompts_per_example)
        wordings = self.template_numbers[self._wordings(examples, draws)]
        return self._next_item_blocks(wordings, self.examples[examples], self.task_id)

    @cached_property
    def _next_item_blocks(self) -> NextItemBlocks | None:
        """What assembles many samples as fast as one, where the wordings allow it."""
        if self.task.kind != "next_item" or self.learn_prompt or not len(self.examples):
            return None
        longest = int(self.examples[:, 2].max())
        if not NextItemBlocks.suit(self.builder, self.task.templates, longest):
            return None
        return next_item_blocks(self.builder, self.task.templates)

    def _sample(self, template: Template, view: View | None, first: int, second: int, third: int) -> Sample:
        catalogue = self.builder.catalogue
        if self.task.kind in USER_TEXTS:
            texts = catalogue.user_texts[self.task.kind]
            history, item = texts.histories[first], int(texts.items[first])
            return self.builder.sample(template, history, item, self.task_id, view, text=first)
        if self.task.kind != "next_item":
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

    def __getitems__(self, indices: Sequence[int]) -> Block:
        """Several samples at once, those of a part together."""
        wanted = np.asarray(indices, np.int64)
        parts = np.searchsorted(self.ends, wanted, side="right")
        numbers = np.unique(parts).tolist()
        begins = [0, *self.ends.tolist()]
        return join([self.parts[i].__getitems__(wanted[parts == i] - begins[i]) for i in numbers])

    def set_epoch(self, epoch: int) -> None:
        for part in self.parts:
            part.epoch = epoch


def part_names(parts: Sequence[TaskDataset]) -> list[str]:
    """What tells the parts of a mixture apart: the task, with the dataset before it where there are several."""
    several = len({part.dataset for part in parts}) > 1
    return [f"{part.dataset}_{part.task.name}" if several else part.task.name for part in parts]


def part_groups(parts: Sequence[TaskDataset]) -> dict[str, list[int]]:
    """Parts that are reported on together: those of each task and, where there are several, of each dataset."""
    groups: dict[str, list[int]] = {}
    for number, (name, part) in enumerate(zip(part_names(parts), parts, strict=True)):
        for group in dict.fromkeys((name, part.task.name)):
            groups.setdefault(group, []).append(number)
        if name != part.task.name:
            groups.setdefault(part.dataset, []).append(number)
    return groups

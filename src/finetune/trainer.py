"""The Hugging Face Trainer, with a loss on answers only, exact validation per task, and a log that survives."""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from src.blocks import Block, block_of, join
from src.collate import TrainingCollator
from src.common.distributed import gather, is_main, shard, world_size
from src.common.log import duration, logger
from src.dataset import Mixture, ShuffledSampler, TaskDataset, part_groups
from src.finetune.muon import MuonAdamW
from src.models import ATTENTION, TOKEN_TABLES, AnswerRows
from src.prompt import Sample


class AnswerTrainer(Trainer):
    """Cross-entropy over answer tokens, its mean taken over all ranks and accumulated batches at once."""

    # as transformers' Trainer sets them
    optimizer: Any
    control: Any

    def __init__(self, *, valid_parts: list[TaskDataset], muon: bool, in_step: bool, **options: Any):
        """
        Args:
            valid_parts: what validates, part by part.
            muon: the optimizer is Muon; else what the Trainer's arguments say.
            in_step: all ranks must run the model equally often, for each holds a part of every weight.
        """
        super().__init__(**options)
        self.valid_parts, self.muon, self.in_step = valid_parts, muon, in_step
        self.answer_rows = AnswerRows(self.model)
        self.model_accepts_loss_kwargs = True  # the Trainer then counts answer tokens of the whole step for us
        self.loss_is_scaled_for_ga = True
        self._loss_shifts_labels = False  # labels already are the tokens after `predict`

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Embeddings do not decay: rows that a batch does not hold would shrink, and frozen old rows would change."""
        names = super().get_decay_parameter_names(model)
        return [name for name in names if not any(part in name for part in TOKEN_TABLES)]

    def _get_train_sampler(self, train_dataset: Mixture | None = None) -> ShuffledSampler:
        """Instead of the Trainer's, which lists all samples as Python numbers."""
        return ShuffledSampler(self.train_dataset, self.args.data_seed)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.muon and self.optimizer is None:
            self.optimizer = MuonAdamW(
                self.model,
                self.args.learning_rate,
                self.args.weight_decay,
                (self.args.adam_beta1, self.args.adam_beta2),
                self.get_decay_parameter_names(self.model),
            )
        return super().create_optimizer(model)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self._loads_whole_model:
            load_weights(model or self.model, resume_from_checkpoint)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if self._loads_whole_model:
            load_weights(self.model, self.state.best_model_checkpoint)
        else:
            super()._load_best_model()

    @property
    def _loads_whole_model(self) -> bool:
        return isinstance(self.model, PreTrainedModel) and not (self.is_deepspeed_enabled or self.is_fsdp_enabled)

    def _run_epoch(self, *arguments: Any, **options: Any) -> None:
        """An epoch; none where all steps are done already.

        A run that was killed after its last step goes on from a checkpoint of that step. The Trainer would look at the
        number of steps only after one more, and every such start would train a step further.
        """
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*arguments, **options)

    def token_losses(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """(P,) cross-entropy of every answer token of a batch."""
        inputs = dict(inputs)
        labels, rows = inputs.pop("labels"), inputs.pop("predict")
        inputs.pop("task_ids")
        logits = self.answer_rows.logits(model, rows, **inputs)
        return F.cross_entropy(logits.float(), labels, reduction="none")

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        losses = self.token_losses(model, inputs)
        if num_items_in_batch is None:
            return losses.mean()
        return losses.sum() / num_items_in_batch * self.accelerator.num_processes  # DDP takes the mean over ranks

    @torch.no_grad()
    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Mean loss per answer token of all, of each task and of each dataset where there are several.

        Each sample counts once on any number of ranks.
        """
        model = self.model_wrapped if self.is_deepspeed_enabled or self.is_fsdp_enabled else self.model
        model.eval()
        sums = torch.zeros(len(self.valid_parts), 2, dtype=torch.float64)
        for number, part in enumerate(self.valid_parts):
            size = self.args.per_device_eval_batch_size
            begins = range(0, len(part), size)
            mine = shard(begins)
            idle = -(-len(begins) // world_size()) - len(mine) if self.in_step else 0
            for place, begin in enumerate(chain(mine, begins[:idle])):
                batch = range(begin, min(begin + size, len(part)))
                inputs = self._prepare_inputs(self.data_collator(part.__getitems__(batch)))
                with self.compute_loss_context_manager():
                    losses = self.token_losses(model, inputs)
                if place < len(mine):
                    sums[number] += torch.tensor([losses.double().sum().item(), losses.numel()], dtype=torch.float64)
        model.train()
        sums = torch.stack(gather(sums)).sum(0)
        metrics = {f"{metric_key_prefix}_loss": float(sums[:, 0].sum() / sums[:, 1].sum().clamp_min(1))}
        for name, numbers in part_groups(self.valid_parts).items():
            total, count = sums[numbers].sum(0).tolist()
            if count:
                metrics[f"{metric_key_prefix}_loss_{name}"] = total / count
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def load_weights(model: PreTrainedModel, folder: str) -> None:
    """Puts the weights of a checkpoint into `model`; every one must be there.

    The Trainer's own loading compares names in the file with names in the model. Vision-language models are saved under
    other names than they have in memory, so it would load nothing and only warn: a resumed run would start from the
    initial weights, and the best checkpoint would never come back.
    """
    dtype = next(model.parameters()).dtype
    stored = type(model).from_pretrained(folder, dtype=dtype, attn_implementation=ATTENTION)
    model.load_state_dict(stored.state_dict())


class PicturedCollator:
    """Adds a picture, and nothing to learn, to batches without one.

    Where every rank holds a part of every weight, a rank that skips the vision tower would leave the others waiting.
    """

    def __init__(self, collate: TrainingCollator, sample: Sample):
        """
        Args:
            sample: any that shows a picture.
        """
        self.collate = collate
        self.picture = block_of([sample._replace(predict=sample.predict[:0], targets=sample.targets[:0])])

    def __call__(self, samples: Block | Sequence[Sample]) -> dict[str, Any]:
        block = samples if isinstance(samples, Block) else block_of(samples)
        return self.collate(block if any(block.images) else join([block, self.picture]))


class EpochCallback(TrainerCallback):
    """Tells the training data which epoch it is, so that each epoch asks in new words."""

    def __init__(self, mixture: Mixture):
        self.mixture = mixture

    def on_epoch_begin(self, args, state, control, **_):
        self.mixture.set_epoch(int(state.epoch or 0))


class CheckpointCallback(TrainerCallback):
    """Completes every checkpoint-N, so that it can be evaluated as the finished model can."""

    def __init__(self, complete: Callable[[Path], None]):
        self.complete = complete

    def on_save(self, args, state, control, **_):
        if is_main():
            self.complete(Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")


class LogCallback(TrainerCallback):
    """Says how far training is, appends every log line to trainer_log.jsonl, and ends a run whose loss is no number.

    A resumed run goes on after the step that it resumes from.
    """

    def __init__(self, path: Path):
        self.path = path

    def on_train_begin(self, args, state, control, **_):
        self.began, self.first_step = time.time(), state.global_step
        if not is_main():
            return
        kept = []
        if self.path.is_file() and state.global_step:
            lines = (
                json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines() if line.endswith("}")
            )
            kept = [line for line in lines if line["step"] <= state.global_step]
        self.path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")

    def on_log(self, args, state, control, logs=None, **_):
        if is_main() and logs:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, "epoch": state.epoch, **logs}) + "\n")
            shown = [
                f"{name} {value:.4f}" for name, value in logs.items() if name == "loss" or name.startswith("eval_")
            ]
            if shown:
                logger.info("%s: %s, %s", self.progress(state), ", ".join(shown), self.remaining(state))
        if not args.fp16:  # whose scaler leaves such steps out
            check_finite(logs or {}, state.global_step)

    def progress(self, state: TrainerState) -> str:
        return f"step {state.global_step}/{state.max_steps}, epoch {state.epoch or 0:.2f}"

    def remaining(self, state: TrainerState) -> str:
        """The time left, by the mean of the steps of this process, evaluations and saving included."""
        seconds_a_step = (time.time() - self.began) / max(1, state.global_step - self.first_step)
        return f"{duration(seconds_a_step * (state.max_steps - state.global_step))} left"


def check_finite(logs: Mapping[str, Any], step: int) -> None:
    """Raises ValueError, on all ranks alike, where a loss is no number: the weights are none either from then on."""
    for name, value in logs.items():
        if (name == "loss" or name.startswith("eval_loss")) and not math.isfinite(value):
            raise ValueError(
                f"{name} is {value} at step {step}: begin anew with a lower --learning_rate, or a higher"
                f" --warmup_ratio. What was saved before is kept"
            )


def newest_whole_checkpoint(output_dir: Path) -> Path | None:
    """The newest checkpoint-N that was written to its end; half-written ones of a killed run are passed over."""
    ranks = ["rng_state.pth"] if world_size() == 1 else [f"rng_state_{rank}.pth" for rank in range(world_size())]
    found = [(number, folder) for number, folder in _checkpoints(output_dir) if _is_whole(folder, ranks)]
    return max(found)[1] if found else None


def remains(output_dir: Path) -> list[Path]:
    """Checkpoints that no run can go on from, on any number of ranks: half-written ones, or half-removed ones."""
    return [
        folder
        for _, folder in _checkpoints(output_dir)
        if not _is_whole(folder, [path.name for path in folder.glob("rng_state*.pth")] or ["rng_state.pth"])
    ]


def _checkpoints(output_dir: Path) -> list[tuple[int, Path]]:
    """(N, folder) of each checkpoint-N."""
    found = [(folder.name.rpartition("-")[2], folder) for folder in output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*")]
    return [(int(number), folder) for number, folder in found if number.isdecimal()]


def _is_whole(folder: Path, ranks: list[str]) -> bool:
    """Whether everything was written, with the random states of `ranks`."""
    try:
        json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))  # the last file that is written
    except (OSError, ValueError):
        return False
    if any(folder.glob("global_step*")):  # DeepSpeed keeps its own optimizer files
        return all((folder / name).is_file() for name in ranks)
    optimizer = "optimizer.bin" if (folder / "pytorch_model_fsdp.bin").is_file() else "optimizer.pt"
    return all((folder / name).is_file() for name in [*ranks, optimizer, "scheduler.pt"])

"""Checkpoints of the RQ-VAE: tensors and plain tables, written atomically, read without unpickling anything else."""

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from index.config import RQVAEConfig, as_paths, from_table
from index.rqvae import RQVAE
from src.common.artifacts import atomic_path
from src.common.record import plain

BEST_COLLISION = "best_collision_model.pth"
LAST = "last.pth"


class Checkpoint(NamedTuple):
    """A trained RQ-VAE, on the asked device and in evaluation mode, and where it came from."""

    model: RQVAE
    path: Path
    settings: dict[str, Any]  # all settings of the training run, as plain values
    epoch: int | None

    @property
    def data_path(self) -> tuple[Path, ...]:
        """The embeddings it was trained on; none where it does not say."""
        return as_paths(self.settings.get("data_path") or None)


def save_checkpoint(path: Path, table: Mapping[str, Any]) -> None:
    with atomic_path(path) as temporary:
        torch.save(dict(table), temporary)


def checkpoint_table(model: RQVAE, config: RQVAEConfig, epoch: int, **more: Any) -> dict[str, Any]:
    """What every checkpoint holds: weights, settings and epoch."""
    return {"settings": plain(config), "epoch": epoch, "state_dict": model.state_dict(), **more}


def resolve_checkpoint(path: str | Path, name: str = BEST_COLLISION) -> Path:
    """The checkpoint that `path` names: itself, or file `name` of a run folder."""
    path = Path(path)
    found = path / name if path.is_dir() else path
    if not found.is_file():
        raise FileNotFoundError(f"{found} does not exist. Train an RQ-VAE with: bash index/run.sh")
    return found


def read_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The table of a checkpoint; an `argparse.Namespace` of settings is let in, nothing else is unpickled."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location=device, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path} is not a whole checkpoint of tensors and plain tables ({error}). Copy it again, or train again"
            f" with: bash index/run.sh"
        ) from error


def load_checkpoint(path: str | Path, device: torch.device) -> Checkpoint:
    """A model from a checkpoint or run folder, of this code or of LC-Rec's.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is cut off, or its weights do not fit its settings.
    """
    path = resolve_checkpoint(path)
    table = read_checkpoint(path, device)
    if "state_dict" not in table or not ("settings" in table or "args" in table):
        raise ValueError(f"{path} holds no RQ-VAE: it lacks `state_dict` or the settings. Give one of index/main.py")
    settings = dict(table["settings"]) if "settings" in table else _old_settings(table["args"])
    state = _complete(table["state_dict"])
    if not state["normalizer.widths"].sum():
        raise ValueError(f"{path} holds no encoder: it was made by another model than index/rqvae.py")
    model = RQVAE(from_table(RQVAEConfig, settings), state["normalizer.widths"].tolist())
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path}: the weights do not fit the settings stored with them ({error})") from error
    if not model.rq.initialised:
        raise ValueError(f"{path}: its codebooks were never initialised. Train on with: bash index/run.sh")
    return Checkpoint(model.to(device).eval(), path, settings, table.get("epoch"))


def _old_settings(args: argparse.Namespace | Mapping[str, Any]) -> dict[str, Any]:
    """Settings of an LC-Rec checkpoint under our names."""
    old = dict(vars(args) if isinstance(args, argparse.Namespace) else args)
    old["codebook_sizes"] = old.get("num_emb_list")
    old["learning_rate"] = old.get("lr")
    return {name: value for name, value in old.items() if value is not None}


def _complete(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Adds the buffers that old checkpoints lack: codebooks are initialised, inputs are taken as they are."""
    state = dict(state)
    for key in [key for key in state if key.endswith(".embedding.weight")]:
        level = key.removesuffix("embedding.weight")
        state.setdefault(f"{level}initialised", torch.tensor(True))
        state.setdefault(f"{level}usage", torch.zeros(len(state[key]), dtype=torch.int64))
    encoders = (value.shape[1] for key, value in state.items() if key.startswith("encoder.") and value.ndim == 2)
    in_dim = len(state["normalizer.mean"]) if "normalizer.mean" in state else next(encoders, 0)
    state.setdefault("normalizer.mean", torch.zeros(in_dim))
    state.setdefault("normalizer.scale", torch.ones(in_dim))
    state.setdefault("normalizer.widths", torch.tensor([in_dim]))
    return state

"""The table of model families (a new one is a row), and what a folder holds by its JSON files: told without torch."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from src.common.artifacts import TOKEN_META, file_hash, load_token_meta, read_json
from src.common.record import Entry, model_entry
from src.common.sid import SidIndex

HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")  # owner/name
OWN_FOLDERS = ("models", "output", "data")  # where runs put things, there or not yet: never an owner


@dataclass(frozen=True)
class Family:
    """What differs between families of models.

    Attributes:
        config_types: `model_type` in the config of its checkpoints.
        vision: takes pictures.
        visual_modules: names in module paths that belong to the vision tower and its projector.
        mrope: has multimodal rotary positions (three rows of position ids).
    """

    config_types: tuple[str, ...]
    vision: bool = False
    visual_modules: tuple[str, ...] = ()
    mrope: bool = False


FAMILIES: dict[str, Family] = {
    "qwen2_vl": Family(("qwen2_vl",), True, ("visual",), mrope=True),
    "qwen2_5_vl": Family(("qwen2_5_vl",), True, ("visual",), mrope=True),
    "qwen3_vl": Family(("qwen3_vl",), True, ("visual",), mrope=True),
    "llava_onevision": Family(("llava_onevision",), True, ("vision_tower", "multi_modal_projector", "image_newline")),
    "qwen2": Family(("qwen2",)),
    "qwen2_5": Family(("qwen2",)),
    "qwen": Family(("qwen2",)),
    "qwen3": Family(("qwen3",)),
    "llama": Family(("llama",)),
}


RECURRENT = ("qwen3_5", "qwen3_5_moe", "qwen3_next", "qwen4_exp")  # model types with linear attention in some layers

CAPTIONERS = (
    "blip2",
    "blip-2",
    "instructblip",
)  # model types that write about a picture, and cannot be fine-tuned here


def family_of(model_type: str, vision: bool | None, entry: str) -> Family:
    """The row of `--model_type`.

    Args:
        vision: whether `entry` trains vision-language models or text models; None: both.

    Raises:
        ValueError: no such type, or one that belongs to another entry.
    """
    if model_type not in FAMILIES:
        raise ValueError(f"unknown --model_type {model_type!r}: choose from {', '.join(FAMILIES)}")
    family = FAMILIES[model_type]
    if vision is not None and family.vision != vision:
        other = "train_ddp_vl" if family.vision else "train_ddp"
        raise ValueError(
            f"--model_type {model_type} is a {'vision-language' if family.vision else 'text'} model, which {entry} does"
            f" not train: use python -m src.finetune.{other}"
        )
    return family


def family_of_config(model: str | Path, config_type: str | None, model_type: str | None = None) -> Family:
    """The row of a model whose config names `config_type`.

    Raises:
        ValueError: it is of another family than `model_type` says, or of none that GRec knows.
    """
    fitting = [name for name, family in FAMILIES.items() if config_type in family.config_types]
    if config_type in RECURRENT:
        raise ValueError(
            f"the model at {model} is a {config_type}, whose linear attention carries a state from token to token: it"
            f" takes no mask, by which samples share a row and beams share a prompt. Use a qwen3_vl or a qwen3"
        )
    if not fitting:
        raise ValueError(f"the model at {model} is a {config_type}; GRec knows {', '.join(FAMILIES)}")
    if model_type is not None and model_type not in fitting:
        raise ValueError(f"the model at {model} is a {config_type}: use --model_type {fitting[0]}, not {model_type}")
    return FAMILIES[fitting[0]]


def model_type_of(model: str | Path) -> str:
    """The first name in `FAMILIES` that fits the config.json of a folder.

    Raises:
        ValueError: there is no such file, or it is of no family that GRec knows.
    """
    config = Path(model, "config.json")
    if not config.is_file():
        raise ValueError(f"{model} is no folder with a config.json that names its family: give --model_type")
    config_type = read_json(config).get("model_type")
    family = family_of_config(model, config_type)
    return next(name for name, row in FAMILIES.items() if row is family)


# ---- what a folder holds ---------------------------------------------------------------------------------------------
def find_config(model: str | Path) -> Path | None:
    """The config.json of a model; None where it is on the hub, which is not asked.

    `owner/name` is taken for a name on the hub, unless there is a folder `owner` here; anything else must be a path.

    Raises:
        FileNotFoundError: the model is not there, as far as this machine's files tell.
    """
    folder, config = Path(model), Path(model, "config.json")
    if not folder.is_dir():
        if not HUB_NAME.fullmatch(str(model)) or folder.parent.exists() or folder.parts[0] in OWN_FOLDERS:
            raise FileNotFoundError(
                f"there is no model at {model}: the folder does not exist. Give a folder with weights, or make a tiny"
                f" model with python3 scripts/make_tiny_model.py"
            )
        from huggingface_hub import constants, try_to_load_from_cache

        cached = try_to_load_from_cache(str(model), "config.json")
        if not isinstance(cached, str):
            if constants.HF_HUB_OFFLINE:
                raise FileNotFoundError(
                    f"there is no model at {model}: it is neither a folder nor in the cache, and HF_HUB_OFFLINE forbids"
                    f" to fetch it. Give a folder with weights"
                )
            return None
        config = Path(cached)
    if not config.is_file():
        raise FileNotFoundError(f"there is no model at {model}: it has no config.json. Give a folder with weights")
    return config


def model_input(model: str | Path) -> Entry:
    """A model as an input of a run (src/common/record.py); without a hash where this machine has none of its files."""
    if Path(model).is_dir():
        return model_entry(model)
    try:
        config = find_config(model)
    except FileNotFoundError:  # what loads it will say so
        config = None
    if config is None or not any((*config.parent.glob("*.safetensors"), *config.parent.glob("*.bin"))):
        return {"path": str(model), "sha256": None}
    return model_entry(config.parent, named=model)


def base_input(ckpt_model: str | Path, base_model: str | Path) -> Entry:
    """`base_model` as an input of what an adapter is used for.

    Raises:
        ValueError: a file of its weights is another than when the adapter was trained: what it adds fits nothing here.
    """
    entry, record = model_input(base_model), Path(ckpt_model, "run.json")
    before = read_json(record).get("inputs", {}).get("base model", {}) if record.is_file() else {}
    for name, digest in before.get("files", {}).items():
        if name.endswith((".safetensors", ".bin")) and entry.get("files", {}).get(name, digest) != digest:
            raise ValueError(
                f"--base_model {base_model} is not what {ckpt_model} was trained on, {before['path']}: its {name} holds"
                f" other weights. Give that one"
            )
    return entry


def check_base_model(model: str | Path, model_type: str | None = None) -> None:
    """Refuses a model that is not there, or is of the wrong family, as far as this machine's files tell.

    Raises:
        FileNotFoundError, ValueError: as said.
    """
    config = find_config(model)
    if config is None:
        return
    table = read_json(config)
    family_of_config(model, table.get("model_type"), model_type)
    text = table.get("text_config") or table
    if text.get("use_sliding_window") or "sliding_attention" in (text.get("layer_types") or ()):
        raise ValueError(
            f"the model at {model} has layers that see a window of {text.get('sliding_window')} tokens only, which the"
            f" masks of packed rows and of beams do not tell of. Where prompts are shorter, set use_sliding_window to"
            f" false and layer_types to full_attention in its config.json"
        )
    if Path(model).is_dir():
        check_weights(model)


def check_weights(folder: str | Path) -> None:
    """Refuses a folder whose weights are missing or cut off, by the headers of its files and their lengths alone.

    Raises:
        FileNotFoundError, ValueError: as said; a copy or download that stopped half-way is the usual cause.
    """
    shards = Path(folder, "model.safetensors.index.json")
    named = set(read_json(shards)["weight_map"].values()) if shards.is_file() else set()
    if missing := sorted(name for name in named if not Path(folder, name).is_file()):
        raise FileNotFoundError(
            f"{folder} lacks {len(missing)} of {len(named)} files of weights, {missing[0]} first: copy them too"
        )
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files and not any(Path(folder).glob("*.bin")):
        raise FileNotFoundError(f"{folder} holds no weights (*.safetensors): copy or download them again")
    for file in files:
        size, told = file.stat().st_size, told_size(file)
        if size != told:
            raise ValueError(f"{file} has {size:,} bytes, and its header tells of {told:,}: copy or download it again")


def told_size(file: Path) -> int:
    """Bytes that a .safetensors file should have, by its header.

    Raises:
        ValueError: it has no whole header.
    """
    with file.open("rb") as stream:
        start = stream.read(8)
        length = int.from_bytes(start, "little")
        if start == b"version ":
            raise ValueError(f"{file} is a pointer of Git LFS, without the weights: git lfs pull")
        try:
            table = json.loads(stream.read(length) if length < file.stat().st_size else b"")
            ends = [row["data_offsets"][1] for name, row in table.items() if name != "__metadata__"]
        except (ValueError, AttributeError, TypeError, KeyError, IndexError) as error:
            raise ValueError(f"{file} has no whole header: copy or download it again") from error
    return 8 + length + max(ends, default=0)


def caption_type(model: str | Path) -> str | None:
    """The model type of a folder with a captioner; None for any other folder."""
    config = Path(model, "config.json")
    kind = read_json(config).get("model_type") if config.is_file() else None
    return kind if kind in CAPTIONERS else None


def check_finetuned(ckpt_model: str | Path, base_model: str | Path | None, lora: bool) -> None:
    """Refuses a folder that is not what `lora` says.

    Raises:
        FileNotFoundError, ValueError: `ckpt_model` is no folder or holds no model, `lora` without a base, or a base
            that is not there.
    """
    ckpt = Path(ckpt_model)
    if not ckpt.is_dir():
        raise FileNotFoundError(f"--ckpt_model {ckpt} is no folder: give the --output_dir of a fine-tuning run")
    is_adapter = (ckpt / "adapter_config.json").is_file()
    if not is_adapter and not (ckpt / "config.json").is_file():
        unfinished = sorted(path.name for path in ckpt.glob("checkpoint-*"))
        cure = f"{unfinished[-1]} in it may do" if unfinished else "give the --output_dir of a fine-tuning run"
        raise FileNotFoundError(f"--ckpt_model {ckpt} holds no finished model, neither whole nor an adapter: {cure}")
    if lora != is_adapter:
        kind, cure = (
            ("a LoRA adapter", "add --lora and --base_model (launchers: LORA=True)")
            if is_adapter
            else ("a whole model", "leave out --lora (launchers: LORA=False)")
        )
        raise ValueError(f"{ckpt} holds {kind}: {cure}")
    if not lora:
        check_base_model(ckpt)
        return
    if base_model is None:
        raise ValueError("--lora needs --base_model: the adapter holds only what differs from it")
    check_base_model(base_model)
    record, config = ckpt / "run.json", find_config(base_model)
    trained = read_json(record).get("config", {}).get("model_type") if record.is_file() else None
    if config and trained in FAMILIES:
        kind = read_json(config).get("model_type")
        if kind not in FAMILIES[trained].config_types:
            raise ValueError(
                f"--base_model {base_model} is a {kind}, and {ckpt} was trained on a {trained}: give that one"
            )
    check_weights(ckpt)


def check_index(ckpt_model: str | Path, dataset: str, index: SidIndex) -> None:
    """Refuses an index other than the one that the checkpoint was trained with, and a model that knows no SIDs."""
    meta = load_token_meta(ckpt_model)
    if meta is not None:
        indexes = meta.get("indexes", {})
        known = {meta.get("index_sha256"), *indexes.values()} - {None}
        if dataset in indexes:
            known = {indexes[dataset]}
        if known and file_hash(index.file) not in known:
            raise ValueError(
                f"{ckpt_model} was trained with another SID index than {index.path}: its tokens would name other"
                f" items. Give the index that its run.json names"
            )
        return
    # A model of another system passes if its tokenizer has the tokens of the index.
    token = index.all_tokens[0]
    files = [Path(ckpt_model, name) for name in ("tokenizer.json", "added_tokens.json")]
    if not any(f'"{token}"' in file.read_text(encoding="utf-8") for file in files if file.is_file()):
        raise ValueError(
            f"{ckpt_model} was not fine-tuned on SIDs: it has no {TOKEN_META}, and its tokenizer does not know"
            f" {token}. Fine-tune it first (python -m src.finetune.train_ddp_vl) and give that --output_dir"
        )

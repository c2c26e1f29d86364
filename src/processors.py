"""Processors and tokenizers of published and local models, with and without torchvision.

transformers 5 builds the processors of Qwen2-VL, Qwen2.5-VL, Qwen3-VL and LLaVA-OneVision only with a video processor,
and every video processor needs torchvision, which CPU machines often lack. GRec shows no videos: `image_only` removes
that slot and leaves the files that a processor saves interchangeable with those of `AutoProcessor`.
"""

import json
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, AutoProcessor, AutoTokenizer
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.utils import cached_file, is_torchvision_available

# Files that may name the class of the processor, in the order in which transformers itself reads them.
CLASS_FILES = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
# What `AutoProcessor` asks for where it finds a processor with a video slot.
VIDEO_PROCESSORS = {
    "Qwen2VLProcessor": "Qwen2VLVideoProcessor",
    "Qwen2_5_VLProcessor": "Qwen2VLVideoProcessor",
    "Qwen3VLProcessor": "Qwen3VLVideoProcessor",
    "LlavaOnevisionProcessor": "LlavaOnevisionVideoProcessor",
}


def image_only(cls: Any) -> Any:
    """`cls` without its video slot, under the same name; `cls` itself where it has none."""
    slots = [slot for slot in cls.get_attributes() if "video" not in slot]
    if len(slots) == len(cls.get_attributes()):
        return cls

    def save_pretrained(self, save_directory, **options):
        saved = super(without_video, self).save_pretrained(save_directory, **options)
        path = Path(save_directory) / "processor_config.json"
        settings = json.loads(path.read_text(encoding="utf-8"))
        if cls.__name__ in VIDEO_PROCESSORS:
            settings.setdefault("video_processor", {"video_processor_type": VIDEO_PROCESSORS[cls.__name__]})
        path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return saved

    without_video: Any = type(
        cls.__name__,
        (cls,),
        {
            "__module__": cls.__module__,
            "save_pretrained": save_pretrained,
            "get_attributes": classmethod(lambda _: list(slots)),
        },
    )
    return without_video


def load_processor(path: str | Path, **options: Any):
    """The processor of a vision-language model, or the tokenizer of a text model.

    Args:
        path: a folder with a model, or with what `save_pretrained` of a processor or tokenizer wrote; or a hub name.
        options: passed on to `from_pretrained`, such as `min_pixels`, `padding_side` or `revision`.

    Raises:
        OSError, ValueError: no tokenizer is there.
    """
    name = processor_class(path, options.get("revision"))
    if name is None:
        return AutoTokenizer.from_pretrained(path, **options)
    cls = AutoProcessor if is_torchvision_available() else image_only(getattr(transformers, name))
    processor = cls.from_pretrained(path, **options)
    if processor.chat_template is None:  # BLIP-2 and InstructBLIP do not read it themselves
        processor.chat_template = processor.tokenizer.chat_template
    return processor


def processor_class(path: str | Path, revision: str | None = None) -> str | None:
    """Name of the processor class of a model; None for a text model, which has only a tokenizer."""
    for file in CLASS_FILES:
        found = _local_copy(path, file, revision)
        if found and (name := json.loads(Path(found).read_text(encoding="utf-8")).get("processor_class")):
            return name
    if _local_copy(path, "config.json", revision) is None:  # a folder with only a tokenizer, such as an adapter's
        return None
    model_type = AutoConfig.from_pretrained(path, **({"revision": revision} if revision else {})).model_type
    return PROCESSOR_MAPPING_NAMES.get(model_type)


def _local_copy(path: str | Path, file: str, revision: str | None) -> str | None:
    return cached_file(
        str(path),
        file,
        revision=revision,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )

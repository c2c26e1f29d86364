"""Models that write answers: fine-tuned and published ones of GRec's families, and captioners such as BLIP-2."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from src.collate import PromptCollator
from src.common.images import open_image
from src.common.seed import random_numbers
from src.families import caption_type
from src.models import load_captioner, load_finetuned
from src.prompt import PromptBuilder
from src.tasks.catalogue import Catalogue
from src.tasks.task import Template
from src.text_generation.config import TextConfig
from src.text_generation.decoding import Decoding, generate
from src.text_generation.plan import prompt_settings
from src.text_generation.questions import Samples, Texts


class Answers(NamedTuple):
    """What was written: one text a sample, and what of it is told in the results."""

    texts: list[str]
    cut: np.ndarray  # (B,) bool, ended by the limit
    control: np.ndarray  # (B,) bool, held control or SID tokens, which are left out of the text


class Generator:
    """A decoder with the prompts of its catalogue."""

    def __init__(self, config: TextConfig, catalogue: Catalogue, samples: Samples, device: torch.device):
        self.catalogue, self.samples, self.device, self.seed = catalogue, samples, device, config.seed
        dtype = torch.bfloat16 if config.bf16 else torch.float32
        self.loaded = load_finetuned(config.ckpt_model, config.base_model, config.lora, dtype)
        self.loaded.model.to(device).eval()
        self.builder = PromptBuilder(
            catalogue, self.loaded.tokenizer, self.loaded.processor, prompt_settings(config), self.loaded.merge_size
        )
        tokenizer = self.loaded.tokenizer
        self.collate = PromptCollator(tokenizer.pad_token_id, self.loaded.family.mrope)
        ends = {self.builder.end_token, tokenizer.eos_token_id, tokenizer.pad_token_id}
        self.stop = {int(token) for token in ends if token is not None}
        self.control = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}

    def longest_answer(self, template: Template, samples: Samples) -> int:
        """Tokens of the longest right answer among some samples, its end included."""
        sizes = [0]
        for number, item in enumerate(samples.items.tolist()):
            history = samples.history(self.catalogue, number)
            sizes.append(len(self.builder.answer_ids(template, history, item, int(samples.rows[number]))))
        return max(sizes)

    def answer(
        self, template: Template, prompt_id: int, numbers: np.ndarray, limit: int, decoding: Decoding
    ) -> Answers:
        """The answers to one batch of questions, `numbers` of the samples."""
        questions = [
            self.builder.question(
                template,
                self.samples.history(self.catalogue, int(number)),
                int(self.samples.items[number]),
                limit,
                int(self.samples.rows[number]),
            )
            for number in numbers
        ]
        inputs = {name: value.to(self.device) for name, value in self.collate(questions).items()}
        seeds = random_numbers(f"{self.seed}/{prompt_id}", np.asarray(numbers)).tolist()
        written = generate(self.loaded.model, inputs, self.stop, limit, decoding, seeds)
        return self.read(written)

    def read(self, written: Sequence[np.ndarray]) -> Answers:
        """Texts of token ids; control and SID tokens never become text."""
        texts, cut, control = [], [], []
        for ids in written:
            ended = int(ids[-1]) in self.stop
            body = ids[:-1] if ended else ids
            words = [token for token in body.tolist() if token not in self.control]
            texts.append(clean(self.loaded.tokenizer.decode(words, skip_special_tokens=True)))
            cut.append(not ended)
            control.append(len(words) != len(body))
        return Answers(texts, np.array(cut), np.array(control))


class Captioner:
    """BLIP-2 or InstructBLIP: a picture and a question in words of its own, through the model's own processor."""

    def __init__(self, config: TextConfig, catalogue: Catalogue, samples: Samples, device: torch.device):
        from transformers import GenerationConfig

        self.catalogue, self.samples, self.device, self.seed = catalogue, samples, device, config.seed
        dtype = torch.bfloat16 if config.bf16 else torch.float32
        self.model, self.processor = load_captioner(config.ckpt_model, dtype)
        self.model.to(device).eval()
        self.tokenizer = self.processor.tokenizer
        self.texts = Texts(catalogue, samples, config.prompt_lang or "en")
        language = self.model.language_model
        self.encoder_decoder = bool(language.config.is_encoder_decoder)
        self.tokenizer.padding_side = "right" if self.encoder_decoder else "left"
        start = getattr(language.config, "decoder_start_token_id", None)
        # BLIP-2 with OPT ends what it writes with a line break: its config says so, its tokenizer does not.
        ends = [*np.atleast_1d(language.config.eos_token_id).tolist(), self.tokenizer.eos_token_id]
        self.ends = sorted({int(token) for token in ends if token is not None})
        self.plain = {
            "eos_token_id": self.ends,
            "pad_token_id": self.tokenizer.pad_token_id,
            "bos_token_id": self.tokenizer.bos_token_id,
            "decoder_start_token_id": start,
        }
        for model in (self.model, language):
            model.generation_config = GenerationConfig(**self.plain)  # nothing of the checkpoint's leaks in
        self.control = {*self.tokenizer.all_special_ids, *self.tokenizer.get_added_vocab().values()}

    def longest_answer(self, template: Template, samples: Samples) -> int:
        texts = Texts(self.catalogue, samples, self.texts.language)
        answers = [texts.filled(template.without(texts.empty(i)).answer, i) for i in range(len(samples))]
        ids = self.tokenizer(answers, add_special_tokens=False)["input_ids"] if answers else []
        return max([0, *(len(row) + 1 for row in ids)])

    def answer(
        self, template: Template, prompt_id: int, numbers: np.ndarray, limit: int, decoding: Decoding
    ) -> Answers:
        from transformers import GenerationConfig

        questions = [self.texts.filled(template.prompt, int(number)) for number in numbers]
        pictures = [self.picture(int(self.samples.items[number])) for number in numbers]
        made = dict(self.processor(text=questions, images=pictures, padding=True, return_tensors="pt"))
        if reader := getattr(self.processor, "qformer_tokenizer", None):
            # The processor pads its questions on the side of the language model's, where their positions would shift.
            read = reader(questions, padding=True, padding_side="right", truncation=True, return_tensors="pt")
            made |= {f"qformer_{name}": read[name] for name in ("input_ids", "attention_mask")}
        inputs = {
            name: value.to(self.device, self.model.dtype) if value.is_floating_point() else value.to(self.device)
            for name, value in made.items()
        }
        settings = decoding._asdict()
        if not decoding.do_sample:
            settings = {"do_sample": False, "repetition_penalty": decoding.repetition_penalty}
        seed = int(random_numbers(f"{self.seed}/{prompt_id}", np.asarray(numbers[:1]))[0])
        with torch.inference_mode(), torch.random.fork_rng():
            torch.manual_seed(seed)  # a batch holds the same samples on any number of ranks
            rules = GenerationConfig(max_new_tokens=limit, num_beams=1, **self.plain, **settings)
            ids = self.model.generate(**inputs, generation_config=rules)
        begin = 1 if self.encoder_decoder else inputs["input_ids"].shape[1]
        return self.read(ids[:, begin:].cpu().numpy())

    def picture(self, item: int) -> Image.Image:
        """The picture of an item; a white one where there is none, since a captioner cannot be asked without."""
        path: Path | None = self.catalogue.image_files.get(item)
        return open_image(path) if path else Image.new("RGB", (224, 224), "white")

    def read(self, written: np.ndarray) -> Answers:
        texts, cut, control = [], [], []
        stop = {*self.ends, self.tokenizer.pad_token_id}
        for ids in written.tolist():
            end = next((place for place, token in enumerate(ids) if token in stop), None)
            body = ids[:end]
            words = [token for token in body if token not in self.control]
            texts.append(clean(self.tokenizer.decode(words, skip_special_tokens=True)))
            cut.append(end is None)
            control.append(len(words) != len(body))
        return Answers(texts, np.array(cut), np.array(control))


def clean(text: str) -> str:
    """Without surrounding blanks and without NUL, which ends a text in an array of numpy."""
    return text.replace("\0", "").strip()


def make_generator(
    config: TextConfig, catalogue: Catalogue, samples: Samples, device: torch.device
) -> Generator | Captioner:
    kind = Captioner if caption_type(config.ckpt_model) else Generator
    return kind(config, catalogue, samples, device)


def join_fields(answers: Mapping[str, Answers], labels: Mapping[str, str]) -> Answers:
    """Answers to a question a field as one labelled answer; a field without words is left out."""
    texts = []
    for row in range(len(next(iter(answers.values())).texts)):
        lines = [(labels[field], " ".join(part.texts[row].split())) for field, part in answers.items()]
        texts.append("\n".join(f"{label}: {words}" for label, words in lines if words))
    parts: list[Any] = list(answers.values())
    return Answers(texts, np.any([part.cut for part in parts], 0), np.any([part.control for part in parts], 0))

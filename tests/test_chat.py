"""The model's own chat around a wording, and what ends its turn."""

import numpy as np
import pytest
from tokenizers.processors import TemplateProcessing

from src.chat import PLAIN_FRAME
from src.collate import PromptCollator, TrainingCollator
from src.tasks.task import load_task
from tests.toy import ALL_FAMILIES, fresh_model, shared_model, toy_builder
from tests.toy_prompts import HISTORY, SEEN, example


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_end_of_turn_is_the_chats(family):
    builder = toy_builder(shared_model(family))
    expected = "<|eot_id|>" if family == "llama" else "<|im_end|>"
    assert builder.tokenizer.decode([builder.end_token]) == expected


def test_model_without_chat_template_gets_a_plain_frame():
    loaded = fresh_model("qwen2")
    loaded.tokenizer.chat_template = None
    builder = toy_builder(loaded)
    template = load_task("seqrec").templates[0]
    text = loaded.tokenizer.decode(builder.question(template, HISTORY, SEEN, 4).ids)
    head, tail = PLAIN_FRAME.split("{}")
    assert text.startswith(head + template.prompt.split("{")[0])
    assert text.endswith(tail)
    assert builder.end_token == loaded.tokenizer.eos_token_id


def test_chat_with_a_system_turn_and_one_token_for_all_ends():
    """As SmolLM2 has it: <|im_start|> goes before every text, and <|im_end|> ends turns, texts and padded rows."""
    loaded = fresh_model("qwen2")
    tokenizer, begin, end = loaded.tokenizer, "<|im_start|>", "<|im_end|>"
    tokenizer.chat_template = (
        "{% for message in messages %}{% if loop.first %}{{ '<|im_start|>system\\nYou help.<|im_end|>\\n' }}{% endif %}"
        "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )
    tokenizer.bos_token, tokenizer.pad_token = begin, end
    first = [(begin, tokenizer.bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{begin} $A", special_tokens=first)
    assert tokenizer("x")["input_ids"][0] == tokenizer.bos_token_id
    builder = toy_builder(loaded)
    assert builder.end_token == tokenizer.pad_token_id
    samples, questions = [], []
    for name in ("seqrec", "item2index", "index2item"):
        template = load_task(name).templates[0]
        sample = builder.sample(template, **example(template))
        question = builder.question(template, **example(template), reserve=len(sample.targets))
        np.testing.assert_array_equal(sample.ids[: len(question.ids)], question.ids)
        text = tokenizer.decode([*sample.ids, sample.targets[-1]])
        assert text.startswith("<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\n")
        assert text.endswith(end)
        assert (text.count(begin), text.count(end)) == (3, 3)
        assert [*sample.ids, sample.targets[-1]] == tokenizer(text, add_special_tokens=False)["input_ids"]
        samples.append(sample)
        questions.append(question)
    packed = TrainingCollator(tokenizer.pad_token_id, mrope=False, row_length=1)(samples)
    assert (packed["labels"] == builder.end_token).sum() == len(samples)  # padding is never learnt
    left = PromptCollator(tokenizer.pad_token_id, mrope=False)(questions)
    assert left["attention_mask"].sum() == sum(len(question.ids) for question in questions)

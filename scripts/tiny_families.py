"""Architecture, tokenizer and processor of each family that make_tiny_model.py builds.

Special tokens and chat formats follow the published models: ChatML for Qwen and LLaVA-OneVision, Llama 3's headers for
Llama, question and answer for BLIP-2 and InstructBLIP, and the bare text for T5.
"""

from collections.abc import Sequence

import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX as WORDS
from transformers.utils import is_torchvision_available

from src.processors import VIDEO_PROCESSORS, image_only

PATCH_SIZE = 14
VISION_DEPTH, VISION_WIDTH, VISION_HEADS = 2, 64, 4
NUM_QUERY_TOKENS = 8  # soft tokens of an image in BLIP-2 and InstructBLIP
MAX_POSITIONS = 4096

PARTS = (
    "{%- if message['content'] is string %}{{ message['content'] }}"
    "{%- else %}{%- for part in message['content'] %}"
    "{%- if part['type'] == 'image' %}{{ 'IMAGE' }}{%- elif part['type'] == 'text' %}{{ part['text'] }}{%- endif %}"
    "{%- endfor %}{%- endif %}"
)
CHATML = (
    "{%- for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}" + PARTS + "{{ '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{%- for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}" + PARTS + "{{ '<|eot_id|>' }}"
    "{%- endfor %}{%- if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
)
QUESTION_ANSWER = (
    "{%- for message in messages %}{%- if message['role'] == 'assistant' %}{{ ' Answer: ' }}"
    + PARTS
    + "{{ eos_token }}"
    "{%- else %}{{ 'Question: ' }}" + PARTS + "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ ' Answer: ' }}{%- endif %}"
)
PLAIN = "{%- for message in messages %}" + PARTS + "{%- endfor %}"

CHATML_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
VISION_TOKENS = ["<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
LLAMA_TOKENS = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|finetune_right_pad_id|>",
]


def build(config, texts: Sequence[str]):
    """Model and processor (tokenizer for a text model) of `config.family`, with weights from torch's generator."""
    return _BUILDERS[config.family](config, texts)


# ---- tokenizers ------------------------------------------------------------------------------------------------------
def train_bpe(texts: Sequence[str], vocab_size: int, special_tokens: Sequence[str]) -> Tokenizer:
    """Byte-level BPE, which can write every text, with the special tokens first.

    Words are cut as Qwen's tokenizers cut them, since `AutoTokenizer` puts Qwen2's own rule over the saved one.
    """
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return bpe


def chatml_tokenizer(config, texts: Sequence[str], image: str = "", extra: Sequence[str] = (), **options):
    """Qwen's: no beginning token, messages end with <|im_end|>. `image` is what stands for a picture in a message."""
    bpe = train_bpe(texts, config.vocab_size, [*CHATML_TOKENS, *extra])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        chat_template=CHATML.replace("IMAGE", image),
        **{"extra_special_tokens": [*CHATML_TOKENS[1:], *extra], **options},
    )


def llama_tokenizer(config, texts: Sequence[str]):
    """Llama 3's: every text starts with <|begin_of_text|>."""
    bpe = train_bpe(texts, config.vocab_size, LLAMA_TOKENS)
    bos = LLAMA_TOKENS[0]
    begin = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, bpe.token_to_id(bos))])
    bpe.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), begin])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=bos,
        eos_token="<|eot_id|>",
        pad_token="<|finetune_right_pad_id|>",
        extra_special_tokens=LLAMA_TOKENS[1:],
        padding_side="left",
        chat_template=LLAMA3.replace("IMAGE", ""),
    )


def classic_tokenizer(config, texts: Sequence[str], chat_template: str, extra: Sequence[str] = (), **options):
    """<pad>, </s> and <unk>, as T5 and OPT have them."""
    bpe = train_bpe(texts, config.vocab_size, ["<pad>", "<s>", "</s>", "<unk>", *extra])
    if not extra:  # T5: every text ends with </s>
        end = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", bpe.token_to_id("</s>"))])
        bpe.post_processor = end
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens=list(extra),  # a list: BLIP-2 breaks on a tokenizer that names its image token
        chat_template=chat_template.replace("IMAGE", ""),
        **options,
    )


# ---- text models -----------------------------------------------------------------------------------------------------
def decoder_settings(config, tokenizer) -> dict:
    """Settings that Qwen2, Qwen3, Llama and the language models inside the VLMs share."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_heads // 2 if config.num_heads % 2 == 0 else config.num_heads,
        "max_position_embeddings": MAX_POSITIONS,
        "initializer_range": config.init_std,
        "tie_word_embeddings": config.tie_word_embeddings,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def _qwen2(config, texts):
    tokenizer = chatml_tokenizer(config, texts)
    settings = transformers.Qwen2Config(**decoder_settings(config, tokenizer))
    return transformers.Qwen2ForCausalLM(settings), tokenizer


def _qwen3(config, texts):
    tokenizer = chatml_tokenizer(config, texts)
    head_dim = config.hidden_size // config.num_heads
    settings = transformers.Qwen3Config(**decoder_settings(config, tokenizer), head_dim=head_dim)
    return transformers.Qwen3ForCausalLM(settings), tokenizer


def _llama(config, texts):
    tokenizer = llama_tokenizer(config, texts)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**decoder_settings(config, tokenizer))), tokenizer


def _t5(config, texts):
    tokenizer = classic_tokenizer(config, texts, PLAIN, padding_side="right")
    settings = transformers.T5Config(
        vocab_size=len(tokenizer),
        d_model=config.hidden_size,
        d_kv=config.hidden_size // config.num_heads,
        d_ff=config.intermediate_size,
        num_layers=config.num_layers,
        num_decoder_layers=config.num_layers,
        num_heads=config.num_heads,
        tie_word_embeddings=config.tie_word_embeddings,
        decoder_start_token_id=tokenizer.pad_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return transformers.T5ForConditionalGeneration(settings), tokenizer


# ---- vision-language models ------------------------------------------------------------------------------------------
def image_processor(name: str, **settings):
    """The image processor `name`, in its Pillow form where torchvision is missing."""
    return getattr(transformers, name if is_torchvision_available() else f"{name}Pil")(**settings)


def processor(name: str, **parts):
    cls = getattr(transformers, name)
    if is_torchvision_available() and name in VIDEO_PROCESSORS:
        return cls(**parts, video_processor=getattr(transformers, VIDEO_PROCESSORS[name])())
    return image_only(cls)(**parts)


def qwen_image_settings(config) -> dict:
    """Square pictures become exactly image_size x image_size.

    Qwen rounds sides to whole blocks of 28 pixels within these areas. A quarter of a block of slack keeps a division
    such as 100 / sqrt(100 * 100 / 3136) = 55.99... from falling to the next smaller block.
    """
    slack = PATCH_SIZE // 2
    size = {"shortest_edge": (config.image_size - slack) ** 2, "longest_edge": (config.image_size + slack) ** 2}
    return {"size": size, "patch_size": PATCH_SIZE, "merge_size": 2, "temporal_patch_size": 2}


def _qwen_vl(config, texts, prefix: str, vision: dict, interleaved: bool = False, **text):
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    tokenizer = chatml_tokenizer(config, texts, image, VISION_TOKENS)
    channels = (
        config.hidden_size // config.num_heads // 2
    )  # pairs that rotate: 1/4 for time, 3/8 each for height, width
    side = channels * 3 // 8
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [channels - 2 * side, side, side]}
    if interleaved:
        rope["mrope_interleaved"] = True
    settings = getattr(transformers, f"{prefix}Config")(
        text_config={**decoder_settings(config, tokenizer), "rope_parameters": rope, **text},
        vision_config={
            "depth": VISION_DEPTH,
            "num_heads": VISION_HEADS,
            "patch_size": PATCH_SIZE,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "initializer_range": config.init_std,
            **vision,
        },
        tie_word_embeddings=config.tie_word_embeddings,
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    )
    parts = processor(
        f"{prefix}Processor",
        image_processor=image_processor("Qwen2VLImageProcessor", **qwen_image_settings(config)),
        tokenizer=tokenizer,
        chat_template=tokenizer.chat_template,
    )
    return getattr(transformers, f"{prefix}ForConditionalGeneration")(settings), parts


def _qwen2_vl(config, texts):
    vision = {"embed_dim": VISION_WIDTH, "hidden_size": config.hidden_size, "mlp_ratio": 2}
    return _qwen_vl(config, texts, "Qwen2VL", vision)


def _qwen2_5_vl(config, texts):
    vision = {
        "hidden_size": VISION_WIDTH,
        "out_hidden_size": config.hidden_size,
        "intermediate_size": 2 * VISION_WIDTH,
        "window_size": 56,
        "fullatt_block_indexes": [VISION_DEPTH - 1],
    }
    return _qwen_vl(config, texts, "Qwen2_5_VL", vision)


def _qwen3_vl(config, texts):
    vision = {
        "hidden_size": VISION_WIDTH,
        "out_hidden_size": config.hidden_size,
        "intermediate_size": 2 * VISION_WIDTH,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0],
    }
    head_dim = config.hidden_size // config.num_heads
    return _qwen_vl(config, texts, "Qwen3VL", vision, interleaved=True, head_dim=head_dim)


def vision_tower(config, name: str, patch_size: int = PATCH_SIZE):
    return getattr(transformers, name)(
        hidden_size=VISION_WIDTH,
        intermediate_size=2 * VISION_WIDTH,
        num_hidden_layers=VISION_DEPTH,
        num_attention_heads=VISION_HEADS,
        image_size=config.image_size,
        patch_size=patch_size,
        initializer_range=config.init_std,
    )


def _llava_onevision(config, texts):
    # Here the tokenizer must name its image token.
    named = {"image_token": "<image>", "video_token": "<video>"}
    extra = list(named.values())
    tokenizer = chatml_tokenizer(config, texts, "<image>\\n", extra, extra_special_tokens=named)
    patch_size = 2 * PATCH_SIZE  # every picture is read twice, whole and as a tile: bigger patches keep prompts short
    vision = vision_tower(config, "SiglipVisionConfig", patch_size)
    vision.vision_use_head = False
    tiles = [[config.image_size, config.image_size]]
    settings = transformers.LlavaOnevisionConfig(
        vision_config=vision,
        text_config=transformers.Qwen2Config(**decoder_settings(config, tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=tiles,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_9",
        tie_word_embeddings=config.tie_word_embeddings,
    )
    size = {"height": config.image_size, "width": config.image_size}
    parts = processor(
        "LlavaOnevisionProcessor",
        image_processor=image_processor("LlavaOnevisionImageProcessor", size=size, image_grid_pinpoints=tiles),
        tokenizer=tokenizer,
        num_image_tokens=(config.image_size // patch_size) ** 2,
        vision_feature_select_strategy="full",
        chat_template=tokenizer.chat_template,
    )
    return transformers.LlavaOnevisionForConditionalGeneration(settings), parts


def opt_settings(config, tokenizer):
    return transformers.OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        word_embed_proj_dim=config.hidden_size,
        ffn_dim=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        max_position_embeddings=MAX_POSITIONS,
        init_std=config.init_std,
        tie_word_embeddings=config.tie_word_embeddings,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def _blip(config, texts, prefix: str, **parts):
    tokenizer = classic_tokenizer(config, texts, QUESTION_ANSWER, ["<image>"], padding_side="left")
    queries = getattr(transformers, f"{prefix}QFormerConfig")(
        vocab_size=len(parts.get("qformer_tokenizer", tokenizer)),
        hidden_size=VISION_WIDTH,
        intermediate_size=2 * VISION_WIDTH,
        num_hidden_layers=VISION_DEPTH,
        num_attention_heads=VISION_HEADS,
        encoder_hidden_size=VISION_WIDTH,
        initializer_range=config.init_std,
        pad_token_id=tokenizer.pad_token_id,
    )
    settings = getattr(transformers, f"{prefix}Config")(
        vision_config=vision_tower(config, f"{prefix}VisionConfig"),
        qformer_config=queries,
        text_config=opt_settings(config, tokenizer),
        num_query_tokens=NUM_QUERY_TOKENS,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        initializer_range=config.init_std,
        tie_word_embeddings=config.tie_word_embeddings,
    )
    size = {"height": config.image_size, "width": config.image_size}
    whole = processor(
        f"{prefix}Processor",
        image_processor=image_processor("BlipImageProcessor", size=size),
        tokenizer=tokenizer,
        num_query_tokens=NUM_QUERY_TOKENS,
        **parts,
    )
    return getattr(transformers, f"{prefix}ForConditionalGeneration")(settings), whole


def _blip2(config, texts):
    return _blip(config, texts, "Blip2")


def _instructblip(config, texts):
    """InstructBLIP's query transformer reads the instruction too, through a tokenizer of its own."""
    return _blip(config, texts, "InstructBlip", qformer_tokenizer=classic_tokenizer(config, texts, PLAIN))


_BUILDERS = {
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "llava_onevision": _llava_onevision,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "llama": _llama,
    "t5": _t5,
    "blip2": _blip2,
    "instructblip": _instructblip,
}

"""Loading, SID tokens and what trains: for every family, with tied and untied heads."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file

from src.collate import TrainingCollator
from src.common.artifacts import TOKEN_META, write_json
from src.common.sid import SidIndex
from src.models import (
    FREEZE,
    AnswerRows,
    Loaded,
    add_lora,
    add_sid_tokens,
    freeze,
    init_sid_rows,
    load_finetuned,
    load_model,
    num_parameters,
    token_meta,
)
from src.tasks.task import load_task
from tests.toy import (
    ALL_FAMILIES,
    MROPE_FAMILIES,
    NUM_ITEMS,
    TEXT_FAMILIES,
    VISION_FAMILIES,
    fresh_model,
    shared_model,
    tiny_model,
    toy_builder,
    toy_index,
)

INDEX = toy_index()
NUM_SIDS = len(INDEX.all_tokens)


def batch_of(loaded: Loaded, task: str = "seqrec", item: int = 14) -> dict:
    builder = toy_builder(loaded)
    samples = [builder.sample(load_task(task).templates[n], (1, 4, 13, 10), item) for n in range(3)]
    return TrainingCollator(loaded.tokenizer.pad_token_id, loaded.family.mrope)(samples)


def loss_of(loaded: Loaded, batch: dict) -> torch.Tensor:
    batch = dict(batch)
    batch.pop("task_ids")
    labels, predict = batch.pop("labels"), batch.pop("predict")
    return F.cross_entropy(AnswerRows(loaded.model).logits(loaded.model, predict, **batch), labels)


def train_a_little(loaded: Loaded, task: str = "seqrec", steps: int = 4) -> list[float]:
    trained = [parameter for parameter in loaded.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.02, weight_decay=0)
    batch, losses = batch_of(loaded, task), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(loaded, batch)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def sid_ids(loaded: Loaded) -> list[int]:
    return loaded.tokenizer.convert_tokens_to_ids(INDEX.all_tokens)


def weights(loaded: Loaded) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in loaded.model.state_dict().items()}


def vision_task(family: str) -> str:
    return "mmseqrec" if family in VISION_FAMILIES else "seqrec"


# ---- loading ---------------------------------------------------------------------------------------------------------
def test_wrong_family_names_the_right_flag(tmp_path):
    with pytest.raises(ValueError, match="is a qwen3: use --model_type qwen3, not llama"):
        load_model(tiny_model("qwen3"), torch.float32, model_type="llama")
    with pytest.raises(ValueError, match="is a t5; GRec knows qwen2_vl"):
        load_model(tiny_model("t5"), torch.float32)
    with pytest.raises(FileNotFoundError, match="there is no model at"):
        load_model(tmp_path / "gone", torch.float32)
    for alias in ("qwen", "qwen2_5", "qwen2"):
        assert load_model(tiny_model("qwen2"), torch.float32, model_type=alias).family.config_types == ("qwen2",)


# ---- SID tokens ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_sid_tokens(family, tied):
    loaded = load_model(tiny_model(family, tied), torch.float32)
    before, vocab = weights(loaded), len(loaded.tokenizer)
    ids = add_sid_tokens(loaded, INDEX.all_tokens)
    assert ids == list(range(vocab, vocab + NUM_SIDS))
    assert loaded.tokenizer.decode(ids[:3]) == "<a_0><a_1><a_2>"
    assert loaded.tokenizer("x<a_1><c_0> <b_2>", add_special_tokens=False)["input_ids"][1:3] == [ids[1], ids[10]]
    table, head = loaded.model.get_input_embeddings().weight, loaded.model.get_output_embeddings().weight
    assert (table.data_ptr() == head.data_ptr()) == tied
    assert len(table) == len(head) == vocab + NUM_SIDS
    for name, tensor in loaded.model.state_dict().items():  # what was there stays as it was
        assert torch.equal(tensor[:vocab] if len(tensor) == vocab + NUM_SIDS else tensor, before[name]), name
    assert add_sid_tokens(loaded, INDEX.all_tokens) == ids  # twice costs nothing
    assert len(table) == vocab + NUM_SIDS


def test_spare_rows_are_taken_first():
    """Published models pad their vocabulary: no row is added where there is one."""
    loaded = load_model(tiny_model("qwen2"), torch.float32)
    loaded.model.resize_token_embeddings(len(loaded.tokenizer) + 10)
    ids = add_sid_tokens(loaded, INDEX.all_tokens)
    assert len(loaded.model.get_input_embeddings().weight) == max(ids) + 1


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("how", ["random", "text", "auto"])
def test_rows_start_within_the_spread_of_the_others(how, tied):
    loaded = load_model(tiny_model("qwen2", tied), torch.float32)
    ids = add_sid_tokens(loaded, INDEX.all_tokens)
    texts = {item: f"lamp number {item}" for item in range(NUM_ITEMS)}
    assert init_sid_rows(loaded, ids, INDEX, how, texts) == ("text" if how == "auto" else how)
    table, head = loaded.model.get_input_embeddings().weight, loaded.model.get_output_embeddings().weight
    assert torch.equal(table[ids], head[ids])
    assert len(torch.unique(table[ids], dim=0)) == NUM_SIDS  # no two alike
    assert 0.2 < table[ids].std() / table[: ids[0]].std() < 2
    first = table[ids].clone()
    init_sid_rows(loaded, ids, INDEX, how, texts)
    assert torch.equal(table[ids], first)  # seeded
    if how == "random":
        init_sid_rows(loaded, ids, INDEX, how, texts, seed=1)
        assert not torch.equal(table[ids], first)


def test_text_rows_lie_near_the_words_of_their_items():
    loaded = load_model(tiny_model("qwen2"), torch.float32)
    ids = add_sid_tokens(loaded, INDEX.all_tokens)
    texts = {item: "lamp" if INDEX.codes[item, 0] == 2 else "guitar" for item in range(NUM_ITEMS)}
    init_sid_rows(loaded, ids, INDEX, "text", texts)
    table = loaded.model.get_input_embeddings().weight
    lamp, guitar = (
        table[loaded.tokenizer(word, add_special_tokens=False)["input_ids"]].mean(0) for word in ("lamp", "guitar")
    )
    for code in range(4):
        row = table[ids[code]]
        assert (torch.dist(row, lamp) < torch.dist(row, guitar)) == (code == 2)


def test_centroid_rows_keep_the_geometry_of_the_codebooks(tmp_path):
    path = tmp_path / "T.index_x.json"
    path.write_text("{}")
    loaded = load_model(tiny_model("qwen2"), torch.float32)
    ids = add_sid_tokens(loaded, INDEX.all_tokens)
    index = replace(INDEX, path=path)
    with pytest.raises(ValueError, match=r"--sid_init centroid needs the codebooks beside .*T\.index_x\.json"):
        init_sid_rows(loaded, ids, index, "centroid")
    books = {f"codebook_{level}": torch.randn(size, 64) for level, size in enumerate(INDEX.codebook_sizes)}
    books["codebook_1"][3] = books["codebook_1"][2] + 1e-3  # two codewords side by side
    save_file(books, path.with_suffix(".codebooks.safetensors"))
    assert init_sid_rows(loaded, ids, index, "auto") == "centroid"
    table = loaded.model.get_input_embeddings().weight.detach()
    rows = table[ids[4:10]]
    distances = torch.cdist(rows, rows) + 1e9 * torch.eye(6)
    assert divmod(int(distances.argmin()), 6) == (2, 3)
    assert 0.4 < table[ids].std() / table[: ids[0]].std() < 2
    save_file({"codebook_0": torch.randn(9, 64)}, path.with_suffix(".codebooks.safetensors"))  # of another grid
    assert init_sid_rows(loaded, ids, index, "auto") == "random"


# ---- pictures --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", VISION_FAMILIES)
def test_picture_reaches_the_model(family):
    """Other pixels, same prompt and answer: another loss; and the gradient reaches the vision tower."""
    loaded = fresh_model(family)
    batch = batch_of(loaded, "mmitem2index", 9)
    other = batch_of(loaded, "mmitem2index", 9 + 3)  # of the same shape
    assert batch["pixel_values"].shape == other["pixel_values"].shape
    swapped = {**batch, "pixel_values": other["pixel_values"]}
    loss = loss_of(loaded, batch)
    assert abs(float((loss - loss_of(loaded, swapped)).detach())) > 1e-4
    loss.backward()
    visual = [
        (name, parameter)
        for name, parameter in loaded.model.named_parameters()
        if any(part in loaded.family.visual_modules for part in name.split("."))
    ]
    assert visual
    assert sum(float(p.grad.abs().sum()) for _, p in visual if p.grad is not None) > 0


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_head_sees_answers_only(family):
    """Same loss as from the logits of all tokens, which are never made."""
    loaded = shared_model(family)
    batch = batch_of(loaded, vision_task(family))
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "predict", "task_ids")}
    seen = []
    handle = loaded.model.get_output_embeddings().register_forward_hook(lambda _, __, out: seen.append(out.shape))
    with torch.no_grad():
        few = AnswerRows(loaded.model).logits(loaded.model, batch["predict"], **inputs)
        every = loaded.model(**inputs).logits  # outside `logits()` the head sees everything again
    handle.remove()
    assert seen[0][:-1] == (len(batch["labels"]),)
    torch.testing.assert_close(few, every[batch["predict"]], rtol=1e-5, atol=1e-5)


# ---- LoRA ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_lora_trains_itself_and_the_new_rows_only(family, tied, tmp_path):
    loaded = fresh_model(family, tied)
    base, ids = weights(loaded), sid_ids(loaded)
    loaded = loaded._replace(model=add_lora(loaded, ids, 4, 8, 0.0))
    trains = [name for name, parameter in loaded.model.named_parameters() if parameter.requires_grad]
    assert trains
    assert all("lora_" in name or "trainable_tokens" in name for name in trains)
    assert not [name for name in trains if any(part in loaded.family.visual_modules for part in name.split("."))]
    for layer in ("q_proj", "down_proj"):
        assert any(f"{layer}.lora_B" in name for name in trains)
    losses = train_a_little(loaded, vision_task(family))
    assert losses[-1] < losses[0] - 0.05

    # What is saved is small: no matrix of the vocabulary.
    loaded.model.save_pretrained(tmp_path, save_embedding_layers=False)
    (loaded.processor or loaded.tokenizer).save_pretrained(tmp_path)
    write_json(tmp_path / TOKEN_META, token_meta(INDEX, ids[0]))
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        shapes = [tuple(file.get_slice(name).get_shape()) for name in file.keys()]  # noqa: SIM118
    assert max(max(shape) for shape in shapes) < ids[0]

    # Loaded again and merged, it says the same; old rows are bit for bit the base model's, and new ones have moved.
    merged = load_finetuned(tmp_path, tiny_model(family, tied), True, torch.float32)
    batch = batch_of(loaded, vision_task(family))
    with torch.no_grad():
        torch.testing.assert_close(loss_of(merged, batch), loss_of(loaded, batch), rtol=1e-5, atol=1e-5)
    table, head = merged.model.get_input_embeddings().weight, merged.model.get_output_embeddings().weight
    assert (table.data_ptr() == head.data_ptr()) == tied
    old = base[next(name for name in base if name.endswith("embed_tokens.weight"))]
    old_head = old if tied else base[next(name for name in base if name.endswith("lm_head.weight"))]
    assert torch.equal(table[: ids[0]], old[: ids[0]])
    assert torch.equal(head[: ids[0]], old_head[: ids[0]])
    assert not torch.equal(table[ids], old[ids])
    assert not torch.equal(head[ids], old_head[ids])
    for name, tensor in merged.model.state_dict().items():
        if any(part in loaded.family.visual_modules for part in name.split(".")):
            assert torch.equal(tensor, base[name]), name


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["qwen2", "qwen2_vl", "llava_onevision"])
def test_whole_embeddings_train_where_asked(family, tied, tmp_path):
    """--lora_modules_to_save "embed_tokens,lm_head" as documented."""
    loaded = fresh_model(family, tied)
    ids = sid_ids(loaded)
    loaded = loaded._replace(model=add_lora(loaded, ids, 4, 8, 0.0, modules_to_save=("embed_tokens", "lm_head")))
    before = loaded.model.get_input_embeddings().weight.detach().clone()
    losses = train_a_little(loaded)
    assert losses[-1] < losses[0] - 0.05
    assert not torch.equal(loaded.model.get_input_embeddings().weight[: ids[0]], before[: ids[0]])
    loaded.model.save_pretrained(tmp_path, save_embedding_layers=False)
    (loaded.processor or loaded.tokenizer).save_pretrained(tmp_path)
    write_json(tmp_path / TOKEN_META, token_meta(INDEX, ids[0]))
    merged = load_finetuned(tmp_path, tiny_model(family, tied), True, torch.float32)
    table, head = merged.model.get_input_embeddings().weight, merged.model.get_output_embeddings().weight
    assert (table.data_ptr() == head.data_ptr()) == tied
    batch = batch_of(loaded)
    with torch.no_grad():
        torch.testing.assert_close(loss_of(merged, batch), loss_of(loaded, batch), rtol=1e-5, atol=1e-5)


def test_lora_targets_can_be_chosen():
    loaded = fresh_model("qwen2_vl")
    model = add_lora(loaded, sid_ids(loaded), 4, 8, 0.0, targets=("v_proj",))
    names = {name.split(".")[-4] for name, p in model.named_parameters() if p.requires_grad and "lora_A" in name}
    assert names == {"v_proj"}


@pytest.mark.parametrize("family", ["qwen2", "qwen2_vl"])
def test_names_that_fit_nothing_are_refused(family):
    """PEFT trains what fits and says nothing of the rest; the vision tower's layers are none of LoRA's."""
    loaded = fresh_model(family)
    there = r"down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj$"
    for name in ("q_prj", "embed_tokens", *(["qkv"] if family == "qwen2_vl" else [])):
        with pytest.raises(ValueError, match=f"--lora_target_modules {name} fits nothing in this model, .* {there}"):
            add_lora(loaded, sid_ids(loaded), 4, 8, 0.0, targets=("q_proj", name))
    with pytest.raises(ValueError, match=r"--lora_modules_to_save lm_heat fits nothing .* embed_tokens, .* lm_head"):
        add_lora(loaded, sid_ids(loaded), 4, 8, 0.0, modules_to_save=("embed_tokens", "lm_heat"))


# ---- full fine-tuning ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("what", FREEZE)
@pytest.mark.parametrize("family", ["qwen2", "qwen2_vl", "llava_onevision"])
def test_freeze(family, what, tied):
    loaded = fresh_model(family, tied)
    before, ids = weights(loaded), sid_ids(loaded)
    freeze(loaded, what, ids)
    train_a_little(loaded, vision_task(family), steps=2)
    changed = {
        name: tensor != before[name]
        for name, tensor in loaded.model.state_dict().items()
        if not torch.equal(tensor, before[name])
    }
    tables = {name for name in changed if name.endswith(("embed_tokens.weight", "lm_head.weight"))}
    visual = {name for name in changed if any(part in loaded.family.visual_modules for part in name.split("."))}
    rest = changed.keys() - tables - visual
    assert len(tables) == 2
    for name in tables:
        assert changed[name][ids].any()
        assert changed[name][: ids[0]].any() == (what in ("none", "visual"))
    assert bool(visual) == (family in VISION_FAMILIES and what in ("none", "embeddings"))
    assert bool(rest) == (what != "only_embeddings")


def test_num_parameters():
    loaded = fresh_model("qwen2")
    total, training = num_parameters(loaded.model)
    assert total == training == sum(p.numel() for p in loaded.model.parameters())
    model = add_lora(loaded, sid_ids(loaded), 4, 8, 0.0)
    more, training = num_parameters(model)
    assert more > total
    assert training < total / 2


# ---- checkpoints -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", ["llama", "qwen3_vl"])
def test_whole_model_survives_a_round_trip(family, tmp_path):
    loaded = shared_model(family)
    loaded.model.save_pretrained(tmp_path)
    (loaded.processor or loaded.tokenizer).save_pretrained(tmp_path)
    again = load_finetuned(tmp_path, tiny_model("qwen2"), False, torch.float32)  # a base given as well changes nothing
    assert again.family == loaded.family
    assert sid_ids(again) == sid_ids(loaded)
    batch = batch_of(loaded)
    with torch.no_grad():
        assert torch.equal(loss_of(again, batch), loss_of(loaded, batch))


def test_token_meta_is_as_documented(tmp_path):
    path = tmp_path / "T.index_x.json"
    path.write_text("{}")
    meta = token_meta(replace(INDEX, path=path), 600)
    assert meta["sid_tokens"][:5] == ["<a_0>", "<a_1>", "<a_2>", "<a_3>", "<b_0>"]
    assert (meta["base_vocab_size"], meta["codebook_sizes"], len(meta["index_sha256"])) == (600, [4, 6, 5], 64)
    json.dumps(meta)
    foreign = SidIndex(np.arange(1), np.zeros((1, 1), np.int64), ("A",), (1,))
    assert token_meta(foreign, 600)["index_sha256"] is None


def test_merge_size_is_of_m_rope_models_only():
    assert all(shared_model(family).merge_size == 2 for family in MROPE_FAMILIES)
    assert all(shared_model(family).merge_size is None for family in ("llava_onevision", *TEXT_FAMILIES))

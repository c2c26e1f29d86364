"""What runs on GPUs gives there what it gives on the CPU: on a real one, and everywhere on a pretended one."""

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from index.checkpoints import load_checkpoint
from index.config import EvaluateConfig as IndexConfig
from index.config import GenerateConfig, TrainConfig
from index.evaluate_index import evaluate as evaluate_index
from index.generate_indices import generate
from index.trainer import train
from src.baselines.core import run_baseline
from src.baselines.sasrec import SASRecConfig
from src.baselines.sasrec_training import load_sasrec
from src.baselines.tiger import TigerConfig
from src.baselines.tiger_training import run_tiger
from src.collate import TrainingCollator
from src.common.index_files import save_sid_index
from src.common.sid import SidIndex
from src.finetune.core import finetune
from src.models import AnswerRows
from src.seqrec.config import EvaluateConfig
from src.seqrec.core import evaluate
from src.tasks.catalogue import load_catalogue
from src.tasks.task import load_task
from tests.baselines.test_baselines import write_dataset
from tests.finetune.toy_runs import config_for as fine_tuning
from tests.finetune.toy_runs import log_of
from tests.index.conftest import clustered
from tests.pretended_gpu import OnGpu, pretended_gpu
from tests.seqrec.toy_runs import assert_equal_predictions, config_for
from tests.toy import NAME, VISION_FAMILIES, fresh_model, tiny_model, toy_builder, toy_copy

REAL = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")]


@pytest.fixture(params=["pretended", pytest.param("real", marks=REAL)])
def gpu(request):
    """A context in which `--device cuda` finds a GPU."""
    return nullcontext if request.param == "real" else pretended_gpu


@pytest.fixture
def circle(tmp_path) -> Path:
    """Everybody walks the same circle of ten items."""
    walks = {str(user): [(user + step) % 10 for step in range(5 + user % 4)] for user in range(60)}
    write_dataset(tmp_path, "Circle", walks)
    return tmp_path


# ---- the pretended GPU itself ----------------------------------------------------------------------------------------
def test_the_pretended_gpu_mixes_with_nothing():
    with pretended_gpu() as device:
        there, here = torch.arange(4.0, device=device), torch.arange(4.0)
        assert isinstance(there, OnGpu)
        assert there.device == device
        for mix in (
            lambda: there + here, lambda: torch.cat([here, there]), lambda: here[there.long()],
            lambda: there.__setitem__(slice(2), here[:2]), lambda: there.mul_(here), lambda: there.numpy(),
            lambda: torch.nn.functional.linear(there, here[None]), lambda: np.asarray(there),
        ):  # fmt: skip
            with pytest.raises((RuntimeError, TypeError)):
                mix()
        assert (there + 1).cpu().tolist() == [1, 2, 3, 4]
        assert there[here.long() > 1].tolist() == [2, 3]  # indices may lie on the CPU
        assert (there * torch.tensor(2.0)).device == device
        assert there.to("cpu").device.type == here.device.type == "cpu"
        there[1:3] = 9
        assert there.tolist() == [0, 9, 9, 3]
        assert here.to(there).device == device


# ---- evaluation ------------------------------------------------------------------------------------------------------
def both(gpu, run, config, folder: Path):
    """The same on the CPU and on the GPU; gives both configs."""
    here = replace(config, results_file=folder / "cpu" / "results.json")
    there = replace(config, results_file=folder / "gpu" / "results.json", device="cuda")
    run(here)
    with gpu():
        run(there)
    return here, there


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("qwen2", {}),
        ("qwen2", {"exact": True}),
        ("qwen2", {"filter_history": True, "test_prompt_ids": "all"}),
        ("qwen2_vl", {"test_task": "mmseqrec"}),
        ("qwen2_5_vl", {"test_task": "mmitem2index"}),
        ("llava_onevision", {"test_task": "mmseqrec"}),
    ],
)
def test_ranking(gpu, tmp_path, family, changes):
    assert_equal_predictions(*both(gpu, evaluate, config_for(tmp_path, family, **changes), tmp_path))


@pytest.mark.parametrize("family", ["qwen2_vl", "llava_onevision"])
def test_written_texts(gpu, tmp_path, family):
    from src.text_generation.core import evaluate
    from tests.text_generation.toy_runs import config_for

    here, there = both(gpu, evaluate, config_for(tmp_path, family, sample_num=3, page_items=0), tmp_path)
    ours, theirs = (json.loads(config.results_file.read_text())["mean_results"] for config in (here, there))
    assert ours == theirs


def test_the_proof_of_pictures(gpu, tmp_path):
    from src.verify_pictures import verify_pictures
    from tests.test_verify_pictures import config_for

    here, there = both(gpu, verify_pictures, config_for(tmp_path, sample_num=6), tmp_path)
    ours, theirs = (json.loads(config.results_file.read_text()) for config in (here, there))
    for name in ("hit@1_true", "hit@1_permuted", "loss_true", "loss_permuted", "loss_raised"):
        assert ours[name] == pytest.approx(theirs[name], abs=1e-5)


# ---- baselines -------------------------------------------------------------------------------------------------------
def test_sasrec(gpu, circle):
    config = SASRecConfig("Circle", circle / "sasrec.json", data_path=circle, num_beams=10, epochs=2, device="cpu")
    run_baseline("sasrec", config)
    catalogue = load_catalogue(circle, "Circle")
    users, ends = np.arange(20), np.full(20, 3)

    def asked(device: str):
        training = load_sasrec(config.results_file, catalogue, device)
        return training.score(users, ends), training.quality("valid")

    (ours, quality) = asked("cpu")
    with gpu():
        (theirs, other) = asked("cuda")
    np.testing.assert_allclose(theirs, ours, atol=1e-5)
    assert other == pytest.approx(quality)


def tiger_config(folder: Path) -> TigerConfig:
    index_file = folder / "Circle" / "Circle.index_toy.json"
    codes = np.array([[item // 4, item % 4] for item in range(10)])
    save_sid_index(index_file, SidIndex(np.arange(10), codes, ("a", "b"), (3, 4)), {})
    return TigerConfig(
        "Circle", folder / "tiger.json", data_path=folder, index_file=str(index_file), num_beams=10, hidden_size=32,
        num_layers=1, num_heads=2, head_size=16, intermediate_size=64, epochs=1, device="cpu",
    )  # fmt: skip


def test_tiger(gpu, circle):
    tiger = tiger_config(circle)
    run_tiger(tiger)
    config = EvaluateConfig(
        dataset="Circle", data_path=circle, index_file=tiger.index_file, ckpt_model=circle / "tiger.model",
        num_beams=10, results_file=circle / "results.json", device="cpu",
    )  # fmt: skip
    assert_equal_predictions(*both(gpu, evaluate, config, circle))


# ---- SIDs ------------------------------------------------------------------------------------------------------------
@pytest.fixture
def embeddings(tmp_path) -> Path:
    np.save(tmp_path / "Toy.emb-toy.npy", clustered())
    return tmp_path / "Toy.emb-toy.npy"


def trained(embeddings: Path, folder: Path, **settings) -> Path:
    values = {"codebook_sizes": (8, 8, 8), "layers": (16,), "e_dim": 4, "epochs": 3, "batch_size": 64, "eval_step": 3}
    values |= {"warmup_epochs": 1, "device": "cpu"}
    return train(TrainConfig(data_path=embeddings, ckpt_dir=folder, **{**values, **settings}))


@pytest.mark.parametrize("quantizer", ["rqvae", "rkmeans", "balanced_rkmeans", "opq", "fsq"])
def test_indexes(gpu, tmp_path, embeddings, quantizer):
    run = trained(embeddings, tmp_path / quantizer, quantizer=quantizer)
    config = GenerateConfig(dataset="Toy", ckpt_path=run, output_dir=tmp_path / "cpu", device="cpu")
    here = generate(config)
    with gpu():
        there = generate(replace(config, output_dir=tmp_path / "gpu", device="cuda"))
    assert there.read_text() == here.read_text()
    meta = [json.loads(path.with_suffix(".meta.json").read_text()) for path in (here, there)]
    assert meta[0]["quantization_error_after"] == pytest.approx(meta[1]["quantization_error_after"])
    for device, path in (("cpu", tmp_path / "here.json"), ("cuda", tmp_path / "there.json")):
        with gpu():
            evaluate_index(IndexConfig(ckpt_path=run, device=device, output_file=path))
    ours, theirs = (json.loads((tmp_path / name).read_text()) for name in ("here.json", "there.json"))
    for name in ("collision_rate", "perplexity", "reconstruction_error", "neighbour_recall"):
        assert theirs[name] == pytest.approx(ours[name])


@pytest.mark.parametrize("quantizer", ["rkmeans", "balanced_rkmeans"])
def test_clustering(gpu, tmp_path, embeddings, quantizer):
    """No gradients: so the whole training can be pretended."""
    here = trained(embeddings, tmp_path / "cpu", quantizer=quantizer)
    with gpu():
        there = trained(embeddings, tmp_path / "gpu", quantizer=quantizer, device="cuda")
    ours, theirs = (load_checkpoint(run, torch.device("cpu")).model.state_dict() for run in (here, there))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, msg=name)


# ---- fine-tuning and embeddings --------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", ["qwen2", "qwen2_vl", "llava_onevision"])
def test_losses_of_packed_rows_are_those_of_unpacked_ones(gpu, family):
    """Rows are packed and masked on a GPU in another way than on a CPU."""
    loaded = fresh_model(family)
    builder, template = toy_builder(loaded), load_task("mmseqrec" if family in VISION_FAMILIES else "seqrec").templates
    samples = [
        builder.sample(template[0], history, 14) for history in [(1, 4, 13, 3, 10), (2, 7), (5, 16, 9, 28), (3,)]
    ]

    def losses(device, row_length: int) -> list[float]:
        batch = TrainingCollator(loaded.tokenizer.pad_token_id, loaded.family.mrope, row_length)(samples)
        batch = {name: value.to(device) for name, value in batch.items() if name != "task_ids"}
        labels, predict = batch.pop("labels"), batch.pop("predict")
        logits = AnswerRows(loaded.model).logits(loaded.model.to(device), predict, **batch)
        return torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none").sort().values.tolist()

    with torch.no_grad():
        alone = losses("cpu", 0)
    with gpu(), torch.no_grad():
        together = losses(torch.device("cuda", 0), 256)
    np.testing.assert_allclose(together, alone, rtol=1e-4)


def test_embeddings(gpu, tmp_path):
    from data_process.qwen_embeddings import QwenConfig, extract

    config = QwenConfig(dataset=NAME, data_path=toy_copy(tmp_path), model=str(tiny_model("qwen2_vl")), device="cpu")
    ours = np.load(extract(replace(config, name="here")))
    with gpu():
        theirs = np.load(extract(replace(config, name="there", device="cuda")))
    np.testing.assert_allclose(theirs, ours, atol=1e-4)


# ---- trainings, where gradients need a real GPU ----------------------------------------------------------------------
@pytest.fixture
def step(monkeypatch, gpu):
    """On the pretended GPU nothing is learnt: data, losses and what stands around them go through all the same."""
    if gpu is pretended_gpu:
        monkeypatch.setattr(torch.Tensor, "backward", lambda *_: None)


@pytest.mark.parametrize("loss", ["ce", "bce"])
def test_training_of_sasrec(gpu, step, circle, loss):
    config = SASRecConfig("Circle", circle / "there.json", data_path=circle, num_beams=10, epochs=2, loss=loss)
    with gpu():
        results = json.loads(run_baseline("sasrec", replace(config, device="cuda")).read_text())
    assert np.isfinite(results["mean_results"]["hit@10"])


def test_training_of_tiger(gpu, step, circle):
    with gpu():
        run_tiger(replace(tiger_config(circle), device="cuda"))
    assert (circle / "tiger.json").is_file()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"diversity_weight": 1.0, "neighbour_weight": 1.0, "normalize": "l2"},
        {"sk_epsilons": (0.0, 0.0, 0.01), "bn": True, "dropout_prob": 0.1},
        {"quantizer": "fsq"},
        {"learner": "Adagrad", "lr_scheduler_type": "constant", "loss_type": "l1"},
    ],
)
def test_training_of_an_rqvae(gpu, step, tmp_path, embeddings, settings):
    with gpu():
        run = trained(embeddings, tmp_path / "there", device="cuda", **settings)
    model = load_checkpoint(run, torch.device("cpu")).model
    assert all(value.isfinite().all() for value in model.state_dict().values() if value.is_floating_point())


@pytest.mark.gpu
@REAL[1]
@pytest.mark.parametrize("half", [{}, {"bf16": True}, {"fp16": True}])
@pytest.mark.parametrize("family", ["qwen2", "qwen2_vl", "llava_onevision"])
def test_fine_tuning_on_a_real_gpu(tmp_path, family, half):
    tasks = ("seqrec", "mmitem2index") if family in VISION_FAMILIES else ("seqrec",)
    config = fine_tuning(
        tmp_path / "out", family, tasks=tasks, use_lora=True, lora_r=4, max_steps=24, save_and_eval_steps=12,
        device="cuda", use_gradient_checkpointing=True, **half,
    )  # fmt: skip
    losses = [line["loss"] for line in log_of(finetune(config)) if "loss" in line]
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) - 0.3
    asked = config_for(
        tmp_path, ckpt_model=config.output_dir, lora=True, base_model=config.base_model, device="cuda", num_beams=10
    )
    assert json.loads(evaluate(asked).read_text())["valid_beams"] == 1

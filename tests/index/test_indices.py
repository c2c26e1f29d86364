"""From checkpoint to SID index: files, uniqueness, extension, old checkpoints, and the entries themselves."""

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from index.checkpoints import load_checkpoint, read_checkpoint
from index.compare_runs import compare
from index.config import EvaluateConfig, GenerateConfig
from index.embeddings import EmbeddingDataset
from index.encoding import encode_all
from index.evaluate_index import evaluate
from index.generate_indices import generate
from index.trainer import train
from src.common.artifacts import save_embeddings
from src.common.index_files import load_sid_index
from tests.index.conftest import clustered

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")


@pytest.fixture
def generation(run_folder) -> GenerateConfig:
    return GenerateConfig(dataset="Toy", ckpt_path=run_folder, device="cpu")


def encoded(path, data_path):
    return encode_all(load_checkpoint(path, CPU).model, EmbeddingDataset(data_path, CPU), 64)


def test_index_lies_beside_the_run_and_is_unique(generation, run_folder, embeddings_path):
    path = generate(generation)
    assert path == run_folder.parent / "Toy.index_toy.json"
    index = load_sid_index(path, range(120))
    assert index.collision_rate() == 0
    assert index.codebook_sizes == (8, 8, 8)
    meta = json.loads(path.with_suffix(".meta.json").read_text())
    assert meta["collisions_before"]["collision_rate"] > 0  # or this test shows nothing
    assert meta["collisions_after"]["collision_rate"] == 0
    assert meta["items_moved"] > 0
    assert meta["error_added"] == pytest.approx(meta["quantization_error_after"] - meta["quantization_error_before"])
    assert len(meta["checkpoint"]["sha256"]) == len(meta["embeddings"][0]["sha256"]) == 64
    assert meta["suffix_level"] is None
    before = encoded(run_folder, embeddings_path)
    tensors = load_file(path.with_suffix(".codebooks.safetensors"))
    assert sorted(tensors) == ["codebook_0", "codebook_1", "codebook_2"]
    assert all(np.array_equal(tensors[f"codebook_{level}"], before.codebooks[level]) for level in range(3))


def test_a_run_that_has_not_ended_is_told(generation, run_folder, caplog):
    caplog.set_level("WARNING", "grec")
    generate(generation)
    assert "has not ended" not in caplog.text
    path = run_folder / "config.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in record.items() if name != "outputs"}))
    generate(generation)
    assert f"the training in {run_folder} has not ended: to go on with it, index/main.py --resume" in caplog.text


def test_codebooks_survive_a_reload(run_folder, embeddings_path):
    """k-means used to run again on the first batch after loading, so codes changed from call to call."""
    first, second = (encoded(run_folder / "last.pth", embeddings_path) for _ in range(2))
    stored = read_checkpoint(run_folder / "last.pth")["state_dict"]["rq.vq_layers.0.embedding.weight"]
    assert np.array_equal(first.codebooks[0], stored.numpy())
    assert np.array_equal(first.codes, second.codes)


def test_batch_size_does_not_matter(generation, tmp_path):
    np.save(tmp_path / "many.npy", clustered(5000))
    generation = replace(generation, data_path=tmp_path / "many.npy", dedup="none")
    codes = [load_sid_index(generate(replace(generation, batch_size=size))).codes for size in (1, 64, 4096, 5000)]
    assert all(np.array_equal(codes[0], other) for other in codes[1:])


def test_compact_form_and_output_flags(generation, tmp_path):
    path = generate(replace(generation, output_dir=tmp_path / "out", output_file="compact.npz"))
    assert path == tmp_path / "out" / "compact.npz"
    assert np.array_equal(load_sid_index(path).codes, load_sid_index(generate(generation)).codes)
    with pytest.raises(ValueError, match=r"\.npz"):
        generate(replace(generation, output_file="index.txt"))


@pytest.mark.parametrize(("dedup", "num_levels"), [("assign", 3), ("sinkhorn", 3), ("suffix", 4), ("none", 3)])
def test_every_dedup_method(generation, dedup, num_levels):
    index = load_sid_index(generate(replace(generation, dedup=dedup)))
    assert index.num_levels == num_levels
    assert (index.collision_rate() == 0) == (dedup != "none")
    assert index.meta["suffix_level"] == (3 if dedup == "suffix" else None)
    assert index.meta["levels_with_codebook"] == 3


def test_identical_embeddings_and_a_full_code_space(generation, embeddings_path, tmp_path):
    crowded = tmp_path / "crowded.npy"
    np.save(crowded, clustered()[:1].repeat(200, 0) + np.r_[1.0, np.zeros(199)][:, None].astype(np.float32))
    index = load_sid_index(generate(replace(generation, data_path=crowded)))
    assert (index.num_levels, index.collision_rate()) == (3, 0)
    np.save(crowded, clustered(600))
    index = load_sid_index(generate(replace(generation, data_path=crowded)))
    assert (index.num_levels, index.collision_rate()) == (4, 0)  # 8 x 8 x 8 SIDs are too few


def test_rows_follow_the_sidecar(generation, tmp_path):
    plain = load_sid_index(generate(replace(generation, dedup="none")))
    shuffled = np.random.default_rng(0).permutation(120)
    save_embeddings(tmp_path / "shuffled.npy", clustered()[shuffled], shuffled.tolist())
    again = load_sid_index(generate(replace(generation, dedup="none", data_path=tmp_path / "shuffled.npy")))
    assert np.array_equal(plain.codes, again.codes)


@pytest.mark.parametrize("dedup", ["assign", "suffix"])
def test_extend_keeps_old_sids(generation, dedup, tmp_path):
    old_path = generate(replace(generation, dedup=dedup))
    old = load_sid_index(old_path)
    more = tmp_path / "more.npy"
    np.save(more, np.concatenate([clustered(), clustered(60, seed=3)]))
    new_path = generate(replace(generation, data_path=more, extend=old_path, output_file="new.json"))
    new = load_sid_index(new_path, range(180))
    assert np.array_equal(new.codes[:120], old.codes)
    assert new.collision_rate() == 0
    assert new.meta["items_kept"] == 120


def test_extend_refuses_an_index_of_another_checkpoint(generation, config):
    old_path = generate(generation)
    with pytest.raises(ValueError, match="another checkpoint"):
        generate(replace(generation, ckpt_path=train(replace(config, seed=5)), extend=old_path))


def test_normalization_travels_with_the_checkpoint(config):
    folder = train(replace(config, normalize="standardize"))
    model = load_checkpoint(folder, CPU).model
    rows = torch.from_numpy(clustered())
    assert torch.allclose(model.normalizer.mean, rows.mean(0), atol=1e-5)
    assert torch.allclose(model.normalizer(rows).std(0, correction=0), torch.ones(12), atol=1e-4)
    assert torch.equal(model.encode(rows), model.encoder(model.normalizer(rows)))


def test_wrong_width_is_refused(generation, tmp_path):
    np.save(tmp_path / "wide.npy", clustered(width=13))
    with pytest.raises(ValueError, match="width 13, the checkpoint takes 12"):
        generate(replace(generation, data_path=tmp_path / "wide.npy"))


# ---- checkpoints of other code ---------------------------------------------------------------------------------------
def old_checkpoint(run_folder, path, **changes):
    """As LC-Rec writes them: settings in an argparse.Namespace, no buffers of ours."""
    table = read_checkpoint(run_folder / "best_collision_model.pth")
    settings = table["settings"]
    args = argparse.Namespace(
        num_emb_list=settings["codebook_sizes"],
        lr=1e-3,
        **{
            name: settings[name] for name in ("e_dim", "layers", "dropout_prob", "bn", "loss_type", "data_path", "beta")
        },
        **changes,
    )
    state = {
        key: value
        for key, value in table["state_dict"].items()
        if not key.endswith(("initialised", "usage")) and not key.startswith("normalizer")
    }
    torch.save({"args": args, "epoch": 4, "state_dict": state, "best_loss": 1.0}, path)
    return path


def test_old_checkpoint_loads(run_folder, embeddings_path, tmp_path):
    path = old_checkpoint(run_folder, tmp_path / "old.pth", sk_epsilons=[0.0, 0.0, 0.003], sk_iters=50)
    old, new = encoded(path, embeddings_path), encoded(run_folder, embeddings_path)
    assert np.array_equal(old.codes, new.codes)
    assert load_checkpoint(path, CPU).model.config.level_epsilons[-1] == 0.003


class Evil:
    def __reduce__(self):
        return print, ("unpickled",)


def test_nothing_else_is_unpickled(run_folder, tmp_path, capsys):
    path = old_checkpoint(run_folder, tmp_path / "evil.pth", payload=Evil())
    with pytest.raises(ValueError, match="plain tables"):
        load_checkpoint(path, CPU)
    assert "unpickled" not in capsys.readouterr().out


def test_cut_off_and_missing_checkpoints(run_folder, tmp_path):
    (tmp_path / "cut.pth").write_bytes((run_folder / "last.pth").read_bytes()[:500])
    with pytest.raises(ValueError, match="not a whole checkpoint"):
        load_checkpoint(tmp_path / "cut.pth", CPU)
    with pytest.raises(FileNotFoundError, match=r"index/run\.sh"):
        load_checkpoint(tmp_path / "absent.pth", CPU)


# ---- evaluation, comparison, entries ---------------------------------------------------------------------------------
def test_evaluation_of_checkpoint_index_and_codes(generation, run_folder, embeddings_path, tmp_path):
    path = generate(replace(generation, dedup="none"))
    np.save(tmp_path / "codes.npy", load_sid_index(path).codes)
    tables = [
        json.loads(evaluate(EvaluateConfig(**given, device="cpu")).read_text())
        for given in ({"ckpt_path": run_folder}, {"index_file": path}, {"index_file": tmp_path / "codes.npy"})
    ]
    assert tables[0]["collision_rate"] == tables[1]["collision_rate"] == tables[2]["collision_rate"]
    assert tables[0]["perplexity"] == tables[1]["perplexity"]
    assert tables[0]["reconstruction"] > 0
    with pytest.raises(ValueError, match="give one of"):
        EvaluateConfig()


def test_comparison_of_runs(run_folder, tmp_path):
    table = compare({"large": run_folder, "newest": run_folder.parent}, tmp_path / "comparison.png")
    assert table.count(str(run_folder)) == 2
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("entry", ["main", "generate_indices", "evaluate_index", "compare_runs"])
@pytest.mark.parametrize("as_module", [False, True])
def test_help_answers_without_torch(entry, as_module, tmp_path):
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    command = [sys.executable, "-m", f"index.{entry}"] if as_module else [sys.executable, f"index/{entry}.py"]
    done = subprocess.run(
        [*command, "--help"], cwd=ROOT, capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path)}
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "python3 index/" in done.stdout


def test_entries_run_end_to_end(config, tmp_path):
    def run(*command):
        return subprocess.run(
            [sys.executable, *map(str, command), "--device", "cpu"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    flags = ["--num_emb_list", "8", "8", "--layers", "16", "--e_dim", "4", "--epochs", "2", "--eval_step", "1"]
    out = run("index/main.py", "--data_path", config.data_path[0], "--ckpt_dir", tmp_path / "runs", *flags)
    (folder,) = (tmp_path / "runs").iterdir()
    assert f"Results: {folder}" in out
    assert (folder / "training.png").read_bytes().startswith(b"\x89PNG")
    run("-m", "index.generate_indices", "--dataset", "Toy", "--ckpt_path", folder, "--output_file", "Toy.json")
    out = run("index/evaluate_index.py", "--index_file", tmp_path / "runs" / "Toy.json")
    assert "collision rate" in out
    assert (tmp_path / "runs" / "Toy.evaluation.json").is_file()

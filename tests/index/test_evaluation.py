"""The evaluation of checkpoints, indices and tables of others."""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from index.checkpoints import load_checkpoint
from index.compare_runs import compare
from index.config import EvaluateConfig, GenerateConfig
from index.embeddings import EmbeddingDataset
from index.encoding import encode_all
from index.evaluate_index import evaluate, main
from index.generate_indices import generate
from index.neighbours import reconstruction_error
from index.subject import reconstruct
from index.trainer import train
from src.common.artifacts import save_embeddings
from src.common.index_files import load_sid_index
from tests.index.conftest import clustered, random_codes

ROOT = Path(__file__).resolve().parents[2]
REAL_DATA = Path(os.environ.get("GREC_DATA", ROOT.parent / "shared" / "data"))


# ---- the entry -------------------------------------------------------------------------------------------------------
@pytest.fixture
def drawn(monkeypatch) -> list[Path]:
    """Half a second each, so most tests do without: the paths where pictures would lie."""
    paths: list[Path] = []
    monkeypatch.setattr("index.plots.plot_evaluation", lambda *given: paths.append(given[-1]))
    return paths


@pytest.fixture
def dataset(tmp_path) -> Path:
    """data/Shop: 120 items with categories, 30 users, an index of another tokenizer, and embeddings."""
    folder = tmp_path / "data" / "Shop"
    (folder / "index" / "theirs").mkdir(parents=True)
    items = {str(item): {"title": f"item {item}", "categories": ["Shop", f"kind {item % 4}"]} for item in range(120)}
    (folder / "Shop.item.json").write_text(json.dumps(items))
    users = {f"user {user}": [(4 * step + user) % 120 for step in range(10)] for user in range(30)}
    (folder / "Shop.inter.json").write_text(json.dumps({**users, "short": [5, 9], "shortest": [7]}))
    sids = {str(item): [f"<A_{item % 4}>", f"<B_{item // 8}>"] for item in range(120)}
    (folder / "index" / "theirs" / "Shop.index_theirs.json").write_text(json.dumps(sids))
    np.save(folder / "Shop.emb-toy.npy", clustered())
    return folder


def table_of(**given) -> dict:
    return json.loads(evaluate(EvaluateConfig(**given, device="cpu")).read_text())


def theirs(dataset: Path) -> Path:
    return dataset / "index" / "theirs" / "Shop.index_theirs.json"


def test_a_table_of_others_finds_its_dataset(dataset):
    table = table_of(index_file=theirs(dataset))
    path = theirs(dataset).with_suffix(".evaluation.json")
    assert json.loads(path.read_text()) == table
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert table["dataset_dir"] == str(dataset)
    assert (table["codebook_sizes"], table["colliding_items"], table["colliding_groups"]) == ([4, 15], 120, 60)
    assert table["purity_top"] == [1.0, 1.0]
    assert table["sequence_share"][0] == 1.0  # users go from one item to the fourth after it
    assert table["sequence_pairs"] == 30 * 7 + 1  # without the last two items; short users train only
    assert "neighbour_recall" not in table


def test_splits_by_time_are_kept(dataset, drawn):
    splits = {f"user {user}": [3, 1] for user in range(30)} | {"short": [1, 0], "shortest": [1, 0]}
    (dataset / "Shop.split.json").write_text(json.dumps(splits))
    assert table_of(index_file=theirs(dataset))["sequence_pairs"] == 30 * 2
    del splits["short"]
    (dataset / "Shop.split.json").write_text(json.dumps(splits))
    with pytest.raises(ValueError, match="lacks user 'short'"):
        table_of(index_file=theirs(dataset))


def test_the_files_of_the_dataset_are_recorded(dataset, drawn):
    assert table_of(index_file=theirs(dataset))["inputs"].keys() == {"index", "items", "interactions"}
    users = json.loads((dataset / "Shop.inter.json").read_text())
    (dataset / "Shop.inter.json").unlink()
    (dataset / "Shop.split.json").write_text(json.dumps({user: [len(items), 0] for user, items in users.items()}))
    rows = [(user, item) for user, items in users.items() for item in items]
    pl.DataFrame(rows, schema=["user", "item"], orient="row").write_parquet(dataset / "Shop.inter.parquet")
    inputs = table_of(index_file=theirs(dataset))["inputs"]
    assert inputs.keys() == {"index", "items", "split", "interactions"}
    assert inputs["interactions"]["path"].endswith("Shop.inter.parquet")


def test_rows_follow_the_items(dataset, drawn, tmp_path):
    plain = table_of(index_file=theirs(dataset), data_path=dataset / "Shop.emb-toy.npy")
    assert 0 < plain["neighbour_recall"] < 1
    shuffled = np.random.default_rng(0).permutation(120)
    save_embeddings(tmp_path / "shuffled.npy", clustered()[shuffled], shuffled.tolist())
    given = {"data_path": tmp_path / "shuffled.npy", "dataset_dir": dataset, "output_file": tmp_path / "out.json"}
    again = table_of(index_file=theirs(dataset), **given)
    np.save(tmp_path / "codes.npy", load_sid_index(theirs(dataset)).codes[shuffled])
    codes = table_of(index_file=tmp_path / "codes.npy", **given)
    for name in plain.keys() - {"source", "data_path", "inputs", "record_sha256"}:
        assert again[name] == pytest.approx(plain[name]), name
        if not name.endswith("_shuffled"):
            assert codes[name] == pytest.approx(plain[name]), name
    assert drawn[-1] == tmp_path / "out.png"


def test_an_index_that_lacks_items_is_refused(dataset, drawn, tmp_path):
    np.save(tmp_path / "more.npy", clustered(125))
    given = {"index_file": theirs(dataset), "output_file": tmp_path / "out.json"}
    with pytest.raises(ValueError, match=r"lacks 5 of 125 items of .*more\.npy, the first being 120"):
        table_of(**given, data_path=tmp_path / "more.npy")
    np.save(tmp_path / "codes.npy", random_codes(100))
    with pytest.raises(ValueError, match=r"lacks 20 of 120 items of .*Shop\.item\.json, the first being 100"):
        table_of(index_file=tmp_path / "codes.npy", dataset_dir=dataset)
    (dataset / "Shop.item.json").unlink()
    np.save(tmp_path / "codes.npy", random_codes(50))
    with pytest.raises(ValueError, match=r"lacks 8 of 58 items of .*Shop\.inter\.json, the first being 50"):
        table_of(index_file=tmp_path / "codes.npy", dataset_dir=dataset)
    with pytest.raises(ValueError, match="has 50 rows and"):
        table_of(index_file=tmp_path / "codes.npy", data_path=tmp_path / "more.npy")
    with pytest.raises(FileNotFoundError, match="has neither"):
        table_of(**given, dataset_dir=tmp_path)
    assert not (tmp_path / "out.json").exists()


def test_an_index_of_ours_knows_its_embeddings_and_its_decoder(run_folder, embeddings_path, drawn):
    """The measures of a checkpoint, and of an index made of it without moving anybody, are the same."""
    path = generate(GenerateConfig(dataset="Toy", ckpt_path=run_folder, dedup="none", device="cpu"))
    ours, index = table_of(ckpt_path=run_folder), table_of(index_file=path)
    assert {"reconstruction_recall", "reconstruction_error", "neighbour_recall"} < index.keys()
    for name in index.keys() - {"source", "inputs", "record_sha256"}:
        assert ours[name] == pytest.approx(index[name]), name
    assert ours["reconstruction_recall"] > 3 * ours["neighbour_recall_random"]
    suffixed = generate(GenerateConfig(dataset="Toy", ckpt_path=run_folder, dedup="suffix", device="cpu"))
    assert table_of(index_file=suffixed)["reconstruction_error"] == pytest.approx(ours["reconstruction_error"])
    np.save(embeddings_path, clustered(seed=5))
    assert "neighbour_recall" not in table_of(index_file=path)  # these are other embeddings by now
    assert "neighbour_recall" in table_of(index_file=path, data_path=embeddings_path)


def test_reconstructions_are_embeddings_as_they_came(config, drawn):
    """The decoder restores normalized inputs, and what is compared with embeddings must be scaled back."""
    folder = train(replace(config, quantizer="rkmeans", normalize="standardize"))
    model = load_checkpoint(folder, torch.device("cpu")).model
    encoded = encode_all(model, EmbeddingDataset(config.data_path, torch.device("cpu")), 50)
    total = sum(book[encoded.codes[:, level]] for level, book in enumerate(encoded.codebooks))
    expected = total * clustered().std(0) + clustered().mean(0)
    assert np.allclose(reconstruct(model, encoded.codes, batch_size=7), expected, atol=1e-5)
    table = table_of(ckpt_path=folder)
    assert table["reconstruction_error"] == pytest.approx(reconstruction_error(clustered(), expected), rel=1e-4)
    assert table["reconstruction_error"] < 0.3
    assert table["reconstruction_recall"] > table["neighbour_recall"]


def test_several_embeddings_of_an_item_count_alike(config, embeddings_path, drawn, tmp_path):
    """The second one is a hundred times as long, and does not decide alone who is near."""
    other = tmp_path / "Toy.emb-other.npy"
    np.save(other, 100 * clustered(width=5, seed=9))
    folder = train(replace(config, data_path=(embeddings_path, other)))
    both = table_of(ckpt_path=folder)
    assert len(both["data_path"]) == 2
    parts = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in map(np.load, (embeddings_path, other))]
    np.save(tmp_path / "joined.npy", np.concatenate(parts, 1))
    np.save(tmp_path / "codes.npy", encode_all_of(folder, (embeddings_path, other)))
    joined = table_of(index_file=tmp_path / "codes.npy", data_path=tmp_path / "joined.npy")
    assert both["neighbour_recall"] == joined["neighbour_recall"]


def encode_all_of(folder: Path, data_path) -> np.ndarray:
    cpu = torch.device("cpu")
    return encode_all(load_checkpoint(folder, cpu).model, EmbeddingDataset(data_path, cpu), 50).codes


def test_faults_end_with_one_line(dataset, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--index_file", str(theirs(dataset)), "--dataset_dir", str(tmp_path), "--device", "cpu"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: --dataset_dir")
    with pytest.raises(SystemExit):
        main(["--index_file", str(theirs(dataset)), "--output_file", "out.txt"])
    assert "measures go to a .json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variable", "flag"), [("INDEX_FILE", "--index_file some/codes.npy"), ("CKPT_PATH", "--ckpt_path some/codes.npy")]
)
def test_launcher_measures_an_index_or_a_checkpoint(variable, flag):
    done = subprocess.run(
        ["bash", "index/evaluate.sh", "--num_queries", "5"],
        cwd=ROOT,
        env={**os.environ, "DRY_RUN": "1", variable: "some/codes.npy"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert flag in done.stdout
    assert done.stdout.rstrip().endswith("--num_queries 5")


def test_comparison_has_a_row_a_run(run_folder, config, tmp_path):
    table = compare({"large": run_folder, "small": run_folder, "none": run_folder}, tmp_path / "comparison.png")
    lines = table.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["large", "small", "none"]
    assert len({len(line) for line in lines[:4]}) == 1  # columns line up
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")
    (run_folder / "metrics.jsonl").write_text('{"epoch": 1, "loss": 0.5}\n')
    assert "not evaluated yet" in compare({"started": run_folder, "other": run_folder}, tmp_path / "comparison.png")


# ---- published tables ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "colliding_items"),
    [
        ("Beauty/Beauty.index.json", 24),
        ("Instruments/Instruments.index_vitemb.json", 0),  # upper-case letters
        ("Instruments/Instruments.index_lemb.json", 524),
        ("Scientific/indexes/rkmeans_native.index.json", 1326),
    ],
)
def test_published_tables(name, colliding_items, drawn, tmp_path):
    path = REAL_DATA / name
    if not path.is_file():
        pytest.skip(f"{path} is absent: set GREC_DATA to the folder of real data")
    table = table_of(index_file=path, output_file=tmp_path / "out.json")
    assert table["colliding_items"] == colliding_items
    assert table["sequence_lift"][0] > 1.4
    if "Scientific" in name:
        assert table["top_categories"] == 25
        assert table["purity_top"][0] > 4 * table["purity_top_shuffled"][0]

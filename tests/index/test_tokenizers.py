"""Tokenizers beside the RQ-VAE, several embeddings of an item, and the losses that shape codes."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from index.checkpoints import load_checkpoint
from index.clustering import nearest_codes
from index.config import GenerateConfig, RQVAEConfig, TrainConfig, grid_of
from index.embeddings import EmbeddingDataset
from index.encoding import encode_all
from index.fitted import opq_rotation
from index.generate_indices import generate
from index.metrics import all_prefix_groups, measure
from index.neighbours import neighbour_measures
from index.quantizer import unevenness
from index.rqvae import RQVAE, Gate, Normalizer, grid_codebooks, misalignment, misplacement
from index.trainer import Trainer, train
from src.common.artifacts import read_rows, save_embeddings
from src.common.index_files import load_sid_index
from tests.index.conftest import clustered

CPU = torch.device("cpu")
QUANTIZERS = ("rkmeans", "balanced_rkmeans", "opq", "fsq")


def result(config: TrainConfig):
    folder = train(config)
    model = load_checkpoint(folder, CPU).model
    return folder, model, encode_all(model, EmbeddingDataset(config.data_path, CPU), 50, with_reconstruction=True)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_every_tokenizer_goes_from_embeddings_to_a_unique_index(config, quantizer):
    folder, _, encoded = result(replace(config, quantizer=quantizer, epochs=150, eval_step=150))
    (row,) = [row for row in read_rows(folder / "metrics.jsonl") if "eval_loss" in row]
    assert encoded.reconstruction == pytest.approx(row["eval_reconstruction"], rel=1e-4)
    assert encoded.reconstruction < 0.6 * clustered().var(0).mean()
    assert measure(encoded.codes, (8, 8, 8)).utilization >= (0.5, 0.5, 0.5)
    index = load_sid_index(generate(GenerateConfig(dataset="Toy", ckpt_path=folder, device="cpu")), range(120))
    assert (index.collision_rate(), index.num_levels) == (0, 3)


def test_residual_kmeans_sums_codewords_of_the_embeddings_themselves(config):
    _, model, encoded = result(replace(config, quantizer="rkmeans"))
    rows = torch.from_numpy(clustered())
    assert torch.equal(model.encode(rows), rows)
    assert np.array_equal(encoded.codes[:, 0], nearest_codes(rows, model.rq.codebooks[0]).numpy())
    total = sum(book[encoded.codes[:, level]] for level, book in enumerate(encoded.codebooks))
    assert encoded.reconstruction == pytest.approx(np.square(clustered() - total).mean(), rel=1e-4)


def test_balanced_codes_are_even_on_every_level(config):
    """The log and the reconstruction used to be of the nearest codewords, which no index has."""
    folder, _, encoded = result(replace(config, quantizer="balanced_rkmeans", codebook_sizes=(8, 6)))
    counts = [np.bincount(column) for column in encoded.codes.T]
    assert counts[0].tolist() == [15] * 8
    assert counts[1].tolist() == [20] * 6
    (row,) = read_rows(folder / "metrics.jsonl")
    assert row["perplexity"] == pytest.approx([8, 6])
    assert row["collision_rate"] == measure(encoded.codes, (8, 6)).collision_rate
    total = sum(book[encoded.codes[:, level]] for level, book in enumerate(encoded.codebooks))
    mean = np.square(clustered() - total).mean()
    assert (encoded.reconstruction, row["eval_reconstruction"]) == pytest.approx((mean, mean), rel=1e-4)


def test_opq_is_a_product_quantizer(config):
    """Each level must choose in a subspace of its own, whatever the other levels chose."""
    _, model, encoded = result(replace(config, quantizer="opq"))
    books = torch.stack(model.rq.codebooks)  # (L, K, D)
    used = books.abs().sum(1) > 0
    assert used.sum(0).max() == 1  # no dimension belongs to two levels
    rotated = model.encode(torch.from_numpy(clustered()))
    for level, book in enumerate(books):
        own = used[level]
        expected = torch.cdist(rotated[:, own], book[:, own]).argmin(1)
        assert np.array_equal(encoded.codes[:, level], expected.numpy())


def test_rotation_keeps_lengths_and_takes_any_width():
    rows = torch.from_numpy(clustered(200, width=10))
    rotation = opq_rotation(rows, 12, 3)  # 10 columns for three equal parts
    assert torch.allclose(rotation.t() @ rotation, torch.eye(10), atol=1e-5)
    assert torch.allclose((rows @ rotation.t()) @ rotation, rows, atol=1e-4)


@pytest.mark.parametrize(("size", "grid"), [(256, (4, 4, 4, 4)), (128, (4, 4, 4, 2)), (240, (5, 4, 4, 3)), (6, (3, 2))])
def test_grids_multiply_to_the_codebook_size(size, grid):
    assert grid_of(size) == grid
    assert np.prod(grid) == size


def test_fsq_rounds_every_dimension():
    """Nearest codewords of the grid are what rounding each dimension into bins of equal width gives."""
    sizes = (12, 8)
    codebooks = grid_codebooks(sizes)
    assert [len(book.unique(dim=0)) for book in codebooks] == [12, 8]
    model = RQVAE(RQVAEConfig(quantizer="fsq", codebook_sizes=sizes, layers=(16,)), 5).eval()
    latents = model.encode(torch.randn(300, 5))
    assert latents.abs().max() <= 1
    codes, values = model.rq.nearest(latents), [*grid_of(12), *grid_of(8)]
    quantized = sum(book[codes[:, level]] for level, book in enumerate(codebooks))
    for column, value, number in zip(latents.T, quantized.T, values, strict=True):
        bins = ((column + 1) / 2 * number).floor().clamp_max(number - 1)
        assert torch.allclose(value, (2 * bins + 1 - number) / number)


def test_fsq_codewords_do_not_learn(config):
    _, model, _ = result(replace(config, quantizer="fsq"))
    for level, book in zip(model.rq.vq_layers, grid_codebooks((8, 8, 8)), strict=True):
        assert torch.equal(level.codebook, book)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantizer": "rkmeans", "fusion": "gated"}, "--fusion gated works by training"),
        ({"quantizer": "opq", "spread_weight": 1.0}, "--spread_weight 1.0 works by training"),
        ({"quantizer": "fsq", "codebook_sizes": (22, 8)}, "--num_emb_list 22"),
        ({"quantizer": "fsq", "sk_epsilons": (0.1,)}, "--sk_epsilons"),
        ({"quantizer": "fsq", "diversity_weight": 0.1}, "--diversity_weight"),
        ({"quantizer": "lattice"}, "--quantizer lattice is unknown"),
        ({"fusion": "gated"}, "two or more"),
        ({"cf_weight": 0.1}, "--cf_path belong together"),
    ],
)
def test_settings_that_a_quantizer_would_ignore_are_refused(config, changes, message):
    with pytest.raises(ValueError, match=message):
        replace(config, **changes)


# ---- several embeddings of an item -----------------------------------------------------------------------------------
@pytest.fixture
def two_modalities(config, tmp_path):
    """The second file has other units, and its rows in another order."""
    order = np.random.default_rng(1).permutation(120)
    save_embeddings(tmp_path / "image.npy", 100 * clustered(width=7, seed=4)[order], order.tolist())
    return replace(config, data_path=(config.data_path[0], tmp_path / "image.npy"))


def test_modalities_are_joined_by_item_with_equal_variance(two_modalities):
    dataset = EmbeddingDataset(two_modalities.data_path, CPU)
    assert dataset.widths == (12, 7)
    assert np.array_equal(dataset.rows[:, 12:].numpy(), 100 * clustered(width=7, seed=4))
    for method in ("none", "l2", "standardize"):
        normalizer = Normalizer(method, dataset.widths)
        normalizer.fit(dataset.rows)
        text, image = normalizer(dataset.rows).split(dataset.widths, 1)
        assert text.var(0, correction=0).sum() == pytest.approx(float(image.var(0, correction=0).sum()), rel=1e-3)


@pytest.mark.parametrize("settings", [{}, {"fusion": "gated"}, {"quantizer": "rkmeans"}])
def test_fused_embeddings_make_an_index(two_modalities, settings):
    config = replace(two_modalities, **settings)
    folder, model, encoded = result(config)
    assert model.in_dim == 19
    index = load_sid_index(generate(GenerateConfig(dataset="Toy", ckpt_path=folder, device="cpu", dedup="none")))
    assert np.array_equal(index.codes, encoded.codes)
    assert [entry["path"] for entry in index.meta["embeddings"]] == [str(path) for path in config.data_path]


def test_the_gate_starts_as_concatenation_and_learns(two_modalities):
    inputs = torch.randn(5, 19)
    assert torch.equal(Gate((12, 7))(inputs), inputs)
    _, model, _ = result(replace(two_modalities, fusion="gated"))
    weights = torch.softmax(model.gate.scores(torch.from_numpy(np.zeros((1, 19), np.float32))), 1)
    assert (weights - 0.5).abs().max() > 1e-4


def test_modalities_of_other_items_are_refused(config, tmp_path):
    save_embeddings(tmp_path / "other.npy", clustered(), range(1, 121))
    with pytest.raises(ValueError, match="different items"):
        train(replace(config, data_path=(config.data_path[0], tmp_path / "other.npy")))


# ---- losses that shape codes -----------------------------------------------------------------------------------------
def test_alignment_brings_collaborative_neighbours_together(config, tmp_path):
    """Two groups that the embeddings hardly show, and the collaborative embeddings do."""
    groups = np.arange(120) % 2
    rows = clustered()
    rows[:, 0] = 0.3 * (2 * groups - 1)
    np.save(config.data_path[0], rows)
    signal = np.where(groups[:, None] == 0, [1.0, 0.0], [0.0, 1.0]) + 0.01 * clustered(width=2)
    save_embeddings(tmp_path / "cf.npy", signal[:100], range(100))  # some items have none
    config = replace(config, epochs=150, eval_step=150, learning_rate=5e-3)

    def gap(config: TrainConfig) -> float:
        """Mean cosine of quantized latents inside a group, minus that between groups."""
        _, _, encoded = result(config)
        quantized = sum(book[encoded.codes[:, level]] for level, book in enumerate(encoded.codebooks))
        quantized /= np.linalg.norm(quantized, axis=1, keepdims=True)
        is_same = groups[:, None] == groups
        return float((quantized @ quantized.T)[is_same].mean() - (quantized @ quantized.T)[~is_same].mean())

    assert gap(replace(config, cf_path=tmp_path / "cf.npy", cf_weight=5.0)) > gap(config) + 0.3


def test_misalignment_of_known_cases():
    own = torch.eye(3)
    assert misalignment(own, own) < misalignment(own, own.roll(1, 0))
    unknown = own.clone()
    unknown[2] = torch.nan
    pair = misalignment(own[:2], own[:2])
    assert torch.allclose(misalignment(own, unknown), pair, atol=1e-5)  # the third row neither counts nor distracts
    latents = torch.randn(3, 3, requires_grad=True)
    misalignment(latents, unknown).backward()
    assert torch.isfinite(latents.grad).all()


def test_unevenness_of_known_cases():
    centres = torch.tensor([[0.0], [100.0], [200.0], [300.0]])
    vectors = centres + 0.1
    assert unevenness(vectors, centres) == pytest.approx(0, abs=1e-5)
    assert unevenness(vectors[:1], centres) == pytest.approx(np.log(4), rel=1e-4)


def test_diversity_evens_the_use_of_codewords(config):
    skewed = clustered()
    skewed[:100] = 0.05 * skewed[:100]
    np.save(config.data_path[0], skewed)
    config = replace(config, epochs=100, eval_step=100, codebook_sizes=(8,))
    plain, even = (
        measure(result(replace(config, diversity_weight=weight))[2].codes, (8,)).perplexity[0] for weight in (0.0, 30.0)
    )
    assert even > plain


def test_misplacement_of_known_cases():
    """Nothing is lost where distances are kept, but for their unit; copies of an item are no trouble."""
    inputs = torch.nn.functional.normalize(torch.randn(9, 4, generator=torch.Generator().manual_seed(0)))
    inputs[5] = inputs[4]
    assert misplacement(7 * inputs, 3 * inputs) == pytest.approx(0, abs=1e-4)
    latents = inputs.roll(2, 0).clone().requires_grad_()
    loss = misplacement(latents, inputs)
    assert loss > 0.5
    loss.backward()
    assert torch.isfinite(latents.grad).all()
    assert torch.isfinite(misplacement(inputs[:1], inputs[:1]))  # a batch of one has no neighbours


def test_near_items_share_a_batch(config):
    plain, near = (Trainer(replace(config, neighbour_weight=weight), CPU) for weight in (0.0, 1.0))
    rows = torch.nn.functional.normalize(near.dataset.rows)

    def nearness(trainer):
        order = trainer.order.draw()
        assert sorted(order.tolist()) == list(range(len(rows)))
        return float((rows[order[1:]] * rows[order[:-1]]).sum(1).mean())

    assert nearness(near) > nearness(plain) + 0.2


def test_neighbours_are_kept(config):
    """Items that are near by cosine share the first code more often than without."""
    shares = []
    for weight in (0.0, 10.0):
        shaped = replace(config, neighbour_weight=weight, normalize="l2", epochs=150, eval_step=150)
        codes = result(shaped)[2].codes
        shares.append(neighbour_measures(all_prefix_groups(codes), clustered())["neighbour_recall"])
    assert shares[1] > shares[0]


def test_losses_in_use_are_logged(config, tmp_path):
    save_embeddings(tmp_path / "cf.npy", clustered(width=3), range(120))
    shaped = replace(config, cf_path=tmp_path / "cf.npy", cf_weight=0.1, diversity_weight=0.1, spread_weight=1.0)
    shaped = replace(shaped, neighbour_weight=0.1)
    names = {"spread", "alignment", "diversity", "neighbours"}
    rows = [read_rows(train(each) / "metrics.jsonl")[0] for each in (config, shaped)]
    assert [names & row.keys() for row in rows] == [set(), names]


def test_grids_of_all_small_sizes():
    for size, prime in itertools.product((2, 3, 5, 7, 30, 64, 210), (11, 13)):
        assert np.prod(grid_of(size)) == size
        with pytest.raises(ValueError, match="product of"):
            grid_of(size * prime)

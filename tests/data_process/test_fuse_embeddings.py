"""Fused embeddings: rows of the same item come together, weights weigh, and components keep the variance."""

import numpy as np
import pytest

from data_process.fuse_embeddings import FuseConfig, build_parser, fuse, main
from src.common.artifacts import load_embeddings, save_embeddings


@pytest.fixture
def files(tmp_path):
    """Texts of items 4, 2, 7 and 1, and pictures of the same in another order."""
    rng = np.random.default_rng(0)
    text, image = tmp_path / "D.emb-text.npy", tmp_path / "D.emb-image.npy"
    save_embeddings(text, rng.normal(size=(4, 3)) * 100, [4, 2, 7, 1])
    save_embeddings(image, rng.normal(size=(4, 5)), [1, 2, 4, 7])
    return text, image


def run(files, tmp_path, **settings):
    return load_embeddings(fuse(FuseConfig(inputs=files, out=tmp_path / "D.emb-fused.npy", **settings)))


def test_rows_are_joined_by_item_and_weighted(files, tmp_path):
    (text, _), (image, _) = map(load_embeddings, files)
    fused, ids = run(files, tmp_path, weights=(1.0, 0.25))
    assert ids == [4, 2, 7, 1]
    unit = [table / np.linalg.norm(table, axis=1, keepdims=True) for table in (text, image[[2, 1, 3, 0]])]
    np.testing.assert_allclose(fused, np.concatenate([unit[0], unit[1] / 2], 1), rtol=1e-5)
    plain, _ = run(files, tmp_path, normalize="none")
    np.testing.assert_array_equal(plain[:, :3], text)


def test_standardized_files_have_the_same_variance(files, tmp_path):
    fused, _ = run(files, tmp_path, normalize="standardize")
    np.testing.assert_allclose(fused.mean(0), 0, atol=1e-6)
    assert [part.var(0).sum() for part in (fused[:, :3], fused[:, 3:])] == pytest.approx([1, 1], rel=1e-5)


def test_components_keep_distances(files, tmp_path):
    whole, _ = run(files, tmp_path)
    reduced, ids = run(files, tmp_path, dim=3)  # four rows span no more, once they are centred
    assert (reduced.shape, ids) == ((4, 3), [4, 2, 7, 1])
    distances = [np.linalg.norm(table[:, None] - table[None], axis=2) for table in (whole, reduced)]
    np.testing.assert_allclose(*distances, atol=1e-5)
    assert (np.diff(reduced.var(0)) <= 0).all()
    np.testing.assert_array_equal(reduced, run(files, tmp_path, dim=3)[0])
    with pytest.raises(ValueError, match="--dim 5"):
        run(files, tmp_path, dim=5)


def test_other_items_are_refused_or_get_the_mean(files, tmp_path):
    save_embeddings(files[1], np.arange(10).reshape(2, 5) + 1, [2, 9])
    with pytest.raises(ValueError, match=r"D\.emb-image\.npy lacks 3 items, the first being 4.*--missing mean"):
        run(files, tmp_path)
    fused, ids = run(files, tmp_path, missing="mean", normalize="none")
    assert ids == [4, 2, 7, 1, 9]
    np.testing.assert_allclose(fused[0, 3:], [3.5, 4.5, 5.5, 6.5, 7.5])
    np.testing.assert_allclose(fused[4, :3], load_embeddings(files[0])[0].mean(0), rtol=1e-5)
    save_embeddings(files[1], np.ones((5, 5)), [1, 2, 4, 7, 9])
    with pytest.raises(ValueError, match="has 1 items more, the first being 9"):
        run(files, tmp_path)


def test_wrong_settings_are_refused(files, tmp_path, capsys):
    wrong = {
        "--weights has 1": {"weights": (1.0,)},
        "--weights 0": {"weights": (1.0, 0.0)},
        "below two": {"inputs": files[:1]},
        "--dim 0": {"dim": 0},
        "must end in .npy": {"out": tmp_path / "D.emb-x"},  # used to leave an empty file, and ids at D.ids.json
        "unknown --normalize": {"normalize": "max"},
    }
    for message, settings in wrong.items():
        with pytest.raises(ValueError, match=message):
            FuseConfig(**{"inputs": files, "out": tmp_path / "x.npy", **settings})
    save_embeddings(files[0], np.zeros((4, 3)), [4, 2, 7, 1])
    with pytest.raises(SystemExit):
        main(["--inputs", *map(str, files), "--out", str(tmp_path / "x.npy")])
    assert "nothing but zeros in row 0" in capsys.readouterr().err


def test_weights_are_a_list():
    assert build_parser().parse_args(["--inputs", "a", "b", "--out", "c", "--weights", "1,.5"]).weights == [1, 0.5]

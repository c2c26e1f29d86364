"""Seven embeddings and their table by one command; pictures and enriched texts reach the vectors they belong to."""

import json

import numpy as np
import pytest

from data_process import encoders
from scripts.extract_rep import build_parser, main
from src.common.artifacts import load_embeddings
from tests.toy import NAME, tiny_model, toy_copy

SEVEN = ["td-image", "td", "enhanced-image", "enhanced", "td-enhanced-image", "td-enhanced", "image"]


@pytest.fixture
def flags(tmp_path):
    data = toy_copy(tmp_path)
    model = tiny_model("qwen2_vl")
    return ["--dataset", NAME, "--data_path", str(data), "--model", str(model), "--batch-size", "16", "--device", "cpu"]


def test_seven_combinations_and_their_table(flags, tmp_path, monkeypatch, capsys):
    loads = []
    init = encoders.Encoder.__init__
    monkeypatch.setattr(encoders.Encoder, "__init__", lambda self, *a, **k: loads.append(1) or init(self, *a, **k))
    main(flags)
    folder = tmp_path / "data" / NAME
    stem = f"{NAME}.emb-{tiny_model('qwen2_vl').name}"
    vectors = {name: load_embeddings(folder / f"{stem}-{name}.npy") for name in SEVEN}
    assert len(loads) == 1
    assert all(ids == list(range(40)) for _, ids in vectors.values())
    for index, name in enumerate(SEVEN):
        for other in SEVEN[index + 1 :]:
            assert not np.allclose(vectors[name][0], vectors[other][0], atol=1e-4), (name, other)
    table = json.loads((folder / f"{NAME}.emb-comparison.json").read_text())
    assert [name.removeprefix(f"{tiny_model('qwen2_vl').name}-") for name in table["rows"]] == SEVEN
    assert "co-transition" in capsys.readouterr().out
    main(flags)
    assert len(loads) == 1  # all seven are there


def test_original_texts_alone_need_no_enriched_items(flags, tmp_path, capsys):
    (enriched,) = tmp_path.rglob(f"{NAME}.item_enriched_v2.json")
    enriched.unlink()
    with pytest.raises(SystemExit):
        main(flags)
    assert "item_enriched_v2.json does not exist" in capsys.readouterr().err
    main([*flags, "--modes", "orig"])
    assert len(list(tmp_path.rglob("*.emb-*.npy"))) == 3
    with pytest.raises(SystemExit):
        main([*flags, "--modes", "original"])
    assert "unknown 'original'" in capsys.readouterr().err


def test_names_are_given():
    with pytest.raises(SystemExit):
        build_parser().parse_args(["--dataset", "D", "--model", "m", "--name", "x"])

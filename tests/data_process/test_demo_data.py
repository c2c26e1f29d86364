"""The demo dataset proves what it promises: texts alike, pictures apart, and a known best predictor."""

import json
from dataclasses import replace

import numpy as np
import pytest

from data_process.demo_oracle import OracleConfig, best_scores, oracle, ranks, text_scores
from data_process.demo_process import COLOURS, MIN_LENGTH, PATTERNS, draw_users, load_process, make_process
from data_process.make_demo_data import DemoConfig, class_texts, enriched_texts, make_demo_data, maker_name
from src.common.artifacts import dataset_paths
from src.common.dataset_readers import find_images, load_enriched_items, load_interactions, load_items, load_times
from src.common.images import open_image


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    config = DemoConfig(data_path=tmp_path_factory.mktemp("data"))
    make_demo_data(config)
    return dataset_paths(config.data_path, config.dataset)


def test_figures_at_the_defaults(demo, tmp_path):
    rows = oracle(OracleConfig(data_path=demo.data_path, results_file=tmp_path / "oracle.json"))
    hits = {name: metrics["hit@10"] for name, metrics in rows.items()}
    assert 0.05 <= hits["popularity"] <= 0.10
    assert 0.55 <= hits["best"] <= 0.65
    assert hits["text only"] <= 0.6 * hits["best"]
    written = json.loads((tmp_path / "oracle.json").read_text())
    assert {name: written[name] for name in rows} == rows
    assert written["num_samples"] == 4000


def test_files_fit_the_contract(demo):
    interactions, items = load_interactions(demo), load_items(demo)
    assert len(interactions) == 4000
    assert sorted(items) == list(range(300))
    times = load_times(demo, interactions)
    for user, history in interactions.items():
        assert len(history) >= MIN_LENGTH
        assert len(set(history)) == len(history)  # no item twice, so that masking the history is legitimate
        assert (np.diff(times[user]) > 0).all()
    assert len(find_images(demo, items)) == len(find_images(demo, items, "images_second")) == 300


def test_texts_are_alike_and_pictures_differ_in_a_class(demo):
    process, _ = load_process(demo.file("truth.npz"))
    items = json.loads(demo.file("item.json").read_text())
    texts = [json.dumps({**items[str(item)], "image": None}) for item in range(300)]
    pictures = find_images(demo, load_items(demo))
    seconds = find_images(demo, load_items(demo), "images_second")
    assert len(set(texts)) == process.text_class.max() + 1 == 30
    assert len(np.unique(process.attributes, axis=0)) == 300
    for text_class in range(30):
        members = np.flatnonzero(process.text_class == text_class)
        assert 8 <= len(members) <= 12
        assert len({texts[item] for item in members}) == 1
        assert len({pictures[item].read_bytes() for item in members}) == len(members)
    colours = [open_image(pictures[item]).resize((1, 1)).getpixel((0, 0)) for item in range(300)]
    assert len(set(colours)) > 250
    assert all(pictures[item].read_bytes() != seconds[item].read_bytes() for item in range(300))


def test_enriched_items_are_functions_of_text_and_picture(demo):
    process, _ = load_process(demo.file("truth.npz"))
    enriched = load_enriched_items(demo)
    shown = {}
    for item in range(300):
        attributes = process.attributes[item].tolist()
        fields = json.loads(json.dumps(enriched_texts(int(process.text_class[item]), attributes)))
        assert enriched[item] == fields
        assert fields["tags"][0] == COLOURS[attributes[1]]
        assert f"pattern: {PATTERNS[attributes[2]]}" in fields["characteristics"]
        shown.setdefault(int(process.text_class[item]), set()).add(tuple(fields["tags"]))
    assert min(map(len, shown.values())) >= 5  # texts alone do not tell them


def test_without_pictures_enriched_items_tell_nothing_of_them(tmp_path):
    folder = make_demo_data(DemoConfig(data_path=tmp_path, items=40, users=3, images=False))
    enriched = json.loads((folder / "Demo.item_enriched_v2.json").read_text())
    assert len({json.dumps(fields) for fields in enriched.values()}) == 4
    assert not [fields for fields in enriched.values() if fields["has_image"]]


def test_seed_decides_everything(tmp_path):
    small = DemoConfig(data_path=tmp_path, items=40, users=30, image_size=32)

    def files(name: str, **changes) -> dict[str, bytes]:
        folder = make_demo_data(replace(small, dataset=name, **changes))
        # The name and the clock are in the first two, times inside a zip file in the last.
        skip = (f"{name}.demo.json", f"{name}.run.json", f"{name}.truth.npz")
        found = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in skip]
        return {str(path.relative_to(folder)).replace(name, "X"): path.read_bytes() for path in found}

    first, again, other = files("One"), files("Two"), files("Three", seed=1)
    assert first == again
    assert first["X.inter.json"] != other["X.inter.json"]
    assert first["images/D0000000.jpg"] != other["images/D0000000.jpg"]
    assert not any(name.startswith("images") for name in files("Four", images=False))


def test_leaves_other_datasets_alone(tmp_path):
    (tmp_path / "Games").mkdir()
    (tmp_path / "Games" / "Games.inter.json").write_text('{"0": [1]}')
    with pytest.raises(FileExistsError, match="not made here"):
        make_demo_data(DemoConfig(data_path=tmp_path, dataset="Games"))


def test_best_scores_are_the_frequencies_of_the_process():
    """Draws many users of a small catalogue and compares what follows the most frequent first item."""
    process = make_process(40, 5, habit=0.6, taste_boost=8, popularity_spread=1.0)
    histories, _, _ = draw_users(process, 150_000, 5)
    first = np.bincount(histories[:, 0]).argmax()
    following = histories[histories[:, 0] == first, 1]
    expected = best_scores(process, np.array([[first]]))[0]
    assert expected.sum() == pytest.approx(1)
    counts = np.bincount(following, minlength=40)
    deviation = (counts - len(following) * expected) / np.sqrt(len(following) * expected + 1e-9)
    assert counts[first] == 0
    assert expected[first] == 0
    assert np.abs(np.delete(deviation, first)).max() < 4.5


def test_text_scores_know_only_classes():
    process = make_process(60, 5, habit=0.6, taste_boost=8, popularity_spread=1.0)
    twin = np.flatnonzero(process.text_class == process.text_class[0])[:2]
    scores = text_scores(process, twin[:, None])
    others = np.setdiff1d(np.arange(60), twin)
    np.testing.assert_allclose(scores[0, others], scores[1, others])


def test_ranks_order_ties_by_item():
    scores = np.array([[0.5, 0.2, 0.5, 0.1]] * 3)
    assert ranks(scores, np.array([0, 2, 3])).tolist() == [0, 1, 3]


def test_scales_without_loops_over_pairs():
    process = make_process(200_000, 1, habit=0.5, taste_boost=10, popularity_spread=0.8)
    histories, lengths, _ = draw_users(process, 20_000, 1)
    assert histories.max() > 190_000
    ordered = np.sort(np.where(histories < 0, -np.arange(1, 16), histories), 1)
    assert (np.diff(ordered, axis=1) != 0).all()
    assert lengths.min() == MIN_LENGTH
    classes = np.bincount(process.text_class)
    assert len(classes) == 20_000
    assert classes.max() == classes.min() == 10


def test_texts_name_no_colour_and_makers_differ():
    assert len({maker_name(number) for number in range(5000)}) == 5000
    text = json.dumps([class_texts(text_class) for text_class in range(30)]).lower()
    assert not [word for word in (" red", "blue", "green", "dots", "zigzag", "coarse") if word in text]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"items": 39}, "at least 40"), ({"image_size": 8}, "at least 32"), ({"users": 0}, "users")],
)
def test_bad_settings(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make_demo_data(DemoConfig(data_path=tmp_path, **settings))

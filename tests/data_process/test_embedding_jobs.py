"""The loop around every encoder: rows match ids whatever fails, nothing is done twice, ranks change no vector."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_process import embedding_jobs
from data_process.embedding_inputs import EmbeddingInputs
from data_process.embedding_jobs import JobConfig, make_batches, run_job
from src.common.artifacts import load_embeddings

ROOT = Path(__file__).resolve().parents[2]


def vector_of(text, picture):
    colour = 0 if picture is None else picture.getpixel((0, 0))[0]
    return np.array([len(text), sum(map(ord, text)) % 97, colour], np.float32)


class FakeEncoder:
    """A vector that follows from text and picture; fails where it is told to."""

    def __init__(self, bad_texts=(), bad_calls=(), nan_texts=()):
        self.bad_texts, self.bad_calls, self.nan_texts = set(bad_texts), set(bad_calls), set(nan_texts)
        self.calls: list[int] = []

    def encode(self, texts, pictures):
        assert len({picture is None for picture in pictures}) == 1, "a mixed batch"
        self.calls.append(len(texts))
        if self.bad_texts & set(texts):
            raise RuntimeError(f"cannot read {self.bad_texts & set(texts)}")
        if len(self.calls) in self.bad_calls and len(texts) > 1:
            raise RuntimeError("out of memory")
        rows = np.stack([vector_of(text, picture) for text, picture in zip(texts, pictures, strict=True)])
        rows[[text in self.nan_texts for text in texts]] = np.nan
        return rows

    def free_memory(self):
        pass


def job(folder, inputs, encoder, **more):
    config = JobConfig(dataset="D", out_dir=folder, model="fake", device="cpu", **{"batch_size": 4, **more})
    return run_job(config, inputs, lambda device: encoder, "fake")


def expected(inputs):
    pictures = [None if image is None else Image.open(image).convert("RGB") for image in inputs.images]
    return np.stack([vector_of(text, picture) for text, picture in zip(inputs.texts, pictures, strict=True)])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(5):
        Image.new("RGB", (2, 2), (50 * number, 0, 0)).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


# ---- rows and ids ----------------------------------------------------------------------------------------------------
@st.composite
def troubles(draw):
    """Items with ids that have gaps, some with pictures; some that fail always, and calls that fail once."""
    size = draw(st.integers(1, 25))
    ids = sorted(draw(st.sets(st.integers(0, 200), min_size=size, max_size=size)))
    texts = [f"{'word ' * draw(st.integers(1, 6))}{item}" for item in ids]
    images = [draw(st.sampled_from([None, 0, 1, 2, 3, 4])) for _ in ids]
    positions = st.sets(st.integers(0, size - 1), max_size=3)
    return ids, texts, images, draw(positions), draw(positions), draw(positions), draw(st.sets(st.integers(1, 12)))


@settings(max_examples=60, deadline=None)
@given(troubles(), st.integers(1, 6))
def test_rows_match_ids_whatever_fails(pictures, trouble, batch_size):
    """Failures are named, all of them and no other; once they are mended the file is what it would have been."""
    ids, texts, images, bad, nan, broken, bad_calls = trouble
    good = EmbeddingInputs(ids, texts, [None if n is None else pictures / f"{n}.png" for n in images])
    broken = {row for row in broken if images[row] is not None}
    files = [pictures / "broken.png" if row in broken else image for row, image in enumerate(good.images)]
    encoder = FakeEncoder({texts[row] for row in bad}, bad_calls, {texts[row] for row in nan})
    with tempfile.TemporaryDirectory() as name:
        failing = {ids[row] for row in bad | nan | broken}
        if failing:
            with pytest.raises(ValueError, match=f"{len(failing)} of {len(ids)} items failed") as caught:
                job(Path(name), EmbeddingInputs(ids, texts, files), encoder, batch_size=batch_size)
            named = {int(line.split()[1][:-1]) for line in str(caught.value).splitlines() if line.startswith("  item")}
            assert named == failing
            assert not list(Path(name).glob("*.npy"))
            encoder = FakeEncoder()
        path = job(Path(name), good, encoder, batch_size=batch_size)
        vectors, found = load_embeddings(path)
        assert found == ids
        np.testing.assert_array_equal(vectors, expected(good))
        if failing:
            assert sum(encoder.calls) == len(failing)  # nothing was done twice
        assert not path.with_suffix(".parts").exists()


def test_items_with_nothing_to_embed_get_the_mean(tmp_path, pictures, caplog):
    inputs = EmbeddingInputs([3, 5, 9], ["a", " ", "abc"], [None, None, pictures / "4.png"])
    with caplog.at_level("WARNING", "grec"):
        vectors, _ = load_embeddings(job(tmp_path, inputs, FakeEncoder()))
    assert "1 items have nothing to embed" in caplog.text
    np.testing.assert_allclose(vectors[1], vectors[[0, 2]].mean(0))
    with pytest.raises(ValueError, match="nothing to write"):
        job(tmp_path, EmbeddingInputs([3], [""], [None]), FakeEncoder(), name="empty")


def test_skipped_pictures_leave_the_text(tmp_path, pictures):
    files = [pictures / "4.png", pictures / "broken.png", pictures / "broken.png"]
    inputs = EmbeddingInputs([0, 1, 2], ["aa", "aaa", ""], files)
    vectors, _ = load_embeddings(job(tmp_path, inputs, FakeEncoder(), skip_bad_images=True))
    np.testing.assert_array_equal(vectors[:2], [vector_of("aa", Image.open(files[0])), vector_of("aaa", None)])
    np.testing.assert_allclose(vectors[2], vectors[:2].mean(0))


def test_batches_are_of_like_lengths_and_of_one_kind(pictures):
    rng = np.random.default_rng(0)
    texts = ["x" * int(length) for length in rng.integers(1, 200, 50)]
    images = [pictures / "0.png" if row % 3 else None for row in range(50)]
    batches = make_batches(EmbeddingInputs(list(range(50)), texts, images), {7, 8}, 8)
    assert sorted(item for batch in batches for item in batch.item_ids) == sorted(set(range(50)) - {7, 8})
    for sees in (True, False):
        mine = [batch for batch in batches if (batch.images[0] is not None) == sees]
        assert all((image is not None) == sees for batch in mine for image in batch.images)
        lengths = [len(text) for batch in mine for text in batch.texts]
        assert lengths == sorted(lengths, reverse=True)


# ---- going on --------------------------------------------------------------------------------------------------------
def numbers(count):
    return EmbeddingInputs(list(range(count)), [f"item {item}" for item in range(count)], [None] * count)


def test_what_is_whole_is_not_made_again(tmp_path, caplog):
    inputs = numbers(20)
    path = job(tmp_path, inputs, FakeEncoder())
    again = FakeEncoder()
    with caplog.at_level("INFO", "grec"):
        job(tmp_path, inputs, again)
    assert (again.calls, "is there already" in caplog.text) == ([], True)
    for change in ({"dtype": "fp32"}, {"model": "other"}):
        changed = FakeEncoder()
        config = JobConfig(dataset="D", out_dir=tmp_path, device="cpu", **{"model": "fake", **change})
        run_job(config, inputs, lambda device, encoder=changed: encoder, "fake")
        assert sum(changed.calls) == 20
    job(tmp_path, inputs, FakeEncoder())
    np.save(path, np.zeros((20, 3), np.float32))  # by another program
    again = FakeEncoder()
    job(tmp_path, inputs, again)
    job(tmp_path, inputs._replace(texts=["changed", *inputs.texts[1:]]), again)
    assert sum(again.calls) == 40


def test_a_model_that_was_trained_anew_is_another(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    calls = []
    for weights in ("first", "second", "second"):
        if not (model / "weights").is_file() or (model / "weights").read_text() != weights:
            (model / "weights").write_text(weights)
        encoder = FakeEncoder()
        config = JobConfig(dataset="D", out_dir=tmp_path, model=str(model), device="cpu")
        run_job(config, numbers(9), lambda device, encoder=encoder: encoder, "fake")
        calls.append(sum(encoder.calls))
    assert calls == [9, 9, 0]


def test_parts_of_other_settings_are_not_mixed(tmp_path):
    with pytest.raises(ValueError, match="1 of 9"):
        job(tmp_path, numbers(9), FakeEncoder(["item 3"]))
    with pytest.raises(ValueError, match="other settings"):
        job(tmp_path, numbers(9), FakeEncoder(), dtype="fp32")


def test_a_model_that_fails_everywhere_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(embedding_jobs, "GIVE_UP_AFTER", 10)
    inputs = numbers(100)
    encoder = FakeEncoder(inputs.texts)
    with pytest.raises(ValueError, match="12 of 100 items failed"):
        job(tmp_path, inputs, encoder)
    assert sum(encoder.calls) == 24  # three batches of four, and each of their items


def test_settings_that_do_nothing_are_refused(tmp_path):
    for wrong, message in (({"workers": 2}, "--workers"), ({"engine": "spark"}, "--engine"), ({"batch_size": 0}, "0")):
        with pytest.raises(ValueError, match=message):
            JobConfig(dataset="D", model="m", **wrong)


SLOW_RUN = """
import sys, time
from pathlib import Path
from tests.data_process.test_embedding_jobs import FakeEncoder, numbers, job
from data_process import embedding_jobs
embedding_jobs.BATCHES_PER_PART = 1
class Slow(FakeEncoder):
    def encode(self, texts, pictures):
        time.sleep(float(sys.argv[2]))
        return super().encode(texts, pictures)
encoder = Slow()
job(Path(sys.argv[1]), numbers(40), encoder)
print("embedded", sum(encoder.calls))
"""


def test_a_killed_run_goes_on(tmp_path):
    command = [sys.executable, "-c", SLOW_RUN, str(tmp_path)]
    running = subprocess.Popen([*command, "0.3"], cwd=ROOT)
    parts = tmp_path / "D.emb-fake.parts"
    deadline = time.monotonic() + 60
    while len(list(parts.glob("items-*.npz"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    kept = 4 * len(list(parts.glob("items-*.npz")))
    assert 8 <= kept < 40
    assert not list(tmp_path.glob("*.npy"))
    done = subprocess.run([*command, "0"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == f"embedded {40 - kept}", done.stderr
    vectors, ids = load_embeddings(tmp_path / "D.emb-fake.npy")
    assert ids == list(range(40))
    np.testing.assert_array_equal(vectors, expected(numbers(40)))


def test_a_run_killed_after_its_last_write_leaves_no_parts(tmp_path, monkeypatch):
    """They used to stay for good, as large as the embeddings: the next start found nothing to do."""
    inputs, parts = numbers(8), tmp_path / "D.emb-fake.parts"
    with monkeypatch.context() as patch:
        patch.setattr(embedding_jobs.Parts, "remove", lambda *_: None)  # killed before it
        job(tmp_path, inputs, FakeEncoder())
    assert sorted(path.name for path in parts.iterdir())[0].startswith("items-")
    other = tmp_path / "other.parts"
    shutil.copytree(parts, other)
    job(tmp_path, inputs, FakeEncoder(bad_texts=inputs.texts))  # nothing is embedded again
    assert not parts.exists()
    settings = json.loads((other / "settings.json").read_text())
    rest = embedding_jobs.Parts(other, inputs)
    rest.remove({**settings, "model": "another"})  # the beginning of another run
    assert (other / "settings.json").is_file()
    rest.remove(settings)
    assert not other.exists()


def test_parts_say_whose_they_are_until_they_are_gone(tmp_path, monkeypatch):
    """Killed while it removed them, a run could leave vectors that one of another model took for its own."""
    parts, unlink, left = tmp_path / "D.emb-fake.parts", os.unlink, []

    def watched(path, **options):
        if str(path).endswith("settings.json"):
            left.append([file.name for file in parts.iterdir()])
        unlink(path, **options)

    monkeypatch.setattr(os, "unlink", watched)
    job(tmp_path, numbers(8), FakeEncoder())
    assert left == [["settings.json"]]


# ---- ranks -----------------------------------------------------------------------------------------------------------
def test_two_ranks_give_the_vectors_of_one(tmp_path):
    """To the last bit: ranks take whole batches."""
    from data_process.make_demo_data import DemoConfig, make_demo_data
    from scripts.make_tiny_model import TinyModelConfig, make_tiny_model

    folder = make_demo_data(DemoConfig(data_path=tmp_path, items=40, users=5, image_size=56))
    (folder / "images" / "D0000004.jpg").unlink()
    model = tmp_path / "qwen2_vl"
    small = {"hidden_size": 32, "intermediate_size": 64, "vocab_size": 400}
    make_tiny_model(TinyModelConfig("qwen2_vl", model, folder / "Demo.item.json", **small))
    entry = ["data_process/qwen_embeddings.py", "--dataset", "Demo", "--data_path", str(tmp_path), "--device", "cpu"]
    entry += ["--model", str(model), "--batch-size", "4"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ranks = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    for name, start in (("one", []), ("two", ranks)):
        done = subprocess.run(
            [sys.executable, *start, *entry, "--name", name],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
    (one, ids), (two, others) = (load_embeddings(folder / f"Demo.emb-{name}.npy") for name in ("one", "two"))
    assert ids == others == list(range(40))
    np.testing.assert_array_equal(one, two)
    record = json.loads((folder / "Demo.emb-two.run.json").read_text())
    assert record["settings"]["pooling"] == "mean"

"""Work in parts: every sample is done once, by one rank, and what is done is not done again."""

import numpy as np
import pytest

from src.common import parts as common_parts
from src.common.distributed import shard
from src.common.parts import Parts, cut_batches, key_of

SIZES = np.random.default_rng(0).integers(1, 9, 23)  # 23 samples in batches of 4: the last is smaller
BATCHES = cut_batches(SIZES, 4)


@pytest.fixture(autouse=True)
def _ranks_in_turn(monkeypatch):
    for name in ("barrier", "check_same", "check_shared", "wait_until_seen"):
        monkeypatch.setattr(common_parts, name, lambda *_: None)
    monkeypatch.setattr(common_parts, "gather", lambda value: [value])


def become(monkeypatch, rank: int, ranks: int) -> None:
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(ranks))


def work(folder, done: list[int], key: str = "k") -> int:
    """This rank's share; `done` gets the samples that it was asked."""

    def answer(batch):
        done.extend(batch.tolist())
        return {"double": 2 * batch}

    return Parts(folder, {"key": key}).work(0, BATCHES, answer)


def test_batches_hold_like_sizes_and_every_sample_once():
    assert [len(batch) for batch in BATCHES] == [4] * 5 + [3]
    assert np.concatenate(BATCHES).tolist() == np.argsort(SIZES, kind="stable").tolist()


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_a_rank_does_its_share_and_no_more(monkeypatch, ranks):
    """A rank that did all batches gave the right metrics, only as slowly as without other ranks."""
    shares = []
    for rank in range(ranks):
        become(monkeypatch, rank, ranks)
        shares.append(shard(BATCHES))
    assert sorted(i for share in shares for batch in share for i in batch) == list(range(23))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_do_every_sample_once(tmp_path, monkeypatch, ranks):
    """Ranks that start together all see an empty folder."""
    asked = []
    for rank in range(ranks):
        become(monkeypatch, rank, ranks)
        monkeypatch.setattr(Parts, "read", lambda self, prompt_id: iter(()))
        done = []
        assert work(tmp_path / "parts", done) == len(done)
        assert len(done) < 23 or ranks == 1
        asked += done
    monkeypatch.undo()
    assert sorted(asked) == list(range(23))
    found = {}
    for samples, arrays in Parts(tmp_path / "parts", {"key": "k"}).read(0):
        np.testing.assert_array_equal(arrays["double"], 2 * samples)
        assert not found.keys() & set(samples.tolist())
        found |= dict.fromkeys(samples.tolist())
    assert sorted(found) == list(range(23))


def test_what_is_done_is_not_done_again(tmp_path, monkeypatch):
    """By one rank before, by three now; another key starts from nothing."""
    folder, before = tmp_path / "parts", []

    def fail_later(batch):
        if len(before) == 2:
            raise RuntimeError("out of memory")
        before.append(batch)
        return {"double": 2 * batch}

    monkeypatch.setattr(common_parts, "SAVE_SECONDS", -1)
    with pytest.raises(RuntimeError), Parts(folder, {"key": "k"}) as parts:
        parts.work(0, BATCHES, fail_later)
    asked = []
    for rank in range(3):
        become(monkeypatch, rank, 3)
        work(folder, asked)
    assert len(set(asked)) == len(asked)
    assert not set(asked) & set(np.concatenate(before).tolist())
    become(monkeypatch, 0, 1)
    asked = []
    work(folder, asked, "other")
    assert sorted(asked) == list(range(23))


def test_what_rank_0_has_read_counts_for_all(tmp_path, monkeypatch):
    """A machine that sees a file later than another used to take another share: samples were done twice, or never."""
    seen = np.concatenate(BATCHES[2:])
    monkeypatch.setattr(common_parts, "gather", lambda value: [seen, value])
    asked = []
    work(tmp_path / "parts", asked)
    assert asked == np.concatenate(BATCHES[:2]).tolist()


@pytest.mark.parametrize("seconds", [-1, 60])
def test_all_that_was_written_is_waited_for(tmp_path, monkeypatch, seconds):
    folder, waited = tmp_path / "parts", []
    monkeypatch.setattr(common_parts, "SAVE_SECONDS", seconds)
    monkeypatch.setattr(common_parts, "wait_until_seen", lambda *asked: waited.append(asked))
    work(folder, [])
    ((where, names),) = waited
    assert where == folder
    assert sorted(names) == sorted(path.name for path in folder.glob("*.npz"))


def test_prompts_are_kept_apart(tmp_path):
    parts = Parts(tmp_path / "parts", {"key": "k"})
    parts.work(0, BATCHES, lambda batch: {"x": batch})
    assert parts.work(1, BATCHES, lambda batch: {"x": batch}) == 23


def test_a_folder_without_parts_goes(tmp_path):
    with Parts(tmp_path / "parts", {"key": "k"}):
        pass
    assert not (tmp_path / "parts").exists()


def test_keys_follow_settings_and_contents(tmp_path):
    path = tmp_path / "file"
    path.write_text("one")
    first = key_of({"a": 1}, [path])
    assert key_of({"a": 1}, [path]) == first
    assert key_of({"a": 2}, [path]) != first
    path.write_text("two")
    assert key_of({"a": 1}, [path]) != first

"""scripts/quickstart.py: nothing is done twice, a dataset is linked and not touched, bad input stops it early."""

import json

import pytest

from scripts import quickstart as qs


def run_stage(folder, settings, work, name="one"):
    stages = qs.Stages(folder, total=1)
    stages.run(name, settings, lambda: [folder / "made"], work)
    return stages


def test_a_finished_stage_is_skipped_until_its_settings_or_outputs_change(tmp_path):
    calls = []

    def work():
        calls.append(1)
        (tmp_path / "made").write_text("x")

    run_stage(tmp_path, {"a": 1}, work)
    run_stage(tmp_path, {"a": 1}, work)
    assert len(calls) == 1
    run_stage(tmp_path, {"a": 2}, work)
    assert len(calls) == 2
    (tmp_path / "made").unlink()
    run_stage(tmp_path, {"a": 2}, work)
    assert len(calls) == 3


def test_a_change_early_on_makes_all_later_stages_anew(tmp_path):
    calls = []

    def go(first):
        stages = qs.Stages(tmp_path, total=2)
        (tmp_path / "made").write_text("x")
        stages.run("one", first, lambda: [tmp_path / "made"], lambda: calls.append("one"))
        stages.run("two", "same", lambda: [tmp_path / "made"], lambda: calls.append("two"))

    go(1)
    go(1)
    go(2)
    assert calls == ["one", "two", "one", "two"]


def test_a_stage_that_fails_is_not_remembered(tmp_path):
    def fail():
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        run_stage(tmp_path, {}, fail)
    assert not (tmp_path / "quickstart.json").exists()
    with pytest.raises(RuntimeError, match="ended without"):
        run_stage(tmp_path, {}, lambda: None)


def test_a_dataset_is_linked_and_left_alone(tmp_path, monkeypatch):
    source = tmp_path / "elsewhere" / "Toy"
    (source / "images").mkdir(parents=True)
    (source / "Toy.inter.json").write_text("{}")
    (source / "Toy.item.json").write_text("{}")
    monkeypatch.setattr(qs, "DATA", tmp_path / "data")
    assert qs.link_dataset(source) == "Toy"
    assert qs.link_dataset(source) == "Toy"  # again: nothing is in the way
    assert (tmp_path / "data/Toy/images").is_symlink()
    assert sorted(path.name for path in source.iterdir()) == ["Toy.inter.json", "Toy.item.json", "images"]
    (tmp_path / "data/Toy/Toy.item.json").unlink()
    (tmp_path / "data/Toy/Toy.item.json").write_text("another dataset of this name")
    with pytest.raises(FileExistsError, match="in the way"):
        qs.link_dataset(source)


def test_a_folder_that_is_no_dataset_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(qs, "DATA", tmp_path / "data")
    (tmp_path / "Toy").mkdir()
    with pytest.raises(FileNotFoundError, match=r"Toy\.inter\.json"):
        qs.link_dataset(tmp_path / "Toy")


def test_a_broken_dataset_stops_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(qs.os, "chdir", lambda _: None)
    source = tmp_path / "shop" / "Toy"
    source.mkdir(parents=True)
    (source / "Toy.item.json").write_text(json.dumps({"0": {"title": "a"}, "1": {"title": "b"}}))
    for content, message in (
        ('{"u": [0, 1', "cut off"),
        ('{"u": [0, 1, 7]}', "item 7"),
        ('{"u": [0, "1"]}', "whole numbers"),
    ):
        (source / "Toy.inter.json").write_text(content)
        with pytest.raises(SystemExit, match=message):
            qs.main(["--data", str(source)])
        assert not (tmp_path / "models").exists()


def test_codebooks_grow_with_the_catalogue():
    assert [qs.codebook_size(n) for n in (20, 120, 300, 3186, 10**6)] == [16, 32, 64, 256, 256]

"""One model for several datasets, in either language: what it is told of them, and what is wrong with what it needs."""

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from src.common.artifacts import TOKEN_META, dataset_paths, file_hash
from src.common.index_files import index_path, load_sid_index, save_sid_index
from src.common.sid import SidIndex, sid_token
from src.finetune import training
from src.finetune.config import FinetuneConfig
from src.finetune.core import check, finetune
from src.seqrec.config import EvaluateConfig
from src.seqrec.core import evaluate
from src.tasks.catalogue import join_catalogues
from tests.finetune.toy_runs import config_for, log_of
from tests.toy import CODEBOOK_SIZES, INDEX_FILE, NAME, item_fields, scratch, toy_copy

OTHER, OTHER_SIZES = "Other", (6, 2, 5)


def other_index(letters=("a", "b", "c"), sizes=OTHER_SIZES) -> SidIndex:
    item = np.arange(20)
    codes = np.stack([item % 6, item // 6 % 2, item // 12, item * 0], 1)[:, : len(letters)]
    return SidIndex(item, codes, letters, sizes)


def write_other(data: Path) -> None:
    """A second dataset beside the toy: 20 items, one level with more codes and one with fewer, no pictures."""
    folder = data / OTHER
    folder.mkdir()
    items = {str(item): item_fields(item) | {"title": f"Other {item}"} for item in range(20)}
    users = {f"v{user}": [(user + step) % 20 for step in range(5)] for user in range(20)}
    (folder / f"{OTHER}.item.json").write_text(json.dumps(items))
    (folder / f"{OTHER}.inter.json").write_text(json.dumps(users))
    save_sid_index(index_of(data, OTHER), other_index(), {})


def index_of(data: Path, name: str) -> Path:
    return index_path(dataset_paths(data, name), "simple")


@cache
def both_datasets() -> Path:
    data = toy_copy(scratch() / "both")
    write_other(data)
    return data


def both_config(output_dir: Path, **changes) -> FinetuneConfig:
    return config_for(output_dir, **{"dataset": f"{NAME},{OTHER}", "data_path": both_datasets(), **changes})


# ---- several datasets ------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def joint_run(tmp_path_factory) -> Path:
    return finetune(
        both_config(
            tmp_path_factory.mktemp("joint") / "out", tasks=("seqrec", "item2index"), train_prompt_sample_num=(1, 2),
            train_data_sample_num=(0, 15), max_steps=4, save_and_eval_steps=2,
        )
    )  # fmt: skip


def test_tokens_are_the_union_of_both_grids(joint_run):
    meta = json.loads((joint_run / TOKEN_META).read_text())
    sizes = [6, 6, 5]
    assert meta["sid_tokens"] == [sid_token("abc"[level], code) for level in range(3) for code in range(sizes[level])]
    assert meta["codebook_sizes"] == sizes
    assert meta["indexes"] == {name: file_hash(index_of(both_datasets(), name)) for name in (NAME, OTHER)}
    assert meta["index_sha256"] is None  # no single one


def test_each_dataset_is_capped_recorded_and_validated(joint_run):
    record = json.loads((joint_run / "run.json").read_text())
    assert record["train_samples"] == {
        "Toy_seqrec": 189, "Toy_item2index": 30, "Other_seqrec": 40, "Other_item2index": 30,
    }  # fmt: skip
    for name in (NAME, OTHER):
        index = index_of(both_datasets(), name)
        assert record["inputs"][f"{name} index"] == {"path": str(index), "sha256": file_hash(index)}
        assert {f"{name} interactions", f"{name} items"} <= record["inputs"].keys()
        assert str(index) in record["index_file"].split(",")
    told = [line for line in log_of(joint_run) if "eval_loss" in line]
    assert len(told) == 2
    names = {name.removeprefix("eval_loss").strip("_") for name in told[0] if name.startswith("eval_loss")}
    parts = {f"{dataset}_{task}" for dataset in (NAME, OTHER) for task in ("seqrec", "item2index")}
    assert names == {"", NAME, OTHER, "seqrec", "item2index", *parts}
    for line in told:
        for whole, one, another in (
            ("", "_Toy", "_Other"),
            ("_seqrec", "_Toy_seqrec", "_Other_seqrec"),
            ("_Other", "_Other_seqrec", "_Other_item2index"),
        ):
            low, high = sorted((line[f"eval_loss{one}"], line[f"eval_loss{another}"]))
            assert low <= line[f"eval_loss{whole}"] <= high


@pytest.mark.parametrize(("name", "size"), [(NAME, 48), (OTHER, 20)])
def test_either_dataset_is_evaluated_with_its_own_index(joint_run, tmp_path, name, size):
    config = EvaluateConfig(
        name, INDEX_FILE, joint_run, both_datasets(), num_beams=10, device="cpu", results_file=tmp_path / "r.json"
    )
    assert json.loads(evaluate(config).read_text())["num_samples"] == size
    stranger = tmp_path / "stranger.json"
    index = load_sid_index(index_of(both_datasets(), name))
    save_sid_index(stranger, replace(index, codes=index.codes[::-1]), {})
    for wrong in (stranger, index_of(both_datasets(), NAME if name == OTHER else OTHER)):
        with pytest.raises(ValueError, match=r"was trained with another SID index than|lacks 20 of 40 items"):
            evaluate(replace(config, index_file=str(wrong)))


def test_joint_grid_and_items(tmp_path):
    _, _, catalogues = check(both_config(tmp_path))
    index, items = join_catalogues(catalogues)
    assert index.codebook_sizes == tuple(max(sizes) for sizes in zip(CODEBOOK_SIZES, OTHER_SIZES, strict=True))
    assert len(items) == len(index.item_ids) == 60
    for item in range(20):
        assert items[40 + item]["title"] == f"Other {item}"
        assert index.tokens_of(40 + item) == other_index().tokens_of(item)
    assert join_catalogues(catalogues[:1]) == (catalogues[0].sid_index, catalogues[0].items)


# ---- flags -----------------------------------------------------------------------------------------------------------
@pytest.fixture
def no_model(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(training, "load_model", refuse)


def test_a_path_for_each_dataset(tmp_path):
    paths = [index_of(both_datasets(), name) for name in (NAME, OTHER)]
    config = both_config(tmp_path, index_file=", ".join(map(str, paths)))
    assert [catalogue.sid_index.path for catalogue in check(config)[2]] == paths


def test_faults_of_several_datasets(tmp_path, no_model):
    path = index_of(both_datasets(), NAME)
    for changes, fault in (
        ({"index_file": str(path)}, "names 1 for 2 datasets: give one suffix"),
        ({"index_file": f"{path},{path},{path}"}, "names 3 for 2 datasets"),
        ({"dataset": f"{NAME},{NAME}"}, "--dataset names no dataset, or one twice: Toy,Toy"),
        ({"dataset": ","}, "--dataset names no dataset"),
        ({"dataset": f"{NAME},Gone"}, "there is no dataset folder .*Gone"),
        ({"sid_init": "centroid"}, r"--sid_init centroid: codebooks of several datasets .* Use text"),
        ({"tasks": ("itemsearch",)}, r"Other\.user\.json does not exist"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=fault):
            finetune(both_config(tmp_path / "out", **changes))


def test_datasets_must_have_the_same_levels(tmp_path, no_model):
    data = toy_copy(tmp_path)
    write_other(data)
    save_sid_index(index_of(data, OTHER), other_index(("a", "b", "c", "d"), (*OTHER_SIZES, 1)), {})
    with pytest.raises(ValueError, match=r"has the levels a, b, c and .*Other.* a, b, c, d: .* SIDs alike"):
        finetune(both_config(tmp_path / "out", data_path=data))


# ---- tasks and languages ---------------------------------------------------------------------------------------------
def test_every_task_trains_in_chinese_and_is_asked_in_it(tmp_path):
    tasks = ("itemsearch", "preferenceobtain", "mmindex2item", "mmitemenrich", "mmitemenrichwithoutid", "mmseqrec")
    folder = finetune(
        config_for(tmp_path / "out", "qwen2_vl", tasks=tasks, prompt_lang="zh", max_steps=2, save_and_eval_steps=2)
    )
    record = json.loads((folder / "run.json").read_text())
    names = ["text_enrich" if name == "mmitemenrich" else name for name in tasks]
    assert record["tasks"] == names
    assert record["prompt_settings"]["prompt_lang"] == "zh"
    assert {"enriched items", "texts about users"} <= record["inputs"].keys()
    (told,) = (line for line in log_of(folder) if "eval_loss" in line)
    assert {f"eval_loss_{name}" for name in names} < told.keys()
    log = (folder / "train.log").read_text()
    assert re.search("mmindex2item: .*标题：(red|green|blue|black|white) ", log, re.DOTALL)
    config = EvaluateConfig(
        NAME, INDEX_FILE, folder, config_for(folder).data_path, test_task="itemsearch", num_beams=10, device="cpu",
        results_file=tmp_path / "r.json",
    )  # fmt: skip
    results = json.loads(evaluate(config).read_text())
    assert (results["prompt_lang"], results["num_samples"]) == ("zh", 96)


def test_missing_files_are_found_before_the_model(tmp_path, no_model):
    data = toy_copy(tmp_path)
    for suffix in ("user.json", "item_enriched_v2.json"):
        (data / NAME / f"{NAME}.{suffix}").unlink()
    for task, fault in (
        ("itemsearch", r"Toy\.user\.json does not exist.*data_process/get_llm_output\.py"),
        ("preferenceobtain", r"Toy\.user\.json does not exist.*data_process/get_llm_output\.py"),
        ("text_enrich", r"Toy\.item_enriched_v2\.json does not exist.*data_process/data_enricher\.py"),
        ("mmitemenrichwithoutid", r"Toy\.item_enriched_v2\.json does not exist.*data_process/data_enricher\.py"),
    ):
        with pytest.raises(FileNotFoundError, match=fault):
            finetune(config_for(tmp_path / "out", "qwen2_vl", tasks=("seqrec", task), data_path=data))


def test_a_task_and_its_alias_are_one(tmp_path, no_model):
    with pytest.raises(ValueError, match="one twice: text_enrich,mmitemenrich"):
        finetune(config_for(tmp_path / "out", "qwen2_vl", tasks=("text_enrich", "mmitemenrich")))


def test_a_file_without_queries_is_an_error(tmp_path, no_model):
    data = toy_copy(tmp_path)
    (data / NAME / f"{NAME}.user.json").write_text(json.dumps({"user_explicit_preference": {"u3": ["Likes drums"]}}))
    with pytest.raises(ValueError, match=r"itemsearch has no training sample in Toy: user\.json has no query"):
        finetune(config_for(tmp_path / "out", tasks=("itemsearch",), data_path=data))

"""src.verify on a real chain: whole as it was made and wherever it is moved; each break is named, and nothing else."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from src.common.artifacts import file_hash, read_json, write_json
from src.verify import main, verify
from tests.lineage.conftest import (
    ADAPTER,
    ASK,
    BASE,
    DATA,
    EMBEDDINGS,
    FINETUNE,
    INDEX,
    MERGED,
    NAME,
    RESULTS,
    make_index,
    run,
    train_quantizer,
)

GREC = RESULTS / "grec.json"


def look(*paths: str | Path, may_lack: list[str] | None = None) -> dict[str, dict]:
    """What is found below the paths, by path from here."""
    file = Path("found.json")
    whole = verify([Path(path) for path in paths or (".",)], may_lack or [], file)
    table = json.loads(file.read_text())
    file.unlink()
    assert whole == table["whole"] == (not any(row["faults"] for row in table["artefacts"]))
    return {str(Path(row["path"]).resolve()).removeprefix(f"{Path.cwd()}/"): row for row in table["artefacts"]}


def broken(rows: dict[str, dict]) -> dict[str, str]:
    return {path: row["status"] for path, row in rows.items() if row["faults"]}


def the_run() -> Path:
    (folder,) = (DATA / "index" / "t").glob("*/")
    return folder


# ---- whole -----------------------------------------------------------------------------------------------------------
def test_a_chain_as_it_was_made(chain, capsys):
    rows = look()
    kinds = {path: (row["kind"], row["status"]) for path, row in rows.items()}
    assert kinds == {
        str(DATA): ("dataset", "ok"),
        str(EMBEDDINGS): ("embeddings", "ok"),
        str(the_run()): ("RQ-VAE run", "ok"),
        str(INDEX): ("SID index", "ok"),
        str(INDEX.with_suffix(".evaluation.json")): ("evaluation of an index", "ok"),
        str(ADAPTER): ("fine-tuned model", "ok"),
        str(MERGED): ("merged model", "ok"),
        str(GREC): ("results", "ok"),
        str(RESULTS / "merged.json"): ("results", "ok"),
        str(RESULTS / "texts.json"): ("results", "ok"),
        str(RESULTS / "popularity.json"): ("results", "ok"),
        str(RESULTS / "sasrec.json"): ("results", "ok"),
        str(DATA / f"{NAME}.emb-sasrec.npy"): ("embeddings", "ok"),
    }
    inputs = {name: entry["found"] for name, entry in rows[str(GREC)]["inputs"].items()}
    assert inputs.keys() == {"interactions", "items", "index", "checkpoint", "base model"}
    assert all(inputs.values())
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"dataset {DATA}: ok"
    assert f"│     └─ SID index {INDEX}: ok" in printed  # below the quantizer, below the embeddings
    assert printed[-1] == "13 artefacts: 13 ok; no link is broken"
    assert len(printed) == 14
    main(["."])  # ends without an exit status


def test_one_file_leads_through_its_whole_chain(chain):
    assert set(look(GREC)) == {str(path) for path in (DATA, EMBEDDINGS, the_run(), INDEX, ADAPTER, GREC)}


@pytest.mark.parametrize("path", [INDEX, INDEX.with_suffix(".codebooks.safetensors"), INDEX.with_suffix(".meta.json")])
def test_any_file_of_an_artefact_stands_for_it(chain, path):
    assert set(look(path)) == {str(part) for part in (DATA, EMBEDDINGS, the_run(), INDEX)}


def test_a_folder_may_move(chain, monkeypatch):
    chain.rename(chain.parent / "elsewhere")
    monkeypatch.chdir(chain.parent)
    assert not broken(look("elsewhere"))
    assert not broken(look("elsewhere/results"))  # what lies beside it is found


def test_files_may_move_and_take_other_names(chain):
    shutil.move(DATA / "index", "sids")
    shutil.move(ADAPTER, "best")
    EMBEDDINGS.rename(DATA / f"{NAME}.emb-other.npy")
    EMBEDDINGS.with_suffix(".ids.json").rename(DATA / f"{NAME}.emb-other.ids.json")
    EMBEDDINGS.with_suffix(".run.json").unlink()  # it would name the old place
    rows = look()
    assert not broken(rows)
    assert rows[f"{DATA}/{NAME}.emb-other.npy"]["status"] == "unknown"
    (note,) = rows[str(GREC)]["notes"][1:]
    assert note == f"checkpoint {ADAPTER} was found by its hash: best"


# ---- broken ----------------------------------------------------------------------------------------------------------
def edit_one_code():
    table = json.loads(INDEX.read_text())
    first = next(iter(table))
    table[first][-1] = "<c_0>" if table[first][-1] != "<c_0>" else "<c_1>"
    INDEX.write_text(json.dumps(table))
    return {str(INDEX): "changed"}


def swap_the_index():
    """Another one that is sound in itself."""
    shutil.rmtree(DATA / "index")
    make_index(train_quantizer("--seed 7"))
    of_it = (ADAPTER, GREC, RESULTS / "merged.json", RESULTS / "texts.json")
    return {str(path): "other version" for path in of_it}


def change_the_embeddings_by_one_value():
    array = np.load(EMBEDDINGS)
    array[3, 2] += 1e-3
    np.save(EMBEDDINGS, array)
    return {str(EMBEDDINGS): "changed"}


def make_the_embeddings_again():
    run("data_process.simple_embeddings", f"--dataset {NAME} --no_image --dim 8 --whitening 0.1")
    return {str(the_run()): "other version", str(INDEX): "other version", EVALUATION: "other version"}


def train_the_checkpoint_again():
    """In the place of the old one."""
    old = the_run()
    new = train_quantizer("--seed 7")
    shutil.rmtree(old)
    new.rename(old)
    return {str(INDEX): "other version"}


def replace_the_adapter():
    """Its weights only."""
    file = ADAPTER / "adapter_model.safetensors"
    save_file({name: value + 1 for name, value in load_file(file).items()}, file, metadata={"format": "pt"})
    return {str(ADAPTER): "changed"}


def fine_tune_again():
    shutil.rmtree(ADAPTER)
    run("src.finetune.train_ddp", f"{FINETUNE} --output_dir {ADAPTER} --tasks seqrec --seed 1")
    return {str(MERGED): "other version", str(GREC): "other version"}


def edit_a_result():
    table = read_json(GREC)
    table["mean_results"]["hit@5"] = 0.9
    write_json(GREC, table)
    return {str(GREC): "changed"}


def edit_the_predictions():
    file = GREC.with_suffix(".predictions.parquet")
    file.write_bytes(file.read_bytes()[:-9])
    return {str(GREC): "changed"}


def cut_off_a_result():
    GREC.write_text(GREC.read_text()[:100])
    return {str(GREC): "unreadable"}


def cut_off_the_index():
    INDEX.write_text(INDEX.read_text()[:100])
    return {str(INDEX): "changed"}


def cut_off_the_record_of_the_index():
    meta = INDEX.with_suffix(".meta.json")
    meta.write_text(meta.read_text()[:100])
    return {str(INDEX): "unreadable"}


def edit_the_record_of_the_model():
    record = read_json(ADAPTER / "run.json")
    record["config"]["learning_rate"] = 1.0
    write_json(ADAPTER / "run.json", record)
    return {str(ADAPTER): "changed"}


def delete_the_index():
    INDEX.unlink()
    return {str(INDEX): "missing"}


def delete_the_base_model():
    shutil.rmtree(BASE)
    return {str(path): "missing input" for path in (ADAPTER, MERGED, GREC)}


def change_the_items():
    """Made by a stage, so the dataset has changed, and no model is told to be of another version."""
    file = DATA / f"{NAME}.item.json"
    file.write_text(file.read_text() + "\n")
    return {str(DATA): "changed"}


EVALUATION = str(INDEX.with_suffix(".evaluation.json"))
BREAKS = [
    edit_one_code, change_the_embeddings_by_one_value, make_the_embeddings_again, train_the_checkpoint_again,
    replace_the_adapter, fine_tune_again, edit_a_result, edit_the_predictions, cut_off_a_result, cut_off_the_index,
    cut_off_the_record_of_the_index, edit_the_record_of_the_model, delete_the_index, delete_the_base_model,
    change_the_items, swap_the_index,
]  # fmt: skip


@pytest.mark.parametrize("break_it", BREAKS, ids=lambda function: function.__name__)
def test_a_break_is_named_and_nothing_else(chain, capsys, break_it):
    expected = break_it()
    rows = look()
    assert broken(rows) == expected
    summary = capsys.readouterr().out.splitlines()[-1]
    assert summary.startswith(f"{len([row for row in rows.values() if row['kind'] != 'source'])} artefacts: ")
    assert "; the chain breaks at " in summary
    assert all(path in summary for path in expected)
    with pytest.raises(SystemExit, match="1"):
        main(["."])


def test_what_differs_is_told(chain):
    replace_the_adapter()
    (fault,) = look()[str(ADAPTER)]["faults"]
    assert fault["reason"] == f"{ADAPTER} is not as it was written: adapter_model.safetensors"
    train_the_checkpoint_again()
    (fault,) = look()[str(INDEX)]["faults"]
    place = the_run() / "best_collision_model.pth"
    assert fault["reason"].startswith(f"made from another version of checkpoint {place}: ")
    then, now = read_json(INDEX.with_suffix(".meta.json"))["inputs"]["checkpoint"]["sha256"], file_hash(place)
    assert fault["reason"].endswith(f": {then[:12]} then, {now[:12]} now")


def test_what_stands_below_a_break_rests_on_it(chain, capsys):
    edit_one_code()
    rows = look()
    assert {path for path, row in rows.items() if row["rests_on_a_break"]} == {
        EVALUATION, str(ADAPTER), str(MERGED), str(GREC), str(RESULTS / "merged.json"), str(RESULTS / "texts.json")
    }  # fmt: skip
    assert f"fine-tuned model {ADAPTER}: ok - rests on what is broken above" in capsys.readouterr().out


def test_what_is_replaced_by_its_former_self_breaks_nothing(chain):
    """Hashes count, not times: the same settings give the same index again."""
    make_index(the_run())
    assert not broken(look())


# ---- less than whole -------------------------------------------------------------------------------------------------
def test_inputs_may_be_gone_where_that_is_said(chain):
    shutil.rmtree(BASE)
    rows = look(may_lack=["models/*"])
    assert not broken(rows)
    assert any(note.startswith(f"base model {BASE} (") for note in rows[str(GREC)]["notes"])


def test_an_index_that_was_extended_in_its_place(chain):
    run("index.generate_indices", f"--dataset {NAME} --ckpt_path {the_run()} --extend {INDEX} --device cpu")
    assert str(INDEX) not in broken(look())


def test_old_artefacts_are_unknown(chain):
    """Of a run.json only the inputs were there, of results nothing, and the meta file had its own form."""
    for path in (GREC, ADAPTER / "run.json", INDEX.with_suffix(".meta.json"), *DATA.glob("*.run.json")):
        table = read_json(path)
        kept = {"inputs": table["inputs"]} if path.name == "run.json" else {}
        for name in ("inputs", "outputs", "record_sha256", "artefact"):
            table.pop(name)
        write_json(path, table | kept)
    EMBEDDINGS.with_suffix(".run.json").write_text('{"settings": {}, "inputs": "0123", "file": [1, 2]}')
    rows = look()
    assert not broken(rows)
    unknown = {path for path, row in rows.items() if row["status"] == "unknown"}
    assert unknown == {str(path) for path in (EMBEDDINGS, INDEX, ADAPTER, GREC, DATA / f"{NAME}.emb-sasrec.npy")}
    assert rows[str(INDEX)]["inputs"].keys() == {"checkpoint", "embeddings"}
    change_the_embeddings_by_one_value()
    assert broken(look()).keys() == {str(the_run()), str(INDEX), EVALUATION}


def test_nothing_to_verify(chain, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for path, message in ((tmp_path / "empty", "there is no artefact below"), (tmp_path / "gone", "does not exist")):
        with pytest.raises(SystemExit, match="2"):
            main([str(path)])
        assert message in capsys.readouterr().err


def test_other_json_is_left_alone(chain):
    Path("notes.json").write_text("[1, 2]")
    Path("stages.json").write_text('{"embeddings": {"key": "a"}}')
    assert len(look()) == 13


def test_evaluation_goes_on_after_a_change(chain):
    """What was edited and then made again from what is there is whole again."""
    edit_one_code()
    make_index(the_run())
    edit_a_result()
    run(
        "src.seqrec.metric_ddp",
        f"{ASK} --ckpt_model {ADAPTER} --lora --base_model {BASE} --results_file {GREC}",
    )
    assert not broken(look())

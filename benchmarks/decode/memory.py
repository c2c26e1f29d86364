"""Peak memory of decoding above that of the idle process, each side in a process of its own."""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from benchmarks.harness import Row, extra_megabytes


def peak(side: str, width: int, batch: int) -> float:
    """MB that decoding `batch` prompts takes beyond model and trie."""
    import torch

    from benchmarks.decode.search import BEAMS
    from benchmarks.decode.subject import END_TOKEN, NUM_LEVELS, catalogue, prompts, small_model
    from benchmarks.rivals.plain_search import DictionaryTrie, generate
    from src.decoding import beam_search
    from src.trie import Trie

    torch.set_num_threads(1)
    model, sids = small_model(), catalogue(10_000)
    trie, dictionary = Trie(sids), DictionaryTrie(sids.tolist(), END_TOKEN)

    def ours(width: int, batch: int) -> None:
        beam_search(model, prompts(batch, width), trie, BEAMS, END_TOKEN)

    def rival(width: int, batch: int) -> None:
        inputs = prompts(batch, width)
        del inputs["position_ids"]
        generate(model, inputs, dictionary, NUM_LEVELS, BEAMS, END_TOKEN)

    work = {"ours": ours, "rival": rival}[side]
    work(8, 1)  # code and buffers that any run needs
    return extra_megabytes(lambda: work(width, batch))


def rows(quick: bool) -> Iterator[Row]:
    for width, batch, goal in [(128, 2, None)] if quick else [(128, 8, None), (512, 8, 25.0), (1024, 8, None)]:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
            ours, rival = (pool.submit(peak, side, width, batch).result() for side in ("ours", "rival"))
        yield Row(
            f"memory above the idle model, prompts of {width} x {batch}",
            rival / ours,
            "x",
            goal=goal,
            rival="generate(num_beams=20)",
            note=f"{ours:.0f} MB against {rival:.0f} MB",
        )

"""Beam search under the trie is transformers' own, and keeps its promises at the edges."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig, T5Config, T5ForConditionalGeneration

from benchmarks.rivals import plain_search
from benchmarks.rivals.plain_search import DictionaryTrie
from src.collate import PromptCollator
from src.decoding import Beams, beam_search, best_of, score_all
from src.models import Loaded
from src.prompt import Sample
from src.tasks.task import load_task
from src.trie import Trie
from tests.toy import ALL_FAMILIES, NUM_ITEMS, VISION_FAMILIES, fresh_model, shared_model, toy_builder

HISTORIES = [(1, 4, 13, 3, 10), (2,), (5, 16, 9, 28, 30, 31, 32, 33), (3, 11)]
LEAKS = {"do_sample": True, "temperature": 0.1, "top_k": 3, "top_p": 0.2, "repetition_penalty": 3.0, "num_beams": 2}


def questions(family: str, loaded: Loaded, pictures: bool) -> list[Sample]:
    """Prompts of mixed lengths; with pictures, one or (where generate() can copy several) up to four of them."""
    builder = toy_builder(loaded)
    if not pictures:
        return [builder.question(load_task("seqrec").templates[0], history, 0, 4) for history in HISTORIES]
    several = [] if family == "llava_onevision" else HISTORIES
    template = load_task("mmitem2index").templates[2]
    asked = [builder.question(load_task("mmseqrec").templates[n], history, 0, 4) for n, history in enumerate(several)]
    return asked + [builder.question(template, (), item, 4) for item in (0, 1, 2, 3)]


def search(loaded: Loaded, samples: list[Sample], sids: np.ndarray, num_beams: int, end=True, **options) -> Beams:
    collate = PromptCollator(loaded.tokenizer.pad_token_id, loaded.family.mrope)
    end_token = toy_builder(loaded).end_token if end else None
    return beam_search(loaded.model, collate(samples), Trie(sids), num_beams, end_token, **options)


def reference(loaded: Loaded, sample: Sample, sids: np.ndarray, num_beams: int, **options):
    """Ranked SIDs and their scores by transformers; the model makes mask and positions itself."""
    end = toy_builder(loaded).end_token
    ids = torch.from_numpy(sample.ids)[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    for name in sample.images[0] if sample.images else ():
        inputs[name] = torch.from_numpy(np.concatenate([image[name] for image in sample.images]))
    if loaded.family.mrope:
        inputs["mm_token_type_ids"] = (ids == loaded.model.config.image_token_id).int()
    trie: dict[tuple, set] = {}
    for sid in sids.tolist():
        for level in range(len(sid)):
            trie.setdefault(tuple(sid[:level]), set()).add(sid[level])

    def allowed(_, so_far):
        return sorted(trie.get(tuple(so_far[ids.shape[1] :].tolist()), {end}))

    config = GenerationConfig(
        num_beams=num_beams, num_return_sequences=num_beams, do_sample=False, max_new_tokens=sids.shape[1] + 1,
        eos_token_id=end, pad_token_id=loaded.tokenizer.pad_token_id, return_dict_in_generate=True,
        output_scores=True, **options,
    )  # fmt: skip
    made = loaded.model.generate(**inputs, generation_config=config, prefix_allowed_tokens_fn=allowed)
    return made.sequences[:, ids.shape[1] : ids.shape[1] + sids.shape[1]].numpy(), made.sequences_scores.numpy()


def assert_like_transformers(loaded, samples, sids, num_beams, found, **options):
    leaves = np.unique(sids, axis=0)  # Trie numbers leaves in this order
    for row, sample in enumerate(samples):
        ranked, scores = reference(loaded, sample, sids, num_beams, **options)
        np.testing.assert_array_equal(leaves[found.leaves[row]], ranked)
        np.testing.assert_allclose(found.scores[row], scores, atol=1e-4)


# ---- against transformers --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("family", "pictures"), [(f, False) for f in ALL_FAMILIES] + [(f, True) for f in VISION_FAMILIES]
)
def test_same_as_transformers(family, pictures):
    loaded = shared_model(family)
    samples = questions(family, loaded, pictures)
    assert len({len(sample.ids) for sample in samples}) > 1
    sids = toy_builder(loaded).sids
    assert_like_transformers(loaded, samples, sids, 7, search(loaded, samples, sids, 7))


@pytest.mark.parametrize("num_levels", [1, 2, 4])
def test_any_number_of_levels(num_levels):
    """Prefixes of unequal numbers of children, over any tokens of the vocabulary."""
    loaded = shared_model("qwen2")
    rng = np.random.default_rng(num_levels)
    sids = np.unique(300 + rng.integers(0, [60, 3, 9, 2][:num_levels], (50, num_levels)), axis=0)
    samples = questions("qwen2", loaded, False)
    assert_like_transformers(loaded, samples, sids, 5, search(loaded, samples, sids, 5))


def test_probabilities_over_legal_tokens():
    """The end of the turn is the only legal token after a SID: it used to be scored over the whole vocabulary."""
    loaded = shared_model("qwen2")
    samples, sids = questions("qwen2", loaded, False), toy_builder(loaded).sids
    found = search(loaded, samples, sids, 6, renormalize=True)
    assert_like_transformers(loaded, samples, sids, 6, found, renormalize_logits=True)
    everything = search(loaded, samples, sids, NUM_ITEMS, renormalize=True)
    chances = (everything.scores * (sids.shape[1] + 1)).exp().sum(-1)
    np.testing.assert_allclose(chances, 1, atol=1e-5)  # all items share all the probability


def test_settings_of_the_checkpoint_do_not_leak():
    loaded = fresh_model("qwen2")
    samples, sids = questions("qwen2", loaded, False), toy_builder(loaded).sids
    before = search(loaded, samples, sids, 5)
    loaded.model.generation_config = GenerationConfig(**LEAKS)
    after = search(loaded, samples, sids, 5)
    assert torch.equal(before.leaves, after.leaves)
    assert torch.equal(before.scores, after.scores)


# ---- against all items -----------------------------------------------------------------------------------------------
@torch.no_grad()
def all_scores(loaded: Loaded, sample: Sample, sids: np.ndarray) -> np.ndarray:
    """(N,) mean log-probability of each SID and the end of the turn, each by a pass of its own."""
    end = toy_builder(loaded).end_token
    ids = torch.from_numpy(np.stack([np.concatenate([sample.ids, sid, [end]]) for sid in sids]))
    scores = loaded.model(input_ids=ids).logits.log_softmax(-1)[:, len(sample.ids) - 1 : -1]
    return scores.gather(-1, ids[:, len(sample.ids) :, None]).squeeze(-1).mean(-1).numpy()


@pytest.mark.parametrize("family", ["qwen2", "llama", "qwen2_vl"])
def test_as_many_beams_as_items_rank_them_all(family):
    loaded = shared_model(family)
    samples, sids = questions(family, loaded, False), toy_builder(loaded).sids
    leaf_of = Trie(sids).leaf_of
    for beams in (NUM_ITEMS, 10**12):
        found = search(loaded, samples, sids, beams)
        for row, sample in enumerate(samples):
            expected = all_scores(loaded, sample, sids)
            order = np.argsort(-expected)
            np.testing.assert_array_equal(found.leaves[row, :NUM_ITEMS], leaf_of[order])
            np.testing.assert_allclose(found.scores[row, :NUM_ITEMS], expected[order], atol=1e-4)
        assert found.leaves.shape == found.scores.shape == (len(samples), NUM_ITEMS)  # no beams for what is not there


def test_without_end_of_turn_the_sid_alone_is_scored():
    loaded = shared_model("qwen2")
    samples, sids = questions("qwen2", loaded, False)[:1], toy_builder(loaded).sids
    found = search(loaded, samples, sids, NUM_ITEMS, end=False)
    ids = torch.from_numpy(np.stack([np.concatenate([samples[0].ids, sid]) for sid in sids]))
    with torch.no_grad():
        scores = loaded.model(input_ids=ids).logits.log_softmax(-1)[:, -4:-1]
    expected = scores.gather(-1, ids[:, -3:, None]).squeeze(-1).mean(-1).sort(descending=True).values
    np.testing.assert_allclose(found.scores[0], expected, atol=1e-4)


@pytest.mark.parametrize("part", [1, 7, 10**6])
@pytest.mark.parametrize("family", ["qwen2", "qwen2_vl"])
def test_all_items_scored_at_once(family, part, monkeypatch):
    """Whatever the size of the parts, with pictures or without: scores are those of each item by a pass of its own."""
    loaded = shared_model(family)
    monkeypatch.setattr("src.decoding.LOGITS_AT_ONCE", part * 4 * len(loaded.tokenizer))
    samples, sids = questions(family, loaded, False), toy_builder(loaded).sids
    sids = np.concatenate([sids, sids[:2]])  # two items share their SIDs with others
    found = scored(loaded, samples, sids)
    leaves = np.unique(sids, axis=0)
    for row, sample in enumerate(samples):
        np.testing.assert_allclose(found[row], all_scores(loaded, sample, leaves), atol=1e-4)
    for more in ({"end": False}, {"renormalize": True}):
        best = best_of(scored(loaded, samples, sids, **more), 5)
        beams = search(loaded, samples, sids, len(leaves), **more)
        assert torch.equal(best.leaves, beams.leaves[:, :5])
        assert torch.allclose(best.scores, beams.scores[:, :5], atol=1e-5)


@pytest.mark.parametrize("end", [False, True])
def test_all_items_of_one_level(end):
    loaded = shared_model("qwen2")
    samples, sids = questions("qwen2", loaded, False), np.arange(300, 320)[:, None]
    for renormalize in (False, True):
        best = best_of(scored(loaded, samples, sids, end, renormalize=renormalize), 20)
        beams = search(loaded, samples, sids, 20, end, renormalize=renormalize)
        assert torch.equal(best.leaves, beams.leaves)
        assert torch.allclose(best.scores, beams.scores, atol=1e-5)


def scored(loaded, samples, sids, end=True, **options):
    collate = PromptCollator(loaded.tokenizer.pad_token_id, loaded.family.mrope)
    end_token = toy_builder(loaded).end_token if end else None
    return score_all(loaded.model, collate(samples), Trie(sids), end_token, **options)


def test_all_items_but_those_left_out():
    loaded = shared_model("qwen2")
    samples, sids = questions("qwen2", loaded, False), toy_builder(loaded).sids
    left_out = [np.array([3, 4]), np.array([], int), np.arange(NUM_ITEMS), np.arange(1, NUM_ITEMS)]
    for renormalize in (False, True):
        best = best_of(scored(loaded, samples, sids, left_out=left_out, renormalize=renormalize), NUM_ITEMS)
        beams = search(loaded, samples, sids, NUM_ITEMS, left_out=left_out, renormalize=renormalize)
        assert torch.equal(best.leaves, beams.leaves)
        assert torch.allclose(best.scores, beams.scores, atol=1e-5)


def test_pruning_is_what_beams_lose():
    """A narrow beam may miss items that the exact list has, and never ranks any item higher."""
    loaded = shared_model("qwen2")
    samples, sids = questions("qwen2", loaded, False), toy_builder(loaded).sids
    exact, narrow = scored(loaded, samples, sids), search(loaded, samples, sids, 2)
    assert torch.allclose(exact.gather(1, narrow.leaves), narrow.scores, atol=1e-5)
    assert (exact.amax(1) >= narrow.scores[:, 0] - 1e-6).all()


# ---- encoder-decoders ------------------------------------------------------------------------------------------------
@cache
def t5():
    config = T5Config(
        vocab_size=400, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, dropout_rate=0.0,
        relative_attention_num_buckets=8, relative_attention_max_distance=6, decoder_start_token_id=0, pad_token_id=0,
        eos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(3)
    model = T5ForConditionalGeneration(config).eval()
    for parameter in model.parameters():  # its own start makes all scores alike
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def t5_inputs(lengths=(9, 2, 5)):
    ids = torch.randint(2, 300, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


@pytest.mark.parametrize("num_levels", [1, 3, 6])
def test_encoder_decoders_too(num_levels):
    """Beams side by side would count as later positions of T5's relative attention."""
    rng = np.random.default_rng(num_levels)
    sids = np.unique(300 + rng.integers(0, [60, 3, 9, 2, 3, 4][:num_levels], (60, num_levels)), axis=0)
    inputs = t5_inputs()
    found = beam_search(t5(), inputs, Trie(sids), 6, 1)
    theirs = plain_search.generate(t5(), inputs, DictionaryTrie(sids.tolist(), 1), num_levels, 6, 1)
    np.testing.assert_array_equal(sids[found.leaves], theirs.sids)
    np.testing.assert_allclose(found.scores, theirs.scores, atol=1e-4)
    exact = score_all(t5(), inputs, Trie(sids), 1)
    np.testing.assert_allclose(exact.gather(1, found.leaves), theirs.scores, atol=1e-4)


# ---- items left out --------------------------------------------------------------------------------------------------
def rows_under(sids: np.ndarray, first: int) -> np.ndarray:
    return np.flatnonzero(sids[:, 0] == first)


@pytest.mark.parametrize("renormalize", [False, True])
def test_left_out_items_never_appear(renormalize):
    """Also where a whole prefix holds nothing else: its beams must not crowd out the others."""
    loaded = shared_model("qwen2")
    samples, sids = questions("qwen2", loaded, False), toy_builder(loaded).sids
    best = search(loaded, samples, sids, 3).leaves
    leaf_of = Trie(sids).leaf_of
    item_of = np.argsort(leaf_of)
    left_out = [
        item_of[best[0].numpy()],  # the best three
        np.array([], np.int64),  # nothing
        rows_under(sids, sids[item_of[best[2, 0]], 0]),  # all under the best first code
        np.setdiff1d(np.arange(NUM_ITEMS), [5, 6]),  # nearly everything; twice, as histories repeat
    ]
    left_out[3] = np.concatenate([left_out[3], left_out[3]])
    found = search(loaded, samples, sids, NUM_ITEMS, left_out=left_out, renormalize=renormalize)
    for row, sample in enumerate(samples):
        kept = np.setdiff1d(np.arange(NUM_ITEMS), left_out[row])
        mine = found.leaves[row, : len(kept)].numpy()
        assert sorted(item_of[mine]) == kept.tolist()
        assert (found.leaves[row, len(kept) :] == -1).all()
        if not renormalize:  # and the others keep their scores
            expected = np.sort(all_scores(loaded, sample, sids)[kept])[::-1]
            np.testing.assert_allclose(found.scores[row, : len(kept)], expected, atol=1e-4)
    few = search(loaded, samples, sids, 4, left_out=left_out)
    assert (few.leaves[:3] >= 0).all()
    assert sorted(item_of[few.leaves[3, :2]]) == [5, 6]
    assert (few.leaves[3, 2:] == -1).all()


def test_everything_left_out_gives_nothing():
    loaded = shared_model("qwen2")
    samples, sids = questions("qwen2", loaded, False), toy_builder(loaded).sids
    for renormalize in (False, True):
        everything = [np.arange(NUM_ITEMS)] * len(samples)
        found = search(loaded, samples, sids, 3, left_out=everything, renormalize=renormalize)
        assert (found.leaves == -1).all()
        assert found.scores.isneginf().all()


def test_shared_sid_stays_while_one_of_its_items_does():
    trie = Trie(np.array([[1, 5], [1, 5], [2, 5], [2, 6]]))
    assert trie.num_leaves == 3
    assert trie.leaf_of.tolist() == [0, 0, 1, 2]
    first, leaves = trie.blocked_nodes([np.array([0]), np.array([0, 1]), np.array([2, 3, 3]), np.array([], int)])
    assert [[node for node in row if node < 2] for row in first.tolist()] == [[], [0], [1], []]
    assert [[node for node in row if node < 3] for row in leaves.tolist()] == [[], [0], [1, 2], []]


def test_trie_gives_the_children_of_a_node():
    trie = Trie(np.array([[7, 3], [2, 9], [2, 4], [7, 3]]))
    child, token, exists = trie.children(0, torch.zeros(1, 1, dtype=torch.long))
    assert token[exists].tolist() == [2, 7]
    _, token, exists = trie.children(1, child[0, 0])
    assert [row[keep].tolist() for row, keep in zip(token, exists, strict=True)] == [[4, 9], [3]]


# ---- invariants ------------------------------------------------------------------------------------------------------
@cache
def pool() -> list[Sample]:
    builder = toy_builder(shared_model("qwen2"))
    template = load_task("seqrec").templates[0]
    return [builder.question(template, (n, 2 * n % NUM_ITEMS, *range(n % 7)), 0, 4) for n in range(12)]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.integers(0, 11), min_size=1, max_size=5, unique=True),
    st.integers(1, 12),
    st.lists(st.tuples(*(st.integers(300, 303) for _ in range(3))), min_size=1, max_size=20),
    st.booleans(),
)
def test_invariants(asked, num_beams, sids, renormalize):
    """Beams are distinct, legal and in order, as many as there can be; the company in a batch does not matter."""
    loaded, sids = shared_model("qwen2"), np.array(sids)
    number = len(np.unique(sids, axis=0))
    samples = [pool()[i] for i in asked]
    found = search(loaded, samples, sids, num_beams, renormalize=renormalize)
    backwards = search(loaded, samples[::-1], sids, num_beams, renormalize=renormalize)
    for row, sample in enumerate(samples):
        leaves, scores = found.leaves[row].tolist(), found.scores[row]
        whole = min(num_beams, number)
        assert len(set(leaves[:whole])) == whole
        assert all(0 <= leaf < number for leaf in leaves[:whole])
        assert set(leaves[whole:]) <= {-1}
        assert (scores[:-1] >= scores[1:]).all()
        alone = search(loaded, [sample], sids, num_beams, renormalize=renormalize)
        for other in (alone.scores[0], backwards.scores[len(samples) - 1 - row]):
            np.testing.assert_allclose(scores, other, atol=1e-5)


def test_long_batches_are_read_in_parts(monkeypatch):
    """Parts that are narrower than the batch, joined: nothing changes."""
    loaded = shared_model("qwen2_vl")
    samples, sids = questions("qwen2_vl", loaded, False), toy_builder(loaded).sids
    whole = search(loaded, samples, sids, 5)
    monkeypatch.setattr("src.encoded.PREFILL_TOKENS", 1)
    parts = search(loaded, samples, sids, 5)
    assert torch.equal(whole.leaves, parts.leaves)
    assert torch.allclose(whole.scores, parts.scores, atol=1e-5)

"""Protocols: names, what a results file states, and what the flags of an older one tell."""

import json
from dataclasses import replace

import pytest

from src.seqrec.protocol import PROTOCOLS, Protocol, protocol_asked, protocol_of
from src.tasks.catalogue import load_catalogue
from tests.baselines.test_baselines import write_dataset

ASKED = {"split": "test", "filter_history": True, "test_task": "seqrec"}
SEQUENCES = {"ann": [0, 1, 2, 3, 2], "bob": [1, 2, 4, 0], "cleo": [1, 2]}


@pytest.fixture
def catalogue(tmp_path):
    write_dataset(tmp_path, "Toy", SEQUENCES)
    return load_catalogue(tmp_path, "Toy")


def test_names():
    assert Protocol().name == "leave-one-out/test/unmasked/20"
    assert Protocol(history="masked", num_beams=50, hits="sid").name == "leave-one-out/test/masked/50/sid hits"
    assert Protocol("query", "user.json", num_beams=None).name == "user.json/test/unmasked/?/query"
    assert Protocol(candidates="99 sampled").name == "leave-one-out/test/unmasked/20/99 sampled"
    assert len({protocol.name for protocol in PROTOCOLS.values()}) == len(PROTOCOLS)


def test_what_was_asked_becomes_the_protocol(catalogue):
    assert protocol_asked(catalogue, ASKED, 20) == Protocol(history="masked")
    assert protocol_asked(catalogue, {**ASKED, "test_task": "mmseqrec"}, 20) == Protocol(history="masked")
    seen = protocol_asked(catalogue, {"split": "seen", "filter_history": False, "test_task": "item2index"}, 10)
    assert seen == Protocol("item", "item id", "seen", num_beams=10)
    assert protocol_asked(catalogue, {**ASKED, "test_task": "itemsearch"}, 20).splitting == "user.json"


@pytest.mark.parametrize(("ends", "splitting"), [((2, 1), "split.json"), ((3, 1), "leave-one-out")])
def test_a_split_of_ones_own_shows(catalogue, tmp_path, ends, splitting):
    splits = {"ann": ends, "bob": (2, 1), "cleo": (2, 0)}
    (tmp_path / "Toy" / "Toy.split.json").write_text(json.dumps(splits))
    assert protocol_asked(load_catalogue(tmp_path, "Toy"), ASKED, 20).splitting == splitting


def test_no_results_without_a_protocol(catalogue):
    for name in ASKED:
        with pytest.raises(ValueError, match=f"results without {name} would state no protocol"):
            protocol_asked(catalogue, {key: value for key, value in ASKED.items() if key != name}, 20)
    with pytest.raises(ValueError, match="unknown task 'seq'"):
        protocol_asked(catalogue, {**ASKED, "test_task": "seq"}, 20)


def test_a_results_file_states_it(catalogue):
    protocol = protocol_asked(catalogue, ASKED, 20)
    written = json.loads(json.dumps({"protocol": protocol.table()}))
    assert written["protocol"]["name"] == "leave-one-out/test/masked/20"
    assert protocol_of(written) == protocol
    del written["protocol"]["ties"]
    with pytest.raises(ValueError, match=r"r\.json: its protocol must have the fields name, candidates, "):
        protocol_of(written, "r.json")
    with pytest.raises(ValueError, match=r"r\.json: its protocol has split \['test'\], which is no word"):
        protocol_of({"protocol": {**protocol.table(), "split": ["test"]}}, "r.json")  # by which results are grouped


def test_an_older_file_tells_what_its_flags_tell():
    old = {"split": "valid", "filter_history": False, "test_task": "item2index", "num_beams": 5}
    found = protocol_of(old)
    assert found == Protocol("item", None, "valid", num_beams=5)
    assert found.differences(Protocol()) == ["target", "split", "num_beams"]  # of the splitting it says nothing
    assert protocol_of({}).differences(replace(Protocol(), split="valid", history="masked")) == []

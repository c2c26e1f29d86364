"""Cases and single requests: the right users, the right levels marked, a page that holds everything, clear errors."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from src.baselines.tiger import TigerConfig
from src.baselines.tiger_model import Tiger, new_model, save_tiger
from src.reporting.cases import case_card, cases_body, sid_chips
from src.reporting.tiles import Tiles
from src.seqrec import case, recommend
from src.seqrec.cases import Case, case_lines, legend_lines, make_cases, wrong_levels
from src.seqrec.config import CaseConfig
from src.seqrec.core import evaluate
from tests.seqrec.toy_runs import checkpoint, config_for, predictions_of, write_checkpoint
from tests.test_report import checked
from tests.toy import (
    INDEX_FILE,
    NAME,
    NUM_ITEMS,
    WITHOUT_PICTURE,
    codes,
    item_fields,
    sequence,
    toy_catalogue,
    toy_copy,
    toy_index,
    toy_path,
)


def flags(*more, ckpt=None) -> list[str]:
    data = ["--dataset", NAME, "--data_path", str(toy_path()), "--index_file", INDEX_FILE, "--device", "cpu"]
    return [*data, "--ckpt_model", str(ckpt or checkpoint()), *map(str, more)]


def case_config(tmp_path: Path, **changes) -> CaseConfig:
    common = vars(config_for(tmp_path)) | {"html": tmp_path / "page.html", "users": ("u7", "u24")}
    return CaseConfig(**common | changes)


def fails(entry, arguments, capsys) -> str:
    with pytest.raises(SystemExit) as ended:
        entry.main(arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.fixture
def hand_made() -> Case:
    """The target 10 shares the first level of its SID with 6, and the second one too with 30."""
    items = [6, 30, 10, 1]
    shared = toy_index().num_shared_levels(10, np.array(items))
    return Case("user <b>", [1, 3, 4], 10, items, [-0.5, -1, -1.5, -2], shared.tolist())


# ---- which level went wrong ------------------------------------------------------------------------------------------
def test_shared_levels_equal_a_count_by_hand():
    index, rng = toy_index(), np.random.default_rng(0)
    others = rng.permutation(NUM_ITEMS)
    for item in range(NUM_ITEMS):
        expected = []
        for other in others:
            same = [ours == theirs for ours, theirs in zip(codes()[item], codes()[other], strict=True)]
            expected.append(same.index(False) if False in same else 3)
        assert index.num_shared_levels(item, others).tolist() == expected
    assert index.num_shared_levels(5, np.array([5])).tolist() == [3]


def test_levels_where_the_first_goes_wrong(hand_made):
    right = Case("", [], 10, [10], [0.0], [3])
    nothing = Case("", [], 10, [], [], [])
    counts = wrong_levels([hand_made, right, right, nothing], ("a", "b", "c"))
    assert counts == {"wrong at level a": 0, "wrong at level b": 1, "wrong at level c": 0, "right SID": 2}
    assert hand_made.shared == [1, 2, 3, 0]
    assert (hand_made.rank, hand_made.verdict, nothing.rank) == (3, "rank 3", None)


def test_tokens_are_marked():
    chips = sid_chips(["<a_1>", "<b_2>", "<c_3>"], 1)
    assert re.findall(r'class="(\w+)">&lt;(\w)', chips) == [("same", "a"), ("wrong", "b"), ("after", "c")]
    assert sid_chips(["<a_1>"], 1).count("same") == 1


def test_lines_of_a_case(hand_made):
    lines = case_lines(hand_made, toy_catalogue(), top_k=3)
    assert lines[0] == "=== user <b>"
    assert lines[1].split() == ["had", "".join(toy_index().tokens_of(1)), "1", *["green", "shirt", "number", "1"]]
    assert len({line.index("<a_") for line in lines[1:]}) == 1  # one below the other
    assert lines[4].endswith("(rank 3)")
    assert [line.split()[:-6] for line in lines[5:]] == [
        ["1", "-0.500", "a--"],
        ["2", "-1.000", "ab-"],
        ["3", "HIT", "-1.500", "abc"],
    ]
    assert "wrong at level b 1" in legend_lines([hand_made], toy_catalogue())[1]


# ---- the page --------------------------------------------------------------------------------------------------------
def test_page_holds_everything_and_is_escaped(tmp_path, hand_made):
    from src.reporting.page import whole_page

    body = cases_body([hand_made], toy_catalogue(), 4, {"ckpt_model": "a<b"})
    (tmp_path / "page.html").write_text(whole_page("Cases", body))
    page = checked(tmp_path / "page.html")
    assert "user &lt;b&gt;" in page
    assert page.count("<li ") == 1 + 4
    assert page.count('<li class="hit">') == 1
    assert page.count("goes wrong at level") == 3
    assert "goes wrong at level c" in page
    assert 3 in WITHOUT_PICTURE
    assert page.count("<img ") == 2 + 1 + 4
    assert page.count('<div class="words">') == 1


def test_items_of_the_right_sid_are_said_to_be(hand_made):
    twin = Case("user x", [1], 10, [6, 10], [-1, -1], [3, 3])
    card = case_card(twin, Tiles(toy_catalogue()), 2)
    assert card.count("the SID of the right answer") == 1


# ---- the entry -------------------------------------------------------------------------------------------------------
def test_cases_are_what_the_evaluation_ranks(tmp_path):
    config = case_config(tmp_path)
    cases, _ = make_cases(config)
    assert [case.name for case in cases] == ["user u7", "user u24"]  # as named, not as in the file
    evaluate(config_for(tmp_path))
    (part,) = predictions_of(config_for(tmp_path))
    for shown in cases:
        user = shown.name.removeprefix("user ")
        row = list(part.users).index(user)
        assert (shown.history, shown.target) == (sequence(int(user[1:]))[:-1], part.targets[row])
        assert shown.items == part.ranked[row].tolist()
        np.testing.assert_allclose(shown.scores, part.scores[row], atol=1e-5)


def test_entry_prints_and_writes_the_page(tmp_path, capsys):
    output = tmp_path / "page.html"
    case.main(flags("--users", "u7,u24,u7", "--num_beams", NUM_ITEMS, "--top_k", 6, "--html", output))
    shown = capsys.readouterr().out
    assert re.findall(r"=== (.*)", shown) == ["user u7", "user u24"]
    assert shown.count("(rank ") == 2  # all items are ranked, so the target is among them
    assert shown.endswith(f"page: {output}\n")
    page = checked(output)
    assert page.count('<div class="person">') == 2
    assert page.count("<li ") == 2 * (1 + 6)


def test_random_users_are_those_that_the_evaluation_draws(tmp_path, capsys):
    case.main(flags("--sample_num", 3, "--html", tmp_path / "page.html"))
    shown = re.findall(r"=== user (.*)", capsys.readouterr().out)
    config = config_for(tmp_path, sample_num=3)
    evaluate(config)
    assert shown == list(predictions_of(config)[0].users)


def test_the_page_lies_beside_the_results():
    config = CaseConfig("D", "i", Path("output/D/mine"))
    assert config.page_path == Path("results/D/seqrec-mine.cases.html")
    assert CaseConfig("D", "i", Path("c"), results_file=Path("r/a.json")).page_path == Path("r/a.cases.html")
    assert CaseConfig("D", "i", Path("c"), html=Path("x.html")).page_path == Path("x.html")


def test_queries_are_shown(tmp_path, capsys):
    case.main(flags("--sample_num", 3, "--test_task", "itemsearch", "--html", tmp_path / "page.html"))
    assert capsys.readouterr().out.count("  asked   ") == 3
    assert checked(tmp_path / "page.html").count("searched for: <b>") == 3


def test_items_are_shown(tmp_path, capsys):
    case.main(flags("--users", "4,0", "--test_task", "item2index", "--html", tmp_path / "page.html"))
    assert re.findall(r"=== (.*)", capsys.readouterr().out) == ["item 4", "item 0"]
    assert "history" not in checked(tmp_path / "page.html").split("</style>")[1].split("<details>")[0]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--users", "u7,zoe"), r"--users zoe: .*Toy\.inter\.json has no such user; one is u2"),
        (("--users", "u0"), "--users u0: this user has no test sample"),
        (("--users", "99", "--test_task", "item2index"), "--users 99: the task asks about items such as 0"),
        (("--top_k", 21), "--top_k 21 needs as many beams, --num_beams is 20"),
        (("--top_k", 0), "--top_k 0: it must be at least 1"),
        (("--test_prompt_ids", "0,1"), "--test_prompt_ids 0,1: one wording is asked here, such as 0"),
        (("--html", "/dev/null/page.html"), "page.html cannot be written"),
        (("--ckpt_model", "gone"), "--ckpt_model gone is no folder"),
    ],
)
def test_faults_of_cases_are_found_before_the_model(more, message, capsys, monkeypatch):
    monkeypatch.setattr("src.seqrec.recommender.load_finetuned", None)
    assert re.search(message, fails(case, flags(*more), capsys))


@pytest.fixture(scope="module")
def tiger(tmp_path_factory) -> Path:
    """A TIGER that learnt nothing."""
    folder = tmp_path_factory.mktemp("tiger")
    shape = TigerConfig(NAME, Path(), hidden_size=16, num_layers=1, num_heads=2, head_size=8, intermediate_size=16)
    catalogue = toy_catalogue()
    settings = config_for(folder, ckpt_model=folder)
    save_tiger(
        folder, Tiger(settings, catalogue, new_model(shape, catalogue.sid_index), 6, torch.device("cpu")), {}, {}
    )
    return folder


def test_a_tiger_is_looked_at_as_other_models(tiger, tmp_path, capsys):
    """It used to end with a traceback from the loading of a fine-tuned model."""
    config = config_for(tmp_path, ckpt_model=tiger)
    evaluate(config)
    (evaluated,) = predictions_of(config)
    case.main(flags("--users", "u7", "--num_beams", 10, "--html", tmp_path / "page.html", ckpt=tiger))
    (shown,), _ = make_cases(case_config(tmp_path, ckpt_model=tiger, users=("u7",)))
    assert "=== user u7" in capsys.readouterr().out
    recommend.main(flags("--history", ",".join(map(str, sequence(7)[:-1])), "--num_beams", 10, "--json", ckpt=tiger))
    answered = [row["item"] for row in json.loads(capsys.readouterr().out)["recommendations"]]
    assert shown.items == answered == evaluated.ranked[list(evaluated.users).index("u7")].tolist()
    assert 'class="person"' in (tmp_path / "page.html").read_text()
    assert "is a TIGER, which reads no words" in fails(
        recommend, flags("--history", "1", "--test_task", "fusionseqrec", ckpt=tiger), capsys
    )


# ---- a single request ------------------------------------------------------------------------------------------------
def test_request_answers_as_the_evaluation_does(tmp_path, capsys):
    history = sequence(7)[:-1]
    recommend.main(flags("--history", ",".join(map(str, history)), "--top_k", 4, "--json"))
    answer = json.loads(capsys.readouterr().out)  # nothing else is there
    (expected,), _ = make_cases(case_config(tmp_path, users=("u7",), num_beams=20))
    found = answer["recommendations"]
    assert [row["item"] for row in found] == expected.items[:4]
    assert [row["rank"] for row in found] == [1, 2, 3, 4]
    np.testing.assert_allclose([row["score"] for row in found], expected.scores[:4], atol=1e-5)
    for row in [*answer["history"], *found]:
        assert row["title"] == item_fields(row["item"])["title"]
        assert row["sid"] == toy_index().tokens_of(row["item"])
    assert [row["item"] for row in answer["history"]] == history


def test_request_for_people(capsys):
    recommend.main(flags("--history", "12", "--filter_history", "--num_beams", NUM_ITEMS, "--top_k", NUM_ITEMS))
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if " number " in line]
    assert lines[0][:3] == ["had", "".join(toy_index().tokens_of(12)), "12"]
    assert [line[0] for line in lines[1:]] == [str(rank) for rank in range(1, NUM_ITEMS)]
    assert sorted(int(line[3]) for line in lines[1:]) == [item for item in range(NUM_ITEMS) if item != 12]


def test_who_has_everything_is_told_so(capsys):
    everything = ",".join(map(str, range(NUM_ITEMS)))
    recommend.main(flags("--history", everything, "--filter_history"))
    assert capsys.readouterr().out.splitlines()[-1].startswith("nothing is left to recommend")
    recommend.main(flags("--history", everything))
    assert "nothing is left" not in capsys.readouterr().out


def test_request_for_a_user(tmp_path, capsys):
    """By the key where there are no id maps, else by the original id alone: "7" may be the name of somebody else."""
    recommend.main(flags("--user", "u7", "--json"))
    answer = json.loads(capsys.readouterr().out)
    assert [row["item"] for row in answer["history"]] == sequence(7)  # all of it, with what tests
    assert "original" not in answer["recommendations"][0]

    data = toy_copy(tmp_path)
    (data / NAME / f"{NAME}.item2id").write_text("".join(f"SKU-{item}\t{item}\n" for item in range(NUM_ITEMS)))
    table = json.loads((data / NAME / f"{NAME}.inter.json").read_text())
    numbers = {user: str(row) for row, user in enumerate(table)}
    (data / NAME / f"{NAME}.inter.json").write_text(json.dumps({numbers[user]: had for user, had in table.items()}))
    (data / NAME / f"{NAME}.user2id").write_text("".join(f"{user}\t{row}\n" for user, row in numbers.items()))
    recommend.main(flags("--user", "u7", "--json", "--data_path", data))
    same = json.loads(capsys.readouterr().out)
    assert [row["item"] for row in same["recommendations"]] == [row["item"] for row in answer["recommendations"]]
    assert [row["original"] for row in same["history"]] == [f"SKU-{item}" for item in sequence(7)]
    recommend.main(flags("--user", "u7", "--data_path", data))
    assert f"SKU-{same['recommendations'][0]['item']}" in capsys.readouterr().out
    assert "user2id has no such user; one is u0" in fails(recommend, flags("--user", "7", "--data_path", data), capsys)


@pytest.mark.parametrize("task", ["mmseqrec", "fusionseqrec"])
def test_request_in_other_tasks(task, capsys):
    ckpt = checkpoint("qwen2_vl")
    recommend.main(flags("--history", "1,4,13", "--test_task", task, "--top_k", 3, "--json", ckpt=ckpt))
    assert len(json.loads(capsys.readouterr().out)["recommendations"]) == 3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--history", "1,99"), r"--history 99: .*Toy\.item\.json has no such item; its 40 items are numbered 0 to 39"),
        (("--history", "-1"), "--history -1: .* no such item"),
        (("--history", ","), "--history names no item"),
        (("--history", "red"), "expected numbers separated by commas, got 'red'"),
        (("--user", "zoe"), r"--user zoe: .*Toy\.inter\.json has no user zoe; one is u0"),
        (("--user", "u7", "--history", "1"), "not allowed with argument"),
        ((), "one of the arguments --history --user is required"),
        (("--history", "1", "--test_task", "itemsearch"), "itemsearch asks for more than a history: take seqrec"),
        (("--history", "1", "--top_k", 30), "--top_k 30 needs as many beams"),
        (("--history", "1", "--ckpt_model", "gone"), "--ckpt_model gone is no folder"),
    ],
)
def test_faults_of_requests_are_found_before_the_model(more, message, capsys, monkeypatch):
    monkeypatch.setattr("src.seqrec.recommender.load_finetuned", None)
    assert re.search(message, fails(recommend, flags(*more), capsys))


def test_a_history_longer_than_in_training_is_cut_as_there(tmp_path, capsys):
    """The checkpoint takes six items: older ones change nothing."""
    folder = write_checkpoint(tmp_path / "ckpt", "qwen2", toy_copy(tmp_path), max_his_len=6)
    answers = []
    for history in ("1,4,13,0,1,4", "9,9,9,1,4,13,0,1,4"):
        recommend.main(flags("--history", history, "--json", ckpt=folder))
        answers.append(json.loads(capsys.readouterr().out)["recommendations"])
    assert answers[0] == answers[1]

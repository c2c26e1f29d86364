"""What makes results look better, or worse, than they are: targets seen before, doubles of users and items, ties."""

import re
from collections import defaultdict
from itertools import pairwise

from data_process.artefact_checks import Contents
from data_process.findings import Findings, some
from src.common import dataset_readers

TWIN_LENGTH = 5  # items: shorter sequences are equal by chance
WORD = re.compile(r"\w+")


def check_leakage(contents: Contents, findings: Findings) -> None:
    """Everything that needs sequences; on what `check_files` could read."""
    if not contents.interactions:
        return
    _check_repeats(contents, findings)
    _check_twins(contents, findings)
    if contents.times is not None:
        _check_ties(contents, findings)
        if contents.splits is not None:
            _check_order_of_parts(contents, findings)
    if contents.items:
        _check_near_duplicates(contents, findings)
    _check_user_texts(contents, findings)


def _check_repeats(contents: Contents, findings: Findings) -> None:
    """The target inside the history."""
    repeating = targets = 0
    for user, sequence in contents.interactions.items():
        if len(set(sequence)) < len(sequence):
            repeating += 1
            _, start = contents.ends(user)
            targets += any(sequence[place] in sequence[:place] for place in range(start, len(sequence)))
    if repeating:
        findings.warn(
            contents.paths.file("inter.json"),
            f"{repeating:,} users have an item twice; of {targets:,} a target to test stands in the history as well:"
            f" easy to guess, and out of reach with --filter_history",
            "keep the first of each, as the entries for raw data do, or evaluate without --filter_history and say so",
        )


def _check_twins(contents: Contents, findings: Findings) -> None:
    """The same user twice."""
    groups: dict[tuple, list[str]] = defaultdict(list)
    for user, sequence in contents.interactions.items():
        if len(sequence) >= TWIN_LENGTH:
            times = contents.times[user] if contents.times is not None else ()
            groups[(*sequence, *times)].append(user)
    twins = [group for group in groups.values() if len(group) > 1]
    if twins:
        findings.warn(
            contents.paths.file("inter.json"),
            f"{sum(map(len, twins)):,} users are {len(twins):,} sequences told several times, such as {some(twins[0])}:"
            f" what trains for one is the answer for another",
            "keep one of each, unless they are different people",
        )


def _check_ties(contents: Contents, findings: Findings) -> None:
    """Items at one time: which of them is the target is the order of the input, not of life."""
    steps = ties = targets = 0
    for user, times in (contents.times or {}).items():
        same = [a == b for a, b in pairwise(times)]
        _, start = contents.ends(user)
        steps, ties = steps + len(same), ties + sum(same)
        targets += any(same[max(start - 1, 0) :])
    if ties:
        findings.warn(
            contents.paths.file("times.json"),
            f"{ties:,} of {steps:,} steps ({ties / steps:.1%}) take no time; of {targets:,} users a target to test has"
            f" the time of the item before it",
            "finer times if there are any; else compare results on this very file only, since another tool may order"
            " these items otherwise",
        )


def _check_order_of_parts(contents: Contents, findings: Findings) -> None:
    """Of a split by time: training after testing has begun."""
    assert contents.times is not None  # who calls has looked
    parts = [(contents.times[user], *contents.ends(user)) for user in contents.interactions]
    first_test = min((times[end] for times, _, end in parts if end < len(times)), default=None)
    if first_test is None:
        return
    late = sum(time >= first_test for times, train, _ in parts for time in times[:train])
    if late:
        findings.warn(
            contents.paths.file("split.json"),
            f"{late:,} interactions that train are not older than the first that tests: this is no split by time",
            "--split temporal, if a split by time is wanted",
        )


def _check_near_duplicates(contents: Contents, findings: Findings) -> None:
    """Items of one brand whose titles have the same words, whatever their order, case and punctuation."""
    groups: dict[tuple, list[int]] = defaultdict(list)
    for item, fields in contents.items.items():
        words = frozenset(WORD.findall(fields["title"].casefold()))
        if words:
            groups[(words, fields["brand"].casefold().strip())].append(item)
    doubles = [group for group in groups.values() if len(group) > 1]
    if not doubles:
        return
    group_of = {item: number for number, group in enumerate(doubles) for item in group}
    targets = 0
    for user, sequence in contents.interactions.items():
        _, start = contents.ends(user)
        for place in range(start, len(sequence)):
            group = group_of.get(sequence[place])
            others = (item for item in sequence[:place] if item != sequence[place])
            targets += group is not None and any(group_of.get(item) == group for item in others)
    findings.warn(
        contents.paths.file("item.json"),
        f"{sum(map(len, doubles)):,} items are {len(doubles):,} titles of a brand told several times, such as items"
        f" {some(doubles[0])}; {targets:,} targets to test have such a double in their history",
        "join what is one product before the k-core, unless pictures tell them apart",
    )


def _check_user_texts(contents: Contents, findings: Findings) -> None:
    """Queries whose answer is given away, or belongs to another part."""
    path = contents.paths.file("user.json")
    if not path.is_file():
        return
    table = findings.read(path, lambda: dataset_readers.load_user_texts(contents.paths))
    if table is None:
        return
    known, item_ids = contents.interactions, contents.item_ids
    searches = [(split, user, row) for split, rows in table.searches.items() for user, row in rows.items()]
    strangers = sorted(
        {user for _, user, _ in searches if user not in known} | (table.preferences.keys() - known.keys())
    )
    if strangers:
        findings.warn(path, f"{len(strangers):,} users have no sequence, such as {some(strangers)}")
    unknown = sorted({item for _, _, row in searches for item in (row.item, *row.history)} - item_ids)
    if unknown:
        findings.error(path, f"{len(unknown):,} items are not in the catalogue, such as {some(unknown)}")
    given = [user for _, user, row in searches if row.item in row.history]
    if given:
        findings.warn(path, f"of {len(given):,} searches the item is among the inters, such as users {some(given)}")
    for split, what in (
        ("train", "to train lie outside the training part"),
        ("test", "to test lie in the training part"),
    ):
        wrong = [
            user
            for part, user, row in searches
            if part == split
            and user in known
            and (row.item in known[user][: contents.ends(user)[0]]) != (split == "train")
        ]
        if wrong:
            findings.warn(path, f"of {len(wrong):,} users the items searched for {what}, such as {some(wrong)}")

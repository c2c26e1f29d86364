"""What a verified graph looks like: a line an artefact, below the latest of what it was made from; and a summary."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from src.lineage.links import Graph, Node, shown


class Order:
    """Where each node stands: below its deepest input, so that a chain reads downwards."""

    def __init__(self, nodes: Iterable[Node]):
        self.nodes = list(nodes)
        self.depths: dict[int, int] = {}
        self.broken: dict[int, bool] = {}
        self.children: dict[int, list[Node]] = {}
        self.roots: list[Node] = []
        for node in sorted(self.nodes, key=lambda node: str(node.path)):
            parent = max(node.inputs, key=self.depth, default=None)
            (self.roots if parent is None else self.children.setdefault(id(parent), [])).append(node)

    def depth(self, node: Node) -> int:
        if id(node) not in self.depths:
            self.depths[id(node)] = 0  # while it is worked out: files that were made from each other end here
            self.depths[id(node)] = 1 + max(map(self.depth, node.inputs), default=-1)
        return self.depths[id(node)]

    def rests_on_a_break(self, node: Node) -> bool:
        """Whether something that it was made from, or that from, is broken."""
        if id(node) not in self.broken:
            self.broken[id(node)] = False
            self.broken[id(node)] = any(part.faults or self.rests_on_a_break(part) for part in node.inputs)
        return self.broken[id(node)]

    def walk(self) -> Iterator[tuple[str, Node]]:
        """The lines in order: what stands in front, and the node. Sources that nothing stands below are left out."""
        for root in self.roots:
            if root.artefact or id(root) in self.children:
                yield from self._below(root, "", "")

    def _below(self, node: Node, lead: str, further: str) -> Iterator[tuple[str, Node]]:
        yield lead, node
        children = self.children.get(id(node), [])
        for number, child in enumerate(children, 1):
            last = number == len(children)
            yield from self._below(child, further + ("└─ " if last else "├─ "), further + ("   " if last else "│  "))


def line(lead: str, node: Node, order: Order) -> str:
    reasons = [fault.reason for fault in node.faults]
    if not reasons and order.rests_on_a_break(node):
        reasons.append("rests on what is broken above")
    told = "; ".join([*reasons, *node.notes])
    kind = "" if node.artefact is None else f"{node.kind} "
    status = node.status.upper() if node.faults else node.status
    return f"{lead}{kind}{shown(node.path)}: {status}{' - ' + told if told else ''}"


def lines(order: Order) -> list[str]:
    return [line(lead, node, order) for lead, node in order.walk()]


def summary(order: Order) -> str:
    """One line."""
    artefacts = [node for node in order.nodes if node.artefact]
    counts = Counter(node.status for node in artefacts)
    told = ", ".join(f"{count} {status}" for status, count in counts.most_common())
    broken = [shown(node.path) for node in artefacts if node.faults]
    end = f"the chain breaks at {', '.join(broken)}" if broken else "no link is broken"
    return f"{len(artefacts)} artefacts: {told}; {end}"


def table(graph: Graph, order: Order) -> dict[str, Any]:
    """The same for programs."""
    rows = []
    for _, node in order.walk():
        given = {} if node.artefact is None else node.artefact.inputs
        inputs = {
            name: {
                "path": entry["path"],
                "sha256": entry["sha256"],
                "found": str(found.path) if (found := node.made_from.get(name)) else None,
            }
            for name, entry in given.items()
        }
        rows.append(
            {
                "kind": node.kind,
                "path": str(node.path),
                "record": str(node.artefact.record) if node.artefact and node.artefact.record else None,
                "status": node.status,
                "faults": [fault._asdict() for fault in node.faults],
                "notes": node.notes,
                "rests_on_a_break": order.rests_on_a_break(node),
                "inputs": inputs,
            }
        )
    counts = Counter(node.status for node in order.nodes if node.artefact)
    return {"whole": not any(node.faults for node in order.nodes), "counts": dict(counts), "artefacts": rows}

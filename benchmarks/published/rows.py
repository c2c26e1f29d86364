"""The rows of the table of results: what is run, under which protocol, and what others published. Data, no code."""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from src.seqrec.protocol import PROTOCOLS, Protocol

DATA = "$GREC_DATA"  # the folder of the data sets, in commands as people read them
RESULTS = Path("results/published")  # what runs write: results, predictions, models
USERS = {"Instruments": 17112, "Beauty": 22363, "HMWeek": 8925, "Scientific": 8317}  # each is one sample of the test

MASKED, UNMASKED, SID_HITS = (PROTOCOLS[name] for name in ("masked", "unmasked", "sid hits"))
ANY_LENGTH = replace(UNMASKED, num_beams=None)  # of the lists nothing is said


@dataclass(frozen=True)
class Figures:
    """What somebody published, and under which protocol as far as they say."""

    hit_at_10: float
    ndcg_at_10: float
    source: str
    protocol: Protocol


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: <dataset>/<what>, under which docs/results has its file.
        title: the model in words.
        model: what the results file says it is.
        entry: module that trains, ranks and writes results.
        flags: of it, beyond --data_path, --dataset, --results_file and those that the protocol settles.
        published: figures that this row is measured against.
    """

    name: str
    title: str
    model: str
    entry: str
    protocol: Protocol
    flags: tuple[str, ...] = ()
    published: Figures | None = None

    @property
    def dataset(self) -> str:
        return self.name.partition("/")[0]

    @property
    def is_quick(self) -> bool:
        """Whether it takes seconds."""
        return self.model in ("popularity", "cooccurrence", "itemknn")

    @property
    def results_file(self) -> Path:
        return RESULTS / f"{self.name}.json"

    def words(self, data: str = DATA) -> list[str]:
        """The command after `python`."""
        known = ("--data_path", data, "--dataset", self.dataset, "--results_file", str(self.results_file))
        protocol = ("--num_beams", str(self.protocol.num_beams))
        if self.protocol.history == "masked":
            protocol += ("--filter_history",)
        return ["-m", self.entry, *(word.replace(DATA, data) for word in (*known, *self.flags, *protocol))]

    @property
    def command(self) -> str:
        """The command as it can be pasted."""
        return "python " + " ".join(word if word.startswith(DATA) else shlex.quote(word) for word in self.words())


# ---- published figures -----------------------------------------------------------------------------------------------
TIGER_PAPER = "TIGER, table 1 (arXiv 2305.05065)"
LETTER_PAPER = "LETTER, as quoted by its reproduction in Cornac"
RECBOLE = "SASRec of RecBole with cross-entropy, LETTER's issue 20"
QUOTED = "MQL4GRec's table, as our goals quote it; not read"
PUBLISHED = {
    "Beauty/sasrec-unmasked": Figures(0.0821, 0.0405, RECBOLE, UNMASKED),
    "Beauty/sasrec-bce-unmasked": Figures(0.0605, 0.0318, TIGER_PAPER, ANY_LENGTH),
    "Beauty/tiger-letter": Figures(0.0672, 0.0364, LETTER_PAPER, SID_HITS),
    "Beauty/tiger-rqvae": Figures(0.0648, 0.0384, TIGER_PAPER, ANY_LENGTH),
    "Instruments/tiger-text": Figures(0.1221, 0.0950, QUOTED, SID_HITS),
    "Instruments/tiger-text-small": Figures(0.1221, 0.0950, QUOTED, SID_HITS),
}

# ---- models ----------------------------------------------------------------------------------------------------------
COUNTING = {"popularity": "popularity", "cooccurrence": "co-transition", "itemknn": "item-kNN"}
SMALL = (  # for two cores: half the layers, a third of the width
    "--num_layers 2 --hidden_size 64 --num_heads 4 --head_size 32 --intermediate_size 256 --batch_size 64"
    " --learning_rate 2e-3 --epochs 14"
)
TABLES = {  # SID tables of TIGER: name of the row, what they are made from, index
    "Instruments": (
        ("text", "text, MQL4GRec", ".index_lemb.json"),
        ("image", "image, MQL4GRec", ".index_vitemb.json"),
        ("both", "text and image, GRec", ".index_qwen7B.json"),
    ),
    "Beauty": (
        ("letter", "LETTER", ".index.json"),
        ("rqvae", "text, RQ-VAE", f"{DATA}/Beauty/indexes/rqvae_native.index.json"),
    ),
    "Scientific": (("rkmeans", "text, k-means", f"{DATA}/Scientific/indexes/rkmeans_zcr.index.json"),),
}


def row(name: str, title: str, model: str, protocol: Protocol, *flags: str) -> Row:
    return Row(name, title, model, f"src.baselines.{model}", protocol, flags, PUBLISHED.get(name))


def make_rows() -> list[Row]:
    rows = []
    for dataset in USERS:
        for protocol in (MASKED, UNMASKED):
            for model, title in COUNTING.items():
                rows.append(row(f"{dataset}/{model}-{protocol.history}", title, model, protocol))
            name = f"{dataset}/sasrec-{protocol.history}"
            rows.append(row(name, "SASRec, softmax over all items", "sasrec", protocol))
        if dataset == "Beauty":
            name = f"{dataset}/sasrec-bce-unmasked"
            rows.append(row(name, "SASRec, one random negative", "sasrec", UNMASKED, "--loss", "bce"))
        for table, made_from, index in TABLES.get(dataset, ()):
            title = f"TIGER, SIDs of {made_from}"
            protocol = SID_HITS if table != "rqvae" else UNMASKED
            rows.append(row(f"{dataset}/tiger-{table}", title, "tiger", protocol, "--index_file", index))
            if dataset == "Instruments":
                name = f"{dataset}/tiger-{table}-small"
                rows.append(row(name, f"{title}, reduced", "tiger", protocol, "--index_file", index, *SMALL.split()))
    return rows


ROWS = {row.name: row for row in make_rows()}

"""The rows of the table of results: what is run, under which protocol, and what others published. Nothing runs here."""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from src.seqrec.protocol import PROTOCOLS, Protocol

DATA = "$GREC_DATA"  # the folder of the data sets, in commands as people read them
BASE_MODEL = "$BASE_MODEL"  # a text model to fine-tune, likewise
RESULTS = Path("results/published")  # what runs write: results, predictions, models
USERS = {"Instruments": 17112, "Beauty": 22363, "HMWeek": 8925, "Scientific": 8317}  # each is one sample of the test
COUNTING = {"popularity": "popularity", "cooccurrence": "co-transition", "itemknn": "item-kNN"}

MASKED, UNMASKED, SID_HITS = (PROTOCOLS[name] for name in ("masked", "unmasked", "sid hits"))
ANY_LENGTH = replace(UNMASKED, num_beams=None)  # of the length of the lists nothing is said
UNSAID = replace(ANY_LENGTH, history=None)  # nor of what was left out of them


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
        entry: module that ranks and writes results.
        flags: of it, beyond --data_path, --dataset, --results_file and those that the protocol settles.
        index: of SIDs; None where there are none.
        before: commands that make the index, and perhaps the model that --ckpt_model names; run where one is absent.
        needs: rows whose models this one uses: run them first.
    """

    name: str
    title: str
    model: str
    entry: str
    protocol: Protocol
    flags: tuple[str, ...] = ()
    index: str | None = None
    before: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    @property
    def dataset(self) -> str:
        return self.name.partition("/")[0]

    @property
    def is_quick(self) -> bool:
        """Whether it takes seconds."""
        return self.model in COUNTING

    @property
    def published(self) -> Figures | None:
        """What this row is measured against."""
        return PUBLISHED.get(self.name)

    @property
    def ckpt_model(self) -> str | None:
        return self.flags[self.flags.index("--ckpt_model") + 1] if "--ckpt_model" in self.flags else None

    @property
    def model_folder(self) -> Path:
        """Where the model that it ranks with lies."""
        return Path(self.ckpt_model) if self.ckpt_model else self.results_file.with_suffix(".model")

    @property
    def made_before(self) -> list[Path]:
        """What `before` makes."""
        if not self.before:
            return []
        return [Path(self.index), *([Path(self.ckpt_model, "config.json")] if self.ckpt_model else [])]

    @property
    def results_file(self) -> Path:
        return RESULTS / f"{self.name}.json"

    def words(self) -> list[str]:
        """The command after `python`; $NAMES stand for what each machine has elsewhere."""
        known = ("--data_path", DATA, "--dataset", self.dataset, "--results_file", str(self.results_file))
        index = () if self.index is None else ("--index_file", self.index)
        protocol = ("--num_beams", str(self.protocol.num_beams))
        if self.protocol.history == "masked":
            protocol += ("--filter_history",)
        return ["-m", self.entry, *known, *index, *self.flags, *protocol]

    @property
    def command(self) -> str:
        """The commands as they can be pasted."""
        words = (word if word.startswith("$") else shlex.quote(word) for word in self.words())
        return " && ".join([*self.before, "python " + " ".join(words)])


# ---- published figures -----------------------------------------------------------------------------------------------
TIGER_PAPER = "TIGER (arXiv 2305.05065), table 1"
LETTER_PAPER = "LETTER (arXiv 2405.07314), as the documents of its reproduction in Cornac quote it"
RECBOLE = "SASRec of RecBole, a user's run in issue 20 of LETTER's repository"
QUOTED = "MQL4GRec (arXiv 2504.05314) as the goals of this project quote it; its table was not read"
BEST = "the best of several papers as the goals of this project quote it; not read"
TIGER_TEXT = Figures(0.1221, 0.0950, QUOTED, SID_HITS)
BEST_ON_INSTRUMENTS = Figures(0.1385, 0.1054, BEST, UNSAID)
PUBLISHED = {
    "Instruments/tiger-text": TIGER_TEXT,
    "Instruments/tiger-text-small": TIGER_TEXT,
    "Instruments/fused-unmasked": BEST_ON_INSTRUMENTS,
    "Instruments/fused-small-unmasked": BEST_ON_INSTRUMENTS,
    "Instruments/fused-all-unmasked": BEST_ON_INSTRUMENTS,
    "Instruments/fused-all-small-unmasked": BEST_ON_INSTRUMENTS,
    "Beauty/sasrec-unmasked": Figures(0.0821, 0.0405, RECBOLE, ANY_LENGTH),
    "Beauty/sasrec-bce-masked": Figures(0.0605, 0.0318, TIGER_PAPER, UNSAID),
    "Beauty/tiger-letter": Figures(0.0672, 0.0364, LETTER_PAPER, SID_HITS),
    "Beauty/tiger-rqvae": Figures(0.0648, 0.0384, TIGER_PAPER, UNSAID),
}

# ---- models ----------------------------------------------------------------------------------------------------------
SMALL = shlex.split(  # for two cores; the number of epochs follows
    "--num_layers 2 --hidden_size 64 --num_heads 4 --head_size 32 --intermediate_size 256 --batch_size 64"
    " --learning_rate 2e-3 --epochs"
)
INSTRUMENTS = {  # SID tables: what they are made from, index, epochs of a reduced TIGER
    "text": ("text, MQL4GRec", ".index_lemb.json", "14"),
    "image": ("image, MQL4GRec", ".index_vitemb.json", "8"),
    "both": ("text and image, GRec", ".index_qwen7B.json", "8"),
}
LCREC_SMALL = shlex.split(
    "--layers 256 128 --rqvae_epochs 300 --rqvae_batch_size 256 --batch_size 16 --per_device_batch_size 16"
    " --share_prefix --max_valid_samples 500 --test_prompt_ids 0 --learning_rate 1e-3 --epochs 2 --warmup_ratio 0.05"
    " --train_data_sample_num 0,1500,300,600"
)
SMALL_RQVAE = (
    "--layers 256 128 --e_dim 32 --num_emb_list 256 256 256 --epochs 400 --batch_size 1024"
    " --lr_scheduler_type cosine --warmup_epochs 20 --normalize l2"
)
SMALL_TRAINING = (
    "--tasks seqrec --share_prefix --train_prompt_sample_num 1 --epochs 4 --per_device_batch_size 16"
    " --learning_rate 1e-3"
    " --adam_beta2 .95 --warmup_ratio .05 --his_sep , --max_valid_samples 1000 --seed 42"
)
ENCODED = "results/benchmarks/embeddings"  # of real encoders: where `python -m benchmarks.embeddings` keeps them
ENCODED_TABLES = {
    "text": ("text", "minilm"),
    "image": ("image", "efficientnet"),
    "both": ("text and image", "fused"),
    "shuffled": ("text and another item's image", "shuffled"),
}
HMWEEK = {"text": ("text", "--no-image"), "image": ("image", "--image-only"), "both": ("text and image", "")}


def baseline(name: str, title: str, model: str, protocol: Protocol, *flags: str, **more) -> Row:
    return Row(name, title, model, f"src.baselines.{model}", protocol, flags, **more)


def quick_rows(dataset: str) -> list[Row]:
    return [
        baseline(f"{dataset}/{model}-{protocol.history}", title, model, protocol)
        for protocol in (MASKED, UNMASKED)
        for model, title in COUNTING.items()
    ]


def sasrec_rows(dataset: str) -> list[Row]:
    title, flags = "SASRec, softmax over all items", ("--patience", "6")
    return [
        baseline(f"{dataset}/sasrec-{protocol.history}", title, "sasrec", protocol, *flags)
        for protocol in (MASKED, UNMASKED)
    ]


def grec_rows(dataset: str, tables: dict[str, tuple[str, str]], encode: str) -> list[Row]:
    """A tiny text model of ours, trained from random weights on nothing but histories, for each SID table.

    Args:
        tables: of each: what its SIDs are made from, name of the embeddings.
        encode: command that makes all the embeddings, in ENCODED.
    """
    rows, tiny = [], RESULTS / dataset / "tiny-qwen2"
    for table, (made_from, name) in tables.items():
        folder, model = RESULTS / dataset / "index" / name, RESULTS / dataset / f"grec-{table}.model"
        index = str(folder / f"{dataset}.index_{name}.json")
        embeddings = f"{ENCODED}/{dataset}.emb-{name}.npy"
        before = (
            encode,
            f"python -m index.main --data_path {embeddings} --ckpt_dir {folder} {SMALL_RQVAE}",
            f"python -m index.generate_indices --dataset {dataset} --data_path {embeddings}"
            f' --ckpt_path "$(ls -td {folder}/*/ | head -1)"',
            f"python scripts/make_tiny_model.py --family qwen2 --out {tiny} --corpus"
            f" {DATA}/{dataset}/{dataset}.item.json --seed 42",
            f"python -m src.finetune.train_ddp --base_model {tiny} --model_type qwen2 --output_dir {model} --data_path"
            f" {DATA} --dataset {dataset} --index_file {index} {SMALL_TRAINING}",
        )
        title = f"GRec, tiny model, SIDs of {made_from}"
        flags = ("--ckpt_model", str(model), "--test_batch_size", "64")
        rows.append(
            Row(f"{dataset}/grec-{table}-masked", title, "qwen2", "src.seqrec.metric_ddp", MASKED, flags, index, before)
        )
    return rows


def grec_mixes(dataset: str, rows: list[Row]) -> list[Row]:
    """The models of `grec_rows` but for that of shuffled pictures, together, and with all that counts."""
    first, *others = [row for row in rows if "shuffled" not in row.name]
    ensemble = ("--ensemble", *(f"{other.ckpt_model}={other.index}" for other in others))
    sasrec = f"{dataset}/sasrec-masked"
    scores = ("--fuse", "cooc,itemknn,sasrec", "--fuse_results", f"{RESULTS / sasrec}.json")
    title, models = "GRec, tiny models of all SID tables", " + ".join(["qwen2"] * (1 + len(others)))
    needs = tuple(row.name for row in (first, *others))
    flags = ("--ckpt_model", first.ckpt_model, "--test_batch_size", "64", *ensemble)
    all_titles = f"{title}, co-transition, item-kNN, SASRec"
    entry = "src.seqrec.metric_ddp"
    return [
        Row(f"{dataset}/grec-ensemble-masked", title, models, entry, MASKED, flags, first.index, needs=needs),
        Row(
            f"{dataset}/grec-fused-masked", all_titles, f"{models} + cooc + itemknn + sasrec", entry, MASKED,
            (*flags, *scores), first.index, needs=(*needs, sasrec),
        ),
    ]  # fmt: skip


def lcrec_row(dataset: str, small: bool = False) -> Row:
    name, title = ("lcrec-small", "LC-Rec, a tiny model") if small else ("lcrec", "LC-Rec, our preset")
    flags = ("--base_model", BASE_MODEL, *(LCREC_SMALL if small else ()))
    return baseline(f"{dataset}/{name}-masked", title, "lcrec", MASKED, *flags)


def mixed_rows(size: str) -> list[Row]:
    """TIGERs of the SID tables of Instruments: one alone, with counts, several, and all together, under each protocol.

    Args:
        size: what ends the names of the rows that train them: "" or "-small".
    """
    dataset = "Instruments"
    (first, (_, index, _)), *others = INSTRUMENTS.items()
    model = {table: str(RESULTS / dataset / f"tiger-{table}{size}.model") for table in INSTRUMENTS}
    ensemble = ["--ensemble", *(f"{model[table]}={other}" for table, (_, other, _) in others)]
    trained = [f"{dataset}/tiger-{table}{size}" for table in INSTRUMENTS]
    sasrec = f"{dataset}/sasrec-masked"
    everyone = " + ".join(["tiger"] * len(INSTRUMENTS))
    rows = []
    for protocol in (MASKED, UNMASKED):
        plans = {  # of each row: title, models, flags, rows that it needs
            "tiger-text": ("TIGER, SIDs of text", "tiger", [], trained[:1]),
            "fused-text": ("TIGER, SIDs of text, co-transition", "tiger + cooc", ["--fuse", "cooc"], trained[:1]),
            "ensemble": ("TIGERs of all SID tables", everyone, ensemble, trained),
            "fused": (
                "TIGERs of all SID tables, co-transition",
                f"{everyone} + cooc",
                [*ensemble, "--fuse", "cooc"],
                trained,
            ),
            "fused-all": (
                "TIGERs of all SID tables, co-transition, item-kNN, SASRec",
                f"{everyone} + cooc + itemknn + sasrec",
                [*ensemble, "--fuse", "cooc,itemknn,sasrec", "--fuse_results", f"{RESULTS / sasrec}.json"],
                [*trained, sasrec],
            ),
        }
        for plan, (title, models, flags, needs) in plans.items():
            rows.append(
                Row(
                    f"{dataset}/{plan}{size}-{protocol.history}",
                    title + (", reduced" if size else ""),
                    models,
                    "src.seqrec.metric_ddp",
                    protocol,
                    ("--ckpt_model", model[first], *flags),
                    index,
                    needs=tuple(needs),
                )
            )
    return rows


def instruments() -> list[Row]:
    rows = [*quick_rows("Instruments"), *sasrec_rows("Instruments")]
    for size in ("", "-small"):
        for table, (made_from, index, epochs) in INSTRUMENTS.items():
            title = f"TIGER, SIDs of {made_from}" + (", reduced" if size else "")
            flags = [*SMALL, epochs] if size else []
            rows.append(baseline(f"Instruments/tiger-{table}{size}", title, "tiger", SID_HITS, *flags, index=index))
        rows += mixed_rows(size)
    return rows


def beauty() -> list[Row]:
    binary = ("--loss", "bce", "--horizon", "1", "--average_epochs", "0")
    return [
        *quick_rows("Beauty"),
        *sasrec_rows("Beauty"),
        baseline("Beauty/sasrec-bce-masked", "SASRec, one random negative", "sasrec", MASKED, *binary),
        lcrec_row("Beauty"),
        baseline("Beauty/tiger-letter", "TIGER, SIDs of LETTER", "tiger", SID_HITS, index=".index.json"),
        baseline(
            "Beauty/tiger-rqvae", "TIGER, SIDs of an RQ-VAE of text", "tiger", UNMASKED,
            index=f"{DATA}/Beauty/indexes/rqvae_native.index.json",
        ),
    ]  # fmt: skip


def hmweek() -> list[Row]:
    """With SIDs of text, of pictures, and of both, all made the same way: what the pictures add."""
    rows = [*quick_rows("HMWeek"), *sasrec_rows("HMWeek"), lcrec_row("HMWeek"), lcrec_row("HMWeek", small=True)]
    ours = grec_rows("HMWeek", ENCODED_TABLES, "python -m benchmarks.embeddings")
    rows += [*ours, *grec_mixes("HMWeek", ours)]
    for table, (made_from, flag) in HMWEEK.items():
        folder = RESULTS / "HMWeek" / "index" / table
        embeddings = RESULTS / "HMWeek" / "emb"
        rows.append(
            baseline(
                f"HMWeek/tiger-{table}-small", f"TIGER, SIDs of {made_from}, reduced", "tiger", MASKED, *SMALL, "20",
                index=str(folder / f"HMWeek.index_{table}.json"),
                before=(
                    f"python -m data_process.simple_embeddings --data_path {DATA} --dataset HMWeek"
                    f" --out-dir {embeddings} --name {table} {flag}".rstrip(),
                    f"python -m index.main --data_path {embeddings}/HMWeek.emb-{table}.npy --ckpt_dir {folder}"
                    " --quantizer rkmeans --num_emb_list 256 256 256 256 --normalize l2 --device cpu",
                    f'python -m index.generate_indices --dataset HMWeek --ckpt_path "$(ls -td {folder}/*/ | head -1)"'
                    " --device cpu",
                ),
            )
        )  # fmt: skip
    return rows


def scientific() -> list[Row]:
    index = f"{DATA}/Scientific/indexes/rkmeans_zcr.index.json"
    title = "TIGER, SIDs of k-means of text, reduced"
    return [
        *quick_rows("Scientific"),
        *sasrec_rows("Scientific"),
        *grec_rows(
            "Scientific",
            {"text": ENCODED_TABLES["text"]},
            f"python -m data_process.text_embeddings --data_path {DATA} --dataset Scientific --out-dir {ENCODED}"
            ' --name minilm --model "$TEXT_MODEL"',
        ),
        lcrec_row("Scientific"),
        lcrec_row("Scientific", small=True),
        baseline("Scientific/tiger-rkmeans-small", title, "tiger", MASKED, *SMALL, "20", index=index),
    ]


ROWS = {row.name: row for row in (*instruments(), *beauty(), *hmweek(), *scientific())}

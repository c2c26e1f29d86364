"""Settings of every test: one thread, no network, quiet libraries."""

import os

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # before torch: two spinning threads on a busy machine are 16 times slower
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("TQDM_DISABLE", "1")

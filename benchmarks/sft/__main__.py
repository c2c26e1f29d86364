"""Speed of fine-tuning on next-item samples, side by side with padded batches tokenised in the collator.

python -m benchmarks.sft --quick
python -m benchmarks.sft --json results/benchmarks/sft.json
python -m benchmarks.sft --parts accuracy
python -m benchmarks.sft --parts pretrained
"""

from benchmarks.harness import run
from benchmarks.sft import accuracy, batches, logits, pretrained, step

PARTS = {
    "data": batches.rows,
    "step": step.rows,
    "memory": logits.rows,
    "accuracy": accuracy.rows,
    "pretrained": pretrained.rows,
}

if __name__ == "__main__":
    run(PARTS, __doc__, on_request=("accuracy", "pretrained"))

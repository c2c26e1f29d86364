"""Speed of the SID stage, side by side with what public code does, in CPU seconds of one thread.

python -m benchmarks.sid --quick
python -m benchmarks.sid --json results/benchmarks/sid.json
"""

from benchmarks.harness import run
from benchmarks.sid import clustering, generation, quality, training

PARTS = {
    "clustering": clustering.rows,
    "generation": generation.rows,
    "training": training.rows,
    "quality": quality.rows,
}

if __name__ == "__main__":
    run(PARTS, __doc__)

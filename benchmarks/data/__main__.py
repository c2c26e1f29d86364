"""The data stage side by side with what public code does, in CPU seconds of one thread, on synthetic raw data.

python -m benchmarks.data --quick
python -m benchmarks.data --json results/benchmarks/data.json
"""

from benchmarks.data import preprocessing
from benchmarks.harness import run

PARTS = {
    "preprocessing": preprocessing.rows,
    "growth": preprocessing.growth_rows,
}

if __name__ == "__main__":
    run(PARTS, __doc__)

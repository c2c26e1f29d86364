"""Speed of decoding, side by side with `generate(num_beams=20)` under a trie, in CPU seconds of one thread.

python -m benchmarks.decode --quick
python -m benchmarks.decode --json results/benchmarks/decode.json
"""

from benchmarks.decode import constraint, search
from benchmarks.harness import run

PARTS = {"constraint": constraint.rows, "search": search.rows}

if __name__ == "__main__":
    run(PARTS, __doc__)

"""Speed of decoding, side by side with `generate(num_beams=20)` under a trie, in CPU seconds of one thread.

python -m benchmarks.decode --quick
python -m benchmarks.decode --json results/benchmarks/decode.json
"""

from benchmarks.decode import constraint, encoder_decoder, evaluation, memory, search
from benchmarks.harness import run

PARTS = {
    "constraint": constraint.rows,
    "search": search.rows,
    "encoder_decoder": encoder_decoder.rows,
    "memory": memory.rows,
    "evaluation": evaluation.rows,
}

if __name__ == "__main__":
    run(PARTS, __doc__)

"""Does a generated title retrieve its own item among the titles of all items?"""

from collections.abc import Sequence

import numpy as np

CELLS_AT_ONCE = 1 << 25  # similarities held at a time


def retrieval(generated: Sequence[str], own: np.ndarray, titles: Sequence[str]) -> dict[str, np.ndarray]:
    """`title_hit@1` and `title_mrr` of each generated title: (M,) float64.

    Similarity is the cosine of TF-IDF vectors of character n-grams (2 to 4, inside words), weighted on `titles`. Items
    that are equally near share their places: each value is the mean over all orders among them, so that a title which
    many items have counts as the guess that it is.

    Args:
        own: (M,) int64, place of each one's item in `titles`.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, dtype=np.float32)
    table = vectorizer.fit_transform(titles).T.tocsc()
    asked = vectorizer.transform(generated)
    hit, mrr = np.zeros(len(own)), np.zeros(len(own))
    size = max(1, CELLS_AT_ONCE // len(titles))
    harmonic = np.concatenate([[0], np.cumsum(1 / np.arange(1, len(titles) + 1))])
    for begin in range(0, len(own), size):
        near = np.round((asked[begin : begin + size] @ table).toarray(), 5)  # equal titles differ by rounding
        mine = near[np.arange(len(near)), own[begin : begin + size]][:, None]
        better, alike = (near > mine).sum(1), (near == mine).sum(1)
        hit[begin : begin + size] = (better == 0) / alike
        mrr[begin : begin + size] = (harmonic[better + alike] - harmonic[better]) / alike
    return {"title_hit@1": hit, "title_mrr": mrr}

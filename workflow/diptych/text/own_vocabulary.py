"""A corpus' own vocabulary: the tokens that are over-represented in it against a reference.

    own_vocabulary("tokens/nineteenth/base.h5", "tokens/addresses/base.h5")     # ids, most distinctive first

They are those of the largest log-odds ratio, in standard deviations, under a Dirichlet prior with the frequencies of
both corpora together (Monroe, Colaresi and Quinn 2008, "Fightin' Words", eqs. 16, 20 and 22).
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from diptych.storage import artifacts

IntArray = npt.NDArray[np.int64]
DoubleArray = npt.NDArray[np.float64]

OWN_Z = 1.96
"""Standard deviations from which a token is over-represented."""
OWN_TOKENS = 500
"""Size of the vocabulary at most: a hundredth of a usual tokenizer's, so that chance hits it seldom."""
PRIOR_TOKENS = 1000.0
"""Weight of the prior in tokens: enough to keep what occurs once or twice near zero, little beside a corpus."""


def log_odds_z(counts: DoubleArray, reference: DoubleArray, prior_tokens: float = PRIOR_TOKENS) -> DoubleArray:
    """z of each token's log-odds ratio between two corpora under a Dirichlet prior of their joint frequencies, [V].

    With y of n tokens and prior a of a_0: delta = log((y_1 + a) / (n_1 + a_0 - y_1 - a)) - the same of the reference,
    variance 1 / (y_1 + a) + 1 / (y_2 + a). A token in neither has z = 0.

    Args:
        counts: of each token in the corpus, [V].
        reference: in the reference, [V].
        prior_tokens: a_0, the sum of the prior.
    """
    total = counts + reference
    prior, present = prior_tokens * total / max(1.0, float(total.sum())), total > 0
    posterior = np.stack([counts, reference])[:, present] + prior[present]
    rest = posterior.sum(axis=1, keepdims=True) - posterior
    log_odds = np.log(posterior) - np.log(np.maximum(rest, np.finfo(np.float64).tiny))
    z = np.zeros(len(total))
    z[present] = (log_odds[0] - log_odds[1]) / np.sqrt((1.0 / posterior).sum(axis=0))
    return z


def own_vocabulary(tokens: str | Path, reference: str | Path) -> IntArray:
    """Ids of the tokens over-represented in a token file against another of its tokenizer, most distinctive first."""
    token, reference_token = _counted_tokens(tokens), _counted_tokens(reference)
    size = 1 + max(int(token.max(initial=0)), int(reference_token.max(initial=0)))
    counts = [np.bincount(ids, minlength=size).astype(np.float64) for ids in (token, reference_token)]
    z = log_odds_z(counts[0], counts[1])
    order = np.argsort(-z, kind="stable")
    own: IntArray = order[z[order] > OWN_Z][:OWN_TOKENS]
    return own


def _counted_tokens(path: str | Path) -> IntArray:
    with artifacts.read(path, "tokens") as file:
        token: IntArray = file["token"][:][file["counts"][:]].astype(np.int64)
    return token

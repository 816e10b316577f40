"""The section `correlation`: correlation of two models' features."""

from diptych.config.sections.strict import Strict
from diptych.config.sections.values import PositiveInt, Seed


class Correlation(Strict):
    """Correlation of features, exact, from their sparse codes (METHODS 3.1). Neurons: `similarity.neurons`; residual
    coordinates from Python alone (see workflow/diptych/correlation/stage.py).
    """

    k: PositiveInt = 10
    """Most correlated partners stored for each feature."""
    min_active: PositiveInt = 10
    """Minimum number of tokens in each half on which a feature fires; others are not correlated."""
    min_documents: PositiveInt = 3
    """Minimum number of documents in each half in which it fires."""
    bins: PositiveInt = 200
    """Bins of the histogram of correlations."""
    seed: Seed = 0
    """Seed of the split of the documents into halves."""
    memory: PositiveInt = 1024
    """Memory of the blocks of correlations in MiB, also where features are paired, neurons are compared and
    a published procedure is run; re-runs nothing."""

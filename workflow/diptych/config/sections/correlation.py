"""The section `correlation`: how features of two models are correlated."""

from diptych.config.sections.strict import Strict
from diptych.config.sections.values import Positive


class Correlation(Strict):
    """Correlation of features, exact, from their sparse codes (METHODS 3.1). Neurons: `similarity.neurons`; residual
    coordinates from Python alone (the head of workflow/diptych/correlation.py says how).
    """

    k: Positive = 10
    """Partners kept for each feature."""
    min_active: Positive = 10
    """Tokens on which a feature fires in each half, at least, to take part."""
    min_documents: Positive = 3
    """Documents in which it fires in each half, at least."""
    bins: Positive = 200
    """Bins of the histogram of correlations."""
    seed: int = 0
    """Seed of the halves of the documents."""
    memory: Positive = 1024
    """MiB that the blocks of correlations may take together, also where features are paired, neurons are compared and
    a published procedure is run; re-runs nothing."""

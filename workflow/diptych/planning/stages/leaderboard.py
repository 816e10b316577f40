"""Costs of the leaderboard: planted rows, and dictionaries and crosscoders of them."""

from diptych.leaderboard import kinds
from diptych.planning.cost import Cost, h5
from diptych.planning.sizes import Sizes
from diptych.planning.stages.collected import PAGE

ROW = 1500.0
"""Bytes of a score with its interval and note, in the artifact, the table and the page."""
SCORES = 20
"""Scores of a method on a case."""


def score_method(sizes: Sizes, method: str, case: str) -> Cost:
    """Fits of one method on the pairs of a case; of methods that train, at the budget of all (six FLOPs a weight)."""
    section = sizes.study.leaderboard
    kind, shape = section.scored[case]
    n_rows, width = float(shape["n_documents"] * shape["tokens_per_document"]), shape["d_A"] + shape["d_B"]
    pairs = section.seeds if kind in kinds.PLANTED else section.trained_null_seeds
    trained = section.steps * section.batch * 2.0 * section.n_latents * width
    host = n_rows * (8.0 * width + 24.0 * shape["n_features"])
    return Cost(tokens=pairs * n_rows, flops=6 * pairs * trained, host=host,
                disk=h5(SCORES, pairs * SCORES * 8.0), memory_key=f"leaderboard.cases.{case}.documents")  # fmt: skip


def collect_leaderboard(sizes: Sizes) -> Cost:
    """All scores in one file, one table and one page."""
    section = sizes.study.leaderboard
    return Cost(disk=PAGE + ROW * SCORES * len(section.entries) * len(section.scored))

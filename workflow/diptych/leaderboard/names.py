"""Names of the leaderboard's entries, known without importing a method: configs are checked and jobs planned by them.

names.every()                 # ("means", "linear_map", ..., "random", ...)
"""

from diptych import methods

BASELINES = ("mean_difference", "pca_difference", "random")
"""Names of `baselines.ENTRIES`."""


def every() -> tuple[str, ...]:
    """Names of all entries of Diptych's own, methods first."""
    return (*(name for method in methods.METHODS for name in method.entries), *BASELINES)


def module_of(name: str) -> str:
    """Dotted name of the module whose `ENTRIES` has an entry."""
    for method in methods.METHODS:
        if name in method.entries:
            return method.entry_module or f"{method.package}.entry"
    return "diptych.leaderboard.baselines"

"""Jobs of the leaderboard: every method on every case, and all of them together."""

from dataclasses import dataclass

from diptych import methods
from diptych.config.job import Job, dump_only, files_at
from diptych.config.layout import page_templates
from diptych.config.source_jobs import SourceJobs
from diptych.leaderboard import names

BUDGET = ("n_latents", "k", "steps", "batch", "learning_rate")
"""Keys of the section that are the budget of methods that train."""


@dataclass(frozen=True)
class LeaderboardJobs(SourceJobs):
    """Jobs of a study's leaderboard; they read no model and no text."""

    def score_method(self, method: str, case: str) -> Job:
        """Score one method on one case."""
        section = self.study.leaderboard
        folder = section.tools.get(method)
        kind, shape = section.scored[case]
        settings = {
            "kind": kind,
            "shape": shape,
            "seeds": [section.seeds, section.null_seeds, section.trained_null_seeds],
            "budget": dump_only(section, BUDGET),
            "folder": folder,
        }
        modules = () if folder else (names.module_of(method),)
        files = [file for file in files_at(folder) if file.is_file()]
        return Job({"files": files}, {"method": method, "case": case}, settings, modules=modules)

    def collect_leaderboard(self) -> Job:
        """Collect the scores of all methods on all cases, and build the page."""
        section, layout = self.study.leaderboard, self.layout
        cells = [(method, case) for method in section.entries for case in section.scored]
        scored = [
            {
                "method": method,
                "case": case,
                "scores": layout.relative(layout.leaderboard_scores(method, case)),
                "cost": layout.relative(layout.leaderboard_cost(method, case)),
            }
            for method, case in cells
        ]
        described = {name: {"kind": kind, "shape": shape} for name, (kind, shape) in section.scored.items()}
        unjudged = {method.title: method.unjudged for method in methods.METHODS if not method.entries}
        settings = {"cases": described, "unjudged": unjudged, "budget": dump_only(section, BUDGET)}
        inputs = {"scores": [layout.leaderboard_scores(*cell) for cell in cells]}
        return Job(dict(inputs), {"scored": scored}, settings, files=page_templates())

    def leaderboard(self) -> Job:
        """The leaderboard and its page."""
        return Job({"leaderboard": [self.layout.leaderboard(), self.layout.leaderboard_page()]})

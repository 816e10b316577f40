"""Rule score_method: one method against the truth of one case of the leaderboard."""

from diptych.leaderboard import stage, table
from diptych.runtime import logs

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
settings, method = spec["settings"], spec["reads"]["method"]
folder = settings["folder"]
stage.score(
    method,
    table.load_folder(method, folder) if folder else table.load(method),
    stage.Case(spec["reads"]["case"], settings["kind"], settings["shape"]),
    snakemake.output[0],
    spec=spec,
    seeds=stage.Seeds(*settings["seeds"]),
    budget=settings["budget"],
    cost=snakemake.log.cost,
)

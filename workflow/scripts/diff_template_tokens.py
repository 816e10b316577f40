"""Rule diff_template_tokens: change of a dictionary's features between two models at the chat template's tokens."""

from pathlib import Path

import torch

from diptych.activations import rows
from diptych.dictionaries import sae
from diptych.runtime import logs
from diptych.template_diff import codes as template_codes
from diptych.template_diff import planted as template_plant
from diptych.template_diff import stage

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
torch.set_num_threads(snakemake.threads)
paths, settings = snakemake.input, dict(spec["settings"])
positions = {name: settings.pop(name) for name in ("roles", "token")}
codes = template_codes.read(paths.features_a, paths.features_b, paths.tokens, **positions)
dictionary = sae.load(Path(paths.dictionary).parent)
a, b = (
    rows.stored([rows.RowFiles(shards, gates, paths.tokens, spec["reads"]["site"])])
    for shards, gates in ((paths.shards_a, paths.gates_a), (paths.shards_b, paths.gates_b))
)
planted = template_plant.plant(codes, a, dictionary, size=settings.pop("planted_size"), seed=settings["seed"])
stage.diff(
    codes,
    snakemake.output.diff,
    snakemake.output.gains,
    snakemake.output.targets,
    spec=spec,
    planted=planted,
    fvu_a=template_codes.fvu(codes, a, dictionary),
    fvu_b=template_codes.fvu(codes, b, dictionary),
    change_unexplained=template_codes.change_unexplained(codes, a, b, dictionary),
    **settings,
)

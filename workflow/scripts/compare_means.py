"""Rule compare_means: mean differences of two models' activations at named places, and norms and distances."""

from pathlib import Path

import torch

from diptych.activations import rows
from diptych.means import stage
from diptych.runtime import logs
from diptych.text import alignment
from diptych.text.contexts import Text

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
torch.set_num_threads(snakemake.threads)
paths, settings = snakemake.input, spec["settings"]
files = [
    rows.RowFiles(paths[f"shards_{side}"], paths[f"gates_{side}"], paths[f"tokens_{side}"], spec["reads"]["site"])
    for side in "ab"
]
aligned = paths.get("alignment") or None
pair, counts = rows.stored_with_first(files, settings["positions"], aligned, spec["reads"]["rows"])
own = paths.get("own_tokens")
stage.compare(
    pair,
    counts,
    Text(paths.tokens_a),
    snakemake.output[0],
    spec=spec,
    models=[Path(path).parent for path in map(paths.get, ("model_a", "model_b")) if path],
    corpora=stage.Corpora(own, paths.tokens_a) if own else None,
    same_tokens=aligned is None or alignment.is_identity(aligned),
    **settings,
)

"""Rule fit_linear_map: affine maps between two models' activation spaces, and their residuals."""

from diptych.activations import rows
from diptych.linear_map import stage
from diptych.runtime import devices, logs

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
paths = snakemake.input
pair = rows.stored(
    [
        rows.RowFiles(paths.shards_a, paths.gates_a, paths.tokens_a, spec["reads"]["site_a"]),
        rows.RowFiles(paths.shards_b, paths.gates_b, paths.tokens_b, spec["reads"]["site_b"]),
    ],
    paths.get("alignment") or None,
    spec["reads"]["rows"],
)
out, table = snakemake.output.linear_map, snakemake.output.ladder
with devices.take(snakemake.resources.device) as device:
    stage.fit(pair, out, table=table, spec=spec, device=device, **spec["settings"])

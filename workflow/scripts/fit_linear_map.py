"""Rule fit_linear_map: the ladder of maps between two models' spaces, and where the best one fails."""

from diptych.activations import rows
from diptych.linear_map import stage
from diptych.runtime import logs

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
given = snakemake.input
pair = rows.stored(
    [
        rows.RowFiles(given.shards_a, given.gates_a, given.tokens_a, spec["reads"]["site_a"]),
        rows.RowFiles(given.shards_b, given.gates_b, given.tokens_b, spec["reads"]["site_b"]),
    ],
    given.get("alignment") or None,
    spec["reads"]["rows"],
)
stage.fit(pair, snakemake.output.linear_map, table=snakemake.output.ladder, spec=spec, **spec["settings"])

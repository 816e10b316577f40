"""Rule compare_spaces: the geometry of two models' paired features, each score with its null."""

from pathlib import Path

from diptych.activations import rows
from diptych.dictionaries import sae
from diptych.runtime import logs
from diptych.similarity import inputs, neurons, stage
from diptych.text import selection, word_lists

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
paths, settings, reads = snakemake.input, dict(spec["settings"]), spec["reads"]
alignment = paths.get("alignment") or None
dictionaries = [sae.load(Path(paths[f"dictionary_{side}"]).parent) for side in "ab"]
files = (paths.linear_map, paths.correlation, paths.features_a, paths.features_b)
selected = selection.read(paths.tokens_a, reads["rows"])
pairs = {
    "features": inputs.paired_features(paths.pairing, *dictionaries, *files, alignment=alignment, selection=selected)
}
subspaces = {Path(name).stem: word_lists.load(name) for name in settings.pop("word_lists")}
max_rows = settings.pop("neuron_rows")
if "neurons_a" in reads:
    names = ("neuron_shards", "neuron_gates", "tokens")
    sides = [rows.RowFiles(*(paths[f"{name}_{side}"] for name in names), reads[f"neurons_{side}"]) for side in "ab"]
    W_out = [neurons.output_matrix(Path(paths[f"model_{side}"]).parent, reads[f"neurons_{side}"]) for side in "ab"]
    pairs["neurons"] = neurons.paired_neurons(
        rows.stored(sides, alignment, reads["rows"]),
        W_out,
        (paths.tokens_a, paths.tokens_b),
        paths.linear_map,
        max_rows=max_rows,
        memory=snakemake.resources.correlation_mib * 2**20,
        seed=settings["seed"],
    )
stage.compare(pairs, snakemake.output[0], spec=spec, subspaces=subspaces, **settings)

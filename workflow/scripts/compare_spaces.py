"""Rule compare_spaces: the geometry of two models' paired features, each score with its null."""

from pathlib import Path

from diptych import dictionaries, logs, similarity, similarity_inputs, wordlists

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
given, settings = snakemake.input, dict(spec["settings"])
pairs = {
    "features": similarity_inputs.paired_features(
        given.pairing,
        dictionaries.load(Path(given.dictionary_a).parent),
        dictionaries.load(Path(given.dictionary_b).parent),
        given.linear_map,
        given.correlation,
        given.features_a,
        given.features_b,
        alignment=given.get("alignment") or None,
    )
}
settings.pop("neurons"), settings.pop("neuron_rows")
subspaces = {Path(name).stem: wordlists.load(name) for name in settings.pop("word_lists")}
similarity.compare(pairs, snakemake.output[0], spec=spec, subspaces=subspaces, **settings)

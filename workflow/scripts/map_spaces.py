"""Rule map_spaces: paired features of each pair on two maps, one a model."""

from pathlib import Path

from diptych import artifacts, feature_maps, logs

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
cells = artifacts.below(Path(snakemake.output[0]).parent, spec["reads"]["cells"])
feature_maps.draw(cells, snakemake.output[0], spec=spec, **spec["settings"])

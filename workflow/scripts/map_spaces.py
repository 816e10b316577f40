"""Rule map_spaces: UMAP coordinates of the paired features of each pair."""

from pathlib import Path

from diptych.runtime import logs
from diptych.similarity import feature_maps
from diptych.storage import artifacts

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
cells = artifacts.below(Path(snakemake.output[0]).parent, spec["reads"]["cells"])
feature_maps.draw(cells, snakemake.output[0], spec=spec, **spec["settings"])

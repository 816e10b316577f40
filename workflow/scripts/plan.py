"""Rule plan: what every stage will take, printed; nothing else runs."""

import os

from diptych.config import loading
from diptych.planning import write
from diptych.runtime import logs

logs.start(snakemake.log[0], __file__)
write.write(loading.load(snakemake.config), os.environ.get(write.DEVICE))

"""What scripts import from outside for seconds, for `warm_scripts` to import once."""

import h5py  # noqa: F401
import plotly.graph_objects  # noqa: F401
import safetensors.torch  # noqa: F401
import scipy.sparse
import scipy.stats  # noqa: F401
import transformer_lens.model_bridge  # noqa: F401
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

get_pretrained_saes_directory()

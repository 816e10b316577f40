"""Published dictionaries by model: which releases there are, as the installed SAELens knows them.

    python -m diptych.dictionaries.published.releases                 # the models below, with their releases
    python -m diptych.dictionaries.published.releases gemma-2-2b      # one model: every release with its ids

Nothing is copied from SAELens' own table: a newer SAELens lists more.
"""

import difflib
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from diptych.dictionaries import saelens_format
from diptych.models import hub
from diptych.runtime.errors import DiptychError, first_line

MODELS = (
    "gpt2-small",
    "pythia-70m-deduped",
    "gemma-2b",
    "gemma-2b-it",
    "gemma-2-2b",
    "gemma-2-2b-it",
    "meta-llama/Llama-3.1-8B",
)
"""Models that studies of this field compare, by the names that SAELens gives them."""
IDS_SHOWN = 6
BRANCH = "main"
"""The revision of a release's repository that SAELens reads."""


def known() -> Mapping[str, Any]:
    """SAELens' own table: releases by name, each with `model`, `repo_id` and `saes_map` (ids)."""
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    table: Mapping[str, Any] = get_pretrained_saes_directory()
    return table


def releases(model: str) -> dict[str, list[str]]:
    """Ids by release of a model (its SAELens name, or the last part of its hub id)."""
    bare = model.rpartition("/")[2].lower()
    return {
        name: sorted(entry.saes_map)
        for name, entry in sorted(known().items())
        if entry.model.rpartition("/")[2].lower() == bare
    }


def check(release: str, name: str, where: str) -> None:
    """Raise `DiptychError`, after `where`, with the nearest name unless SAELens has this release and id."""
    table = known()
    if release not in table:
        raise DiptychError(f"{where}: SAELens has no release {release!r}{_nearest(release, table)}")
    ids = table[release].saes_map
    if name not in ids:
        raise DiptychError(f"{where}: release {release!r} has no id {name!r}{_nearest(name, ids)}")


def load(release: str, name: str, where: str) -> Any:
    """SAELens' own reading of a published dictionary, float32; of one in its own format every key is checked first.

    SAELens drops the keys of older versions that it does not know, such as an activation function.

    Raises:
        DiptychError: no such release or id, it cannot be fetched, or a key says that the code is made in a way that is
            not read here.
    """
    check(release, name, where)
    from safetensors import SafetensorError

    entry = known()[release]
    repository, folder = hub.Repository(entry.repo_id, BRANCH, "dictionary"), entry.saes_map[name]
    described = f"{where}: {repository}"
    try:
        with hub.reading(repository, described):
            loaded = _read(release, name, where)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        hub.verify(repository, folder, described)
        raise DiptychError(f"{where}: cannot be fetched ({first_line(error)})") from error
    hub.verify(repository, folder, described)
    # Loaders transpose (Llama Scope's): safetensors saves no views.
    for parameter in loaded.parameters():
        parameter.data = parameter.data.contiguous()
    return loaded


def _read(release: str, name: str, where: str) -> Any:
    """SAELens' reading, after a look at the config if it is in SAELens' own format."""
    from sae_lens import SAE
    from sae_lens.loading import pretrained_sae_loaders as loaders
    from sae_lens.loading import pretrained_saes_directory as table

    if loaders.get_conversion_loader_name(release) == "sae_lens":
        repository, folder = table.get_repo_id_and_folder_name(release, name)
        overrides = table.get_config_overrides(release, name)
        stored = loaders.get_sae_lens_config_from_hf(repository, folder, cfg_overrides=overrides)
        if table.get_norm_scaling_factor(release, name) is not None:
            stored["normalize_activations"] = "none"
        saelens_format.current(stored, where)
    return SAE.from_pretrained(release, name, device="cpu", dtype="float32")


def listing(models: Iterable[str], most: int | None = IDS_SHOWN) -> str:
    """The releases of some models as text, at most so many ids of each."""
    lines = []
    for model in models:
        known_releases = releases(model)
        lines.append(
            model
            if known_releases
            else f"{model}: none of its own; one of its base model can be read on it (trained_on)"
        )
        for name, ids in known_releases.items():
            shown = ", ".join(ids[:most]) + (", ..." if most is not None and len(ids) > most else "")
            lines.append(f"  {name} ({len(ids)}): {shown}")
    return "\n".join(lines)


def _nearest(word: str, names: Iterable[str]) -> str:
    match = difflib.get_close_matches(word, sorted(names), n=1, cutoff=0.0)
    return f"; did you mean {match[0]!r}?" if match else ""


if __name__ == "__main__":
    arguments = sys.argv[1:]
    print(listing(arguments or MODELS, None if arguments else IDS_SHOWN))

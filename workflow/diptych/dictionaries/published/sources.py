"""Sources of published dictionaries: SAELens' releases, and directories of SAELens, sparsify, dictionary_learning.

    fetch("results/dictionaries/small", spec=spec,
          source={"kind": "saelens", "release": "gpt2-small-res-jb", "id": "blocks.8.hook_resid_pre"},
          reader=Reader("base", "openai-community/gpt2", "blocks.7.hook_resid_post", models.describe(...)))

Whatever the source, the result is a SAELens directory in float32 that `sae.load` reads. What it says of
itself (its hook, its model) must fit the model and site that the config gives it: a dictionary one layer off reads
well enough to go unnoticed.
"""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from diptych.dictionaries import sae, saelens_format
from diptych.dictionaries.published import dictionary_learning, hookpoints, releases, sparsify
from diptych.dictionaries.sae import Dictionary
from diptych.models import hub, pretrained
from diptych.models.sites import resolve_site
from diptych.runtime import logs
from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts

KINDS = ("saelens", "sparsify", "dictionary_learning", "directory")
_RESIDUAL = re.compile(r"blocks\.(\d+)\.hook_(resid_pre|resid_post|in|out)")


class Reader(NamedTuple):
    """The model of the study, its published name if known, and the site that the config gives for a dictionary."""

    model: str
    model_name: str | None
    site: str
    shape: pretrained.Description


def fetch(
    out_dir: str | Path, *, spec: Mapping[str, Any], source: Mapping[str, Any], reader: Reader | None = None
) -> None:
    """Bring a dictionary from its source into `out_dir`.

    Args:
        out_dir: the dictionary's directory, written whole or not at all.
        spec: what the result depends on.
        source: `kind` and its settings: `saelens` {release, id}, `sparsify` {path, or id, hookpoint and revision},
            `dictionary_learning` {path, or id, folder and revision} or `directory` {path}.
        reader: what the dictionary must fit; None checks nothing.

    Raises:
        DiptychError: unknown release or id (the nearest is suggested), missing files, a kind that is not read, or a
            dictionary for another hook or model.
    """
    where = f"dictionaries.{Path(out_dir).name}"
    if source["kind"] not in KINDS:
        raise DiptychError(f"{where}: unknown kind {source['kind']!r}; use {', '.join(KINDS)}")
    name = f"{where} ({_name_of(source)})"
    with artifacts.create_directory(out_dir, "dictionary", spec) as directory:
        match source["kind"]:
            case "saelens":
                _from_release(directory, source["release"], source["id"], name)
            case "directory":
                _from_directory(directory, Path(source["path"]), name)
            case "sparsify":
                path = _downloaded(source, str(source.get("hookpoint", "")), sparsify.FILES)
                saelens_format.write(directory, *sparsify.read(path, name))
            case "dictionary_learning":
                path = _downloaded(source, str(source.get("folder", "")), dictionary_learning.FILES)
                saelens_format.write(directory, *dictionary_learning.read(path, name))
        dictionary = sae.load(directory, name)
        if reader is not None:
            check(dictionary, reader, where, _name_of(source))


def check(dictionary: Dictionary, reader: Reader, where: str, source: str) -> None:
    """Compare what a dictionary says of itself with what it is to read; what it does not say is logged.

    Args:
        dictionary: as it was fetched.
        reader: what the config gives it.
        where: its key in the config.
        source: what a user knows its source by.

    Raises:
        DiptychError: another hook, another model or another width.
    """
    expected = resolve_site(reader.site, reader.shape["n_layers"])
    _check_hook(dictionary.metadata.get("hook_name"), expected, reader, where, source)
    named: str | None = dictionary.metadata.get("model_name")
    if named is None or reader.model_name is None:
        logs.logger.warning("%s (%s): made for %s, read on %s; nothing to compare", where, source, named, reader.model)
    elif not same_model(named, reader.model_name):
        raise DiptychError(
            f"{where}.model: {reader.model!r} is {reader.model_name}, but this dictionary ({source}) was made for "
            f"{named}; name that model, or set trained_on: {named} if it is to be read on this one"
        )
    loading = dictionary.metadata.get("model_from_pretrained_kwargs") or {}
    for key in ("revision", "checkpoint_index", "checkpoint_value"):
        if loading.get(key) is not None:
            logs.logger.warning("%s (%s): made for %s at %s %s", where, source, named, key, loading[key])
    if _RESIDUAL.fullmatch(expected) and dictionary.width != reader.shape["width"]:
        raise DiptychError(
            f"{where} ({source}): reads rows of width {dictionary.width}, but {reader.model} has width "
            f"{reader.shape['width']}; take the dictionary of this model"
        )


def _check_hook(hook_name: str | None, expected: str, reader: Reader, where: str, source: str) -> None:
    """Compare the hook that a dictionary was trained at with that of its site."""
    if hook_name is None:
        logs.logger.warning("%s (%s): its metadata names no hook; site %s is not checked", where, source, expected)
        return
    hook = hookpoints.hook_of(hook_name) or hook_name
    if canonical(hook) != canonical(expected):
        raise DiptychError(
            f"{where}.site: {reader.site!r} is {expected} in {reader.model}, but this dictionary ({source}) reads "
            f"{hook_name}; set the site that it reads or take another id"
        )


def canonical(hook: str) -> str:
    """A hook by one name: the residual stream before a block is that after the block before it.

    >>> canonical("blocks.8.hook_resid_pre")
    'blocks.7.hook_resid_post'
    """
    match = _RESIDUAL.fullmatch(hook)
    if not match:
        return hook
    block, is_input = int(match[1]), match[2] in ("resid_pre", "in")
    return f"blocks.{block - 1}.hook_resid_post" if is_input and block else f"blocks.{block}.hook_{match[2]}"


def same_model(one: str, other: str) -> bool:
    """Whether two names (a hub id, TransformerLens' short name) mean one model."""
    if _bare(one) == _bare(other):
        return True
    from transformer_lens.loading_from_pretrained import MODEL_ALIASES

    official = {_bare(alias): _bare(name) for name, aliases in MODEL_ALIASES.items() for alias in aliases}
    return official.get(_bare(one), _bare(one)) == official.get(_bare(other), _bare(other))


def _bare(name: str) -> str:
    return name.rpartition("/")[2].lower()


def _name_of(source: Mapping[str, Any]) -> str:
    """Name of a dictionary's source for messages: release and id, repository and folder, or directory."""
    match source["kind"]:
        case "saelens":
            return f"{source['release']} {source['id']}"
        case _ if source.get("path"):
            return str(source["path"])
        case _:
            folder = source.get("hookpoint") or source.get("folder") or ""
            return f"{source.get('id')} {folder}".strip()


def _from_release(directory: Path, release: str, name: str, where: str) -> None:
    releases.load(release, name, where).save_model(directory)
    _from_directory(directory, directory, where)


def _from_directory(directory: Path, path: Path, where: str) -> None:
    """A SAELens directory of any version; a file that already holds what is to be stored is copied as it is."""
    stored = saelens_format.read(path, where)
    config = {**stored.config, "dtype": "float32"}
    if not stored.verbatim:
        saelens_format.write(directory, config, stored.weights)
        return
    if directory != path:
        shutil.copyfile(path / saelens_format.WEIGHTS_FILE, directory / saelens_format.WEIGHTS_FILE)
    saelens_format.write_config(directory, config)


def _downloaded(source: Mapping[str, Any], folder: str, names: tuple[str, ...]) -> Path:
    """The directory of a source that is on disk, or one folder of a repository out of the hub's cache."""
    if source.get("path"):
        return Path(str(source["path"]))
    files = [f"{folder}/{name}" if folder else name for name in names]
    return hub.snapshot(source["id"], source["revision"], files, what="dictionary") / folder

"""Sites: depths and names resolve to hooks, and a wrong name gets the nearest right one."""

import pytest

from diptych.models.sites import block_of, resolve_site
from diptych.runtime.errors import DiptychError


@pytest.mark.parametrize(
    ("site", "n_layers", "block"),
    [
        ("first", 30, 0),
        ("middle", 30, 15),
        ("last", 30, 29),
        (0.5, 30, 15),
        ("0.5", 7, 3),
        ("0", 12, 0),
        (1.0, 12, 11),
        (0.29, 100, 29),
        ("last", 1, 0),
    ],
)
def test_depths(site: str | float, n_layers: int, block: int) -> None:
    assert resolve_site(site, n_layers) == f"blocks.{block}.hook_resid_post"


def test_hook_names_pass_and_resolve_to_themselves() -> None:
    for name in ("blocks.3.hook_mlp_out", "blocks.0.attn.q.hook_out", "hook_embed", resolve_site("middle", 12)):
        assert resolve_site(name, 12) == name


@pytest.mark.parametrize(
    ("site", "message"),
    [
        ("midle", "did you mean 'middle'"),
        ("blocks.3.resid_post", r"did you mean 'blocks\.3\.hook_resid_post'"),
        ("blocks.12.hook_resid_post", "the model has blocks 0 to 11"),
        ("1.5", "between 0 and 1"),
        ("-0.1", "between 0 and 1"),
    ],
)
def test_bad_sites(site: str, message: str) -> None:
    with pytest.raises(DiptychError, match=message):
        resolve_site(site, 12)


def test_block_of() -> None:
    assert block_of("blocks.7.attn.hook_z") == 7
    assert block_of("hook_embed") is None

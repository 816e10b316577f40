"""Addresses of the report's pages, relative to the index, and of elements on them."""

from collections.abc import Mapping
from typing import Any

INDEX = "index.html"
PLOTLY = "plotly.js"
"""The plotting library, once for all pages."""


def page_of(pair: str) -> str:
    """The page of a pair."""
    return f"pairs/{pair}.html"


def slug(name: str) -> str:
    """A name as a part of an element's id."""
    return "".join(character if character.isalnum() else "-" for character in name)


def page_id(pair: str) -> str:
    """Id of a pair's page among the pages of the report."""
    return f"page-{slug(pair)}"


def with_id(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """A comparison with the name of its sites, and an id for its elements."""
    site_a, site_b = comparison["site_a"], comparison["site_b"]
    site = site_a if site_a == site_b else f"{site_a}--{site_b}"
    name = f"{comparison['name']}-{site}" if site else comparison["name"]
    return {**comparison, "site": site, "id": f"pair-{slug(name)}"}

"""Types of values shared by several sections."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field


def _depth_as_text(value: Any) -> Any:
    """A relative depth as text, where YAML reads a number."""
    return f"{value}" if isinstance(value, int | float) and not isinstance(value, bool) else value


Alias = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.]*$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Distribution = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""A name on the package index, which `pip` could take for nothing else: no blanks, no operators."""
Version = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.!+_-]*$")]
Share = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
PositiveInt = Annotated[int, Field(ge=1, le=2**31 - 1)]
TokenCount = Annotated[int, Field(ge=1, le=10**13)]
"""Tokens, documents or rows: more than any published corpus holds is a slip of the pen."""
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
RowSelection = str | Annotated[tuple[str, ...], Field(min_length=1)]
Site = Annotated[str, BeforeValidator(_depth_as_text, json_schema_input_type=str | float)]

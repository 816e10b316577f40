"""Types of values that several sections use."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field


def _depth_as_text(value: Any) -> Any:
    """A relative depth that YAML reads as a number."""
    return f"{value}" if isinstance(value, int | float) and not isinstance(value, bool) else value


Alias = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.]*$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
Wanted = str | Annotated[tuple[str, ...], Field(min_length=1)]
Site = Annotated[str, BeforeValidator(_depth_as_text, json_schema_input_type=str | float)]

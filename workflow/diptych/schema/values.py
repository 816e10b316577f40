"""Kinds of values that several sections have."""

from typing import Annotated

from pydantic import Field

Alias = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.]*$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
Wanted = str | Annotated[tuple[str, ...], Field(min_length=1)]

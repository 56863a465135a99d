"""Types of the numbers in a policy profile."""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

_ADDRESS = re.compile(r"[^@\s]+@[^@\s.]+(?:\.[^@\s.]+)+")
_LONGEST_ADDRESS = 254


def real_address(address: str) -> str:
    """Return the address if it is one of a person, as far as its form tells.

    Raises:
        ValueError: it is not.
    """
    if _ADDRESS.fullmatch(address) is None or len(address) > _LONGEST_ADDRESS:
        raise ValueError(f"{address!r} is not an e-mail address")
    return address


Share = Annotated[float, Field(ge=0.0, le=1.0)]
OpenShare = Annotated[float, Field(gt=0.0, lt=1.0)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
EmailAddress = Annotated[str, AfterValidator(real_address)]


class Section(BaseModel):
    """A part of a profile: unknown keys are refused, values are taken as they stand, never converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

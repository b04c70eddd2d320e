"""Enumerations to which a newer release may add values."""

import enum


class OpenEnum(enum.Enum):
    """An enumeration that accepts any number as a value, so that events of a newer release can be read.

    A number that this release does not know becomes the member `UNKNOWN_<number>`, which iteration leaves out.
    """

    @classmethod
    def _missing_(cls, value: object) -> "OpenEnum | None":
        if not isinstance(value, int):
            return None
        unknown = object.__new__(cls)
        unknown._name_ = f"UNKNOWN_{value}"
        unknown._value_ = value
        # Members are compared by identity, so that there is one object for each value.
        return cls._value2member_map_.setdefault(value, unknown)  # type: ignore[return-value]

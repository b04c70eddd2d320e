"""Enumerations of which a newer release may know more values."""

import enum


class OpenEnum(enum.Enum):
    """Takes any number for a value, as the enumerations of the contract do: what is stored is read, whoever wrote it.

    A number that this release does not know is `UNKNOWN_<number>`. It is not among the members that iteration gives.
    """

    @classmethod
    def _missing_(cls, value: object) -> "OpenEnum | None":
        if not isinstance(value, int):
            return None
        unknown = object.__new__(cls)
        unknown._name_ = f"UNKNOWN_{value}"
        unknown._value_ = value
        # One object for each value: members are compared by identity.
        return cls._value2member_map_.setdefault(value, unknown)  # type: ignore[return-value]

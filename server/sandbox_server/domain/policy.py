"""What the operator lets callers put on cluster objects."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sandbox_server.domain import check
from sandbox_server.domain.errors import Violation

_ASK = "is not allowed by the service's setting {}: leave it out, or ask the service's operator to add it"


def key_allowed(key: str, annotations: Sequence[str]) -> bool:
    """Whether `annotations` has the key of a label or an annotation, or a prefix of it that ends with a slash."""
    return any(key.startswith(allowed) if allowed.endswith("/") else key == allowed for allowed in annotations)


def labels(given: Mapping[str, str], annotations: Sequence[str]) -> dict[str, str]:
    """Returns the labels that are put on cluster objects: those without a prefix, and those that `annotations` allows.

    Other controllers act on labels with a prefix. Lists and watches select by all labels.
    """
    return {key: value for key, value in given.items() if "/" not in key or key_allowed(key, annotations)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the operator allows in a new sandbox. `annotations` is as `key_allowed` takes it."""

    annotations: Sequence[str]
    runtime_classes: Sequence[str]
    storage_classes: Sequence[str]

    def violations(self, annotations: Mapping[str, str], runtime_class: str, storage_class: str) -> Iterator[Violation]:
        """Yields a violation for each given field that is well formed but not allowed.

        Only what is given anew is checked: a sandbox keeps what was allowed when it got it.
        """
        if not any(check.annotations("spec.annotations", annotations)):
            for key in annotations:
                if not key_allowed(key, self.annotations):
                    yield Violation(check.entry("spec.annotations", key), _ASK.format("allowed-annotations"))
        for field, name, allowed, setting in (
            ("spec.runtime_class", runtime_class, self.runtime_classes, "allowed-runtime-classes"),
            ("spec.storage.storage_class", storage_class, self.storage_classes, "allowed-storage-classes"),
        ):
            if name and check.class_name.fits(name) and name not in allowed:
                yield Violation(field, _ASK.format(setting))

"""What callers may put on cluster objects, as far as the operator decides it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sandbox_server.domain import check
from sandbox_server.domain.errors import Violation

_ASK = "is not allowed by the service's setting {}: leave it out, or ask the service's operator to add it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the operator allows. `annotations` are whole keys, and prefixes that end with a slash."""

    annotations: Sequence[str]
    runtime_classes: Sequence[str]
    storage_classes: Sequence[str]

    def key_allowed(self, key: str) -> bool:
        """Whether the key of a label or an annotation is in `annotations` or has a prefix that is."""
        return any(key.startswith(one) if one.endswith("/") else key == one for one in self.annotations)

    def labels(self, given: Mapping[str, str]) -> dict[str, str]:
        """The labels that reach the cluster, where other controllers act on keys with a prefix.

        A label that does not is still one of the sandbox: lists and watches select by it.
        """
        return {key: value for key, value in given.items() if "/" not in key or self.key_allowed(key)}

    def violations(self, annotations: Mapping[str, str], runtime_class: str, storage_class: str) -> Iterator[Violation]:
        """Names each field of a new sandbox that is well formed and not allowed. A sandbox keeps what it was given."""
        if not any(check.annotations("spec.annotations", annotations)):
            for key in annotations:
                if not self.key_allowed(key):
                    yield Violation(check.entry("spec.annotations", key), _ASK.format("allowed-annotations"))
        for field, name, allowed, setting in (
            ("spec.runtime_class", runtime_class, self.runtime_classes, "allowed-runtime-classes"),
            ("spec.storage.storage_class", storage_class, self.storage_classes, "allowed-storage-classes"),
        ):
            if name and check.class_name.fits(name) and name not in allowed:
                yield Violation(field, _ASK.format(setting))

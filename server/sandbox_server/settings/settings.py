"""Settings from the environment (`SANDBOX_...`) and flags, as one frozen value that consists of slices."""

import dataclasses
import difflib
import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, create_model, model_validator
from pydantic_settings import BaseSettings, CliSuppress, NoDecode, SettingsConfigDict

from sandbox_server.domain import check, policy
from sandbox_server.domain.pace import Pace
from sandbox_server.failpoints import Failpoint, parsed
from sandbox_server.settings.slices import Defaults, Kubernetes, Local, Serving, Timing

Failpoints = Annotated[tuple[Failpoint, ...], NoDecode, BeforeValidator(lambda given: parsed(given or ""))]


# Pydantic reads the fields of the last base first, and flags are described in that order.
class Settings(BaseSettings, Local, Kubernetes, Timing, Defaults, Serving):
    """Every setting has a default that works on one machine. Times are in seconds."""

    model_config = SettingsConfigDict(
        env_prefix="SANDBOX_",
        frozen=True,
        use_attribute_docstrings=True,
        extra="ignore",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_prog_name="sandbox-server",
    )

    base_pace: CliSuppress[Pace] = Field(Pace(), exclude=True)
    """The time constants that are no settings, as JSON; for tests alone."""
    failpoints: CliSuppress[Failpoints] = Field((), exclude=True)
    """Places at which the service is to fail; for tests alone."""

    @model_validator(mode="after")
    def _consistent(self) -> "Settings":
        metrics = self.metrics_listen or "localhost:0"
        _need(_is_socket(self.listen) or _is_address(self.listen), f"listen: {_ADDRESS}")
        _need(_is_address(metrics), f"metrics-listen: {_ADDRESS}")
        here, tls, ports = _is_loopback(self.listen), self.tls_cert is not None, self.port_range
        _need(tls == (self.tls_key is not None), "tls-cert and tls-key: give both or neither")
        away = "on an address that is not loopback"
        _need(here or tls or self.allow_plaintext, f"listen: no tls-cert {away}: or give allow-plaintext")
        near = _is_loopback(metrics) or self.allow_plaintext
        _need(near, f"metrics-listen: they are not secured {away}: or give allow-plaintext")
        measured = self.usage_interval > 0 or not self.usage_metrics
        _need(measured, "usage-metrics: nothing is measured without usage-interval: give seconds such as 300")
        access = next(iter(self.access_addresses), "localhost:0")
        _need(_is_address(access), f"access-listen: {_ADDRESS}")
        near = _is_loopback(access) or tls or self.allow_plaintext
        _need(near, f"access-listen: no tls-cert {away}: or give allow-plaintext")
        for name, origins in (
            ("access-url", [self.access_url] if self.access_url else []),
            ("access-origins", self.access_origins),
        ):
            _need(
                all(map(_ORIGIN.fullmatch, origins)),
                f"{name}: must be like https://terminals.example.com, without a path",
            )
        named = self.token_file is not None or self.allow_anonymous
        _need(here or named, f"listen: no token-file {away}: or give allow-anonymous")
        outside = self.engine == "kubernetes" or "KUBERNETES_SERVICE_HOST" not in os.environ
        _need(outside, "engine: the local engine does not run inside a cluster: give engine=kubernetes")
        schemes = ("sqlite:///", "postgresql://", "postgres://", "postgresql+psycopg://")
        known = isinstance(self.database, Path) or self.database.startswith(schemes)
        _need(known, "database-url: must be sqlite:///path or postgresql://...")
        _need(bool(self.namespace_names), "namespaces: at least one is needed")
        for one in self.namespace_names:
            _need(bool(check.namespace.fits(one)), f"namespaces: {one!r} must be {check.namespace.takes}")
        _need(1024 <= ports.start < ports.stop - 1 <= 65535, "local-ports: must be a range such as 20000-29999")
        return self

    @property
    def namespace_names(self) -> tuple[str, ...]:
        """The namespaces of the one tenant."""
        return tuple(one.strip() for one in self.namespaces.split(",") if one.strip())

    @property
    def access_addresses(self) -> tuple[str, ...]:
        """Where the page of terminals is served: the first of these that is free. Without any, nowhere."""
        if self.access_listen != "auto":
            return (self.access_listen,) if self.access_listen else ()
        if self.engine != "local" or not _is_address(self.listen):
            return ()
        port = int(self.listen.rpartition(":")[2])
        # A service that was told nothing of the page is not to end for want of one port.
        return (f"127.0.0.1:{port + 1 if 0 < port < 65535 else 0}", "127.0.0.1:0")

    @property
    def defaults(self) -> Defaults:
        """What a spec gets that leaves a field empty."""
        return Defaults.of(self)

    @property
    def kubernetes(self) -> Kubernetes:
        """What the Kubernetes engine needs."""
        return Kubernetes.of(self)

    @property
    def local(self) -> Local:
        """What the local engine needs, beside the data directory."""
        return Local.of(self)

    @property
    def pace(self) -> Pace:
        """Every time constant, those that are settings as they were set."""
        times = {one.name for one in dataclasses.fields(Pace)} & type(self).model_fields.keys()
        return dataclasses.replace(self.base_pace, **{one: getattr(self, one) for one in times})

    @property
    def policy(self) -> policy.Policy:
        """What callers may put on cluster objects."""
        return policy.Policy(
            annotations=self.allowed_annotations,
            runtime_classes=self.allowed_runtime_classes,
            storage_classes=(*self.allowed_storage_classes, self.storage_class),
        )

    @property
    def database(self) -> str | Path:
        """The URL of the database, or the file of one in the data directory, whatever characters its path has."""
        return self.database_url.get_secret_value() or self.data_dir / "sandbox.db"

    @property
    def own_key_file(self) -> Path:
        """The key file that the service makes with SQLite where the settings name no keys."""
        return self.data_dir / "encryption.key"


class Doctor(Settings):
    """The settings of the service, and how its examination is printed."""

    output: Literal["table", "json"] = "table"
    """How the results of `sandbox-server doctor` are written."""


class Import(Settings):
    """The settings of the service, and what `sandbox-server import` does. It is made by `IMPORT`."""

    dry_run: bool = False
    """Report what would be imported, and write nothing."""
    output: Literal["table", "json"] = "table"
    """How the results are written."""

    @property
    def source(self) -> str:
        """The URL of the database of the former system."""
        given: SecretStr = getattr(self, "from")
        return given.get_secret_value()


_FROM: dict[str, Any] = {
    "from": (SecretStr, Field(SecretStr(""), description="postgresql://... of the database of the former system."))
}
IMPORT = create_model("Import", __base__=Import, **_FROM)
"""`Import` with the setting `from`: a word of Python, so that no body of a class can have a field of that name."""


class Adoption(Settings):
    """The settings of the service, and what `sandbox-server adopt` adopts and how."""

    namespace: str = Field(min_length=1)
    """Where the former system made its objects: one of the service's namespaces."""
    selector: str = ""
    """Label selector of the objects to adopt; empty: all that carry the label of the former system."""
    project: str = ""
    """Project of the sandboxes; empty: that of the label, or else of the name, of each."""
    restart: Literal["now", "at-next-start"] = "at-next-start"
    """When pods are made anew by the service; at-next-start: once a sandbox is started, stopped or changed."""
    dry_run: bool = False
    """Say what would be adopted, and change nothing."""
    undo: bool = False
    """Give back what was adopted with at-next-start and has not been started, stopped or changed since."""
    output: Literal["table", "json"] = "table"
    """How the report is written."""


_ADDRESS = "must be an address and a port of at most 65535, such as 127.0.0.1:50051"


_NAME = r"(?=[^:]{1,253}:)(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?"
_PLACE = re.compile(rf"(?:\[[0-9A-Fa-f:.]+(?:%[^\]/]+)?\]|{_NAME}):([0-9]{{1,5}})")


_ORIGIN = re.compile(r"https?://[a-z0-9.:\[\]-]{1,260}")


def _is_socket(address: str) -> bool:
    return bool(address.startswith("unix:") and address.removeprefix("unix:").strip("/ "))


def _is_address(address: str) -> bool:
    found = _PLACE.fullmatch(address)
    return found is not None and int(found[1]) <= 65535


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return _is_socket(address) or host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        # A name may be anybody's, 127.example.com too.
        return False


def _need(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


CLIENTS = frozenset(
    {
        *("SERVER", "TOKEN", "TLS", "CA_FILE", "NAMESPACE", "CLIENT_TOKEN_FILE"),
        *("CONFIG", "CONTEXT", "REQUEST_TIMEOUT"),
    }
)
"""What `sandboxctl` takes from variables of the same prefix."""
_LINK = re.compile(r"SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?")
"""What follows the name of a Service in the variables that Kubernetes sets for it."""


def unknown(environment: Mapping[str, str], kind: type[Settings] = Settings) -> dict[str, str]:
    """Variables with the prefix of the settings that are none of `kind`, each with the setting that its name is like, or "".

    The variables that Kubernetes sets in a pod for each Service of its namespace are no mistake.
    """
    prefix = Settings.model_config["env_prefix"]
    settings = [one.upper() for one in kind.model_fields]
    known = {prefix + one for one in (*settings, *CLIENTS)}
    services = [one.removesuffix("SERVICE_HOST") for one in environment if one.endswith("_SERVICE_HOST")]
    found: dict[str, str] = {}
    for one in environment:
        link = any(one.startswith(name) and _LINK.fullmatch(one.removeprefix(name)) for name in services)
        if one.upper().startswith(prefix) and one.upper() not in known and not link:
            like = difflib.get_close_matches(one.upper().removeprefix(prefix), settings, 1)
            found[one] = prefix + like[0] if like else ""
    return found


def load(arguments: list[str], kind: type[Settings] = Settings) -> Settings:
    """Settings from the environment and flags such as `--listen 127.0.0.1:1`. Raises pydantic's ValidationError."""
    return kind(_cli_parse_args=arguments)

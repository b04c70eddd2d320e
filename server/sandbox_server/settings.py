"""Settings from the environment (`SANDBOX_...`) and flags, as one frozen value."""

import dataclasses
import difflib
import ipaddress
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, CliSuppress, NoDecode, SettingsConfigDict

from sandbox_server.domain import check, operator, policy
from sandbox_server.domain.pace import Pace


def _quoted(command: str) -> str:
    shlex.split(command)
    return command


CENTURY = 100 * 365 * 86400.0
"""Seconds: more would reach beyond the dates that there are."""

File = Annotated[Path | None, BeforeValidator(lambda given: given or None)]
"""None where it is given as empty, as whoever composes an environment may have to say that there is none."""
Seconds = Annotated[float, Field(gt=0, le=CENTURY)]

ClassName = Annotated[str, AfterValidator(operator.class_name)]
ClassNames = Annotated[tuple[ClassName, ...], NoDecode, BeforeValidator(operator.split)]
Keys = Annotated[tuple[Annotated[str, AfterValidator(operator.key)], ...], NoDecode, BeforeValidator(operator.split)]
Object = Annotated[dict[str, str], NoDecode, BeforeValidator(lambda given: operator.parsed(given or {}))]
Array = Annotated[tuple[dict[str, Any], ...], NoDecode, BeforeValidator(lambda given: operator.parsed(given or ()))]


class Settings(BaseSettings):
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

    listen: str = "127.0.0.1:50051"
    """Address and port to serve."""
    engine: Literal["local", "kubernetes"] = "local"
    """What runs sandboxes."""
    data_dir: Annotated[Path, AfterValidator(Path.absolute)] = Path(".data")
    """Where the local engine, SQLite and the key file live."""
    database_url: SecretStr = SecretStr("")
    """sqlite:///path or postgresql://...; empty: SQLite in data-dir."""
    encryption_keys: SecretStr = SecretStr("")
    """Keys for env values in base64, comma-separated, the first encrypts."""
    encryption_key_file: File = None
    """File with the keys, a line each, of any mode; default with SQLite: made in data-dir, closed to other users."""

    tls_cert: File = None
    """PEM certificate chain; with tls-key, serve TLS; one that is replaced serves new connections."""
    tls_key: File = None
    """PEM private key."""
    allow_plaintext: bool = False
    """Serve without TLS on an address that is not loopback."""
    token_file: File = None
    """JSON file of tenants, their namespaces and tokens; one that is replaced counts from the next call on."""
    allow_anonymous: bool = False
    """Serve without tokens on an address that is not loopback."""
    tenant: str = "default"
    """The one tenant where there is no token file."""
    namespaces: str = "default"
    """Its namespaces, comma-separated; the first is its default."""

    metrics_listen: str = ""
    """Address and port to serve metrics on, for Prometheus; empty: none."""
    log_format: Literal["console", "json"] = "console"
    """How log lines are written."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least level to log."""

    default_image: str = "fullstackagent/sandbox:latest"
    """Image of a sandbox whose caller names none."""
    default_cpu_request: str = "100m"
    """CPU reserved by default."""
    default_cpu_limit: str = "2"
    """CPU at most by default."""
    default_memory_request: str = "256Mi"
    """Memory reserved by default."""
    default_memory_limit: str = "2Gi"
    """Memory at most by default."""
    default_storage_size: str = "5Gi"
    """Size of the disk by default."""
    storage_class: str = ""
    """Storage class by default; empty: the cluster's default."""
    copy_image_home: bool = True
    """Fill a fresh disk once with what the image has in /home/agent, by default; the image needs a shell for it."""

    grace_period: int = Field(10, ge=0, le=check.GRACE_PERIOD_MOST)
    """For the processes of a sandbox to end after SIGTERM, by default."""
    start_deadline: Seconds = Pace.start_deadline
    """How long a start may take before it is an error."""
    ready_for: float = Field(Pace.ready_for, ge=0, le=CENTURY)
    """How long a process must be ready to count after a restart, or at a first start that no probe asks."""
    resync: Seconds = Pace.resync
    """Between two looks at every sandbox."""
    workers: int = Field(16, ge=1, le=1000)
    """Sandboxes reconciled at once."""
    heartbeat: Seconds = Pace.heartbeat
    """Between two signs of life on a quiet watch."""
    follow: Seconds = Pace.follow
    """Between two looks at the log for what this replica has not heard of, which it otherwise reads at once."""
    shutdown_grace: float = Field(Pace.shutdown_grace, ge=0, le=CENTURY)
    """For unary calls to finish after SIGTERM."""
    history: float = Field(7 * 86400, ge=86400, le=CENTURY)
    """How long the watch log, request ids and sandboxes that have ended are kept."""

    kubeconfig: File = None
    """Kubeconfig, read as kubectl does; empty: the service account of the pod."""
    cluster_timeout: Seconds = 10
    """How long the API server may take to answer."""
    cluster_silence: Seconds = 90
    """How long a watch of it may say nothing; it sends a bookmark about every minute."""
    ingress_domain: str = "sandbox.localhost"
    """Domain of the application URLs of new sandboxes; others keep theirs."""
    ingress_class: str = "nginx"
    """Class of the Ingresses of new sandboxes; empty: the cluster's default."""
    tls_secret: str = ""
    """TLS secret of the Ingresses of new sandboxes; empty: none."""
    sealos_labels: bool = True
    """Set the labels that Sealos reads."""

    share_process_namespace: bool = True
    """One process namespace a pod: SIGTERM ends what would ignore it as process 1, as shells do."""
    allowed_annotations: Keys = ()
    """Annotations that callers may set: prefixes such as example.com/ and whole keys, comma-separated; empty: none."""
    allowed_runtime_classes: ClassNames = ()
    """Runtime classes that callers may name, comma-separated; empty: none."""
    allowed_storage_classes: ClassNames = ()
    """Storage classes that callers may name beside storage-class, comma-separated; empty: none."""
    ingress_annotations: Annotated[Object, AfterValidator(operator.annotations)] = {}
    """Annotations of the Ingresses as a JSON object: body size, time-outs, auth."""
    node_selector: Annotated[Object, AfterValidator(operator.labels)] = {}
    """Node labels that pods require, as a JSON object."""
    tolerations: Annotated[Array, AfterValidator(operator.tolerations)] = ()
    """Tolerations of the pods, as a JSON array."""
    pull_secrets: ClassNames = ()
    """Image pull secrets of the pods, comma-separated."""
    priority_class: ClassName = ""
    """Priority class of the pods; empty: the cluster's default."""
    pod_patch: Array = ()
    """JSON patch (RFC 6902) of the pod template, for what no other setting does; checked when the service starts."""

    local_command: Annotated[str, AfterValidator(_quoted)] = ""
    """What a local sandbox without a command runs; empty: serve its home."""
    local_terminal: str = "auto"
    """Terminal program with {port} in it; auto: ttyd on the PATH; empty: none."""
    local_ports: str = Field("20000-29999", pattern=r"^\d{1,5}-\d{1,5}$")
    """Loopback ports that the local engine gives out."""
    local_isolation: Literal["auto", "none"] = "auto"
    """Bubblewrap where it runs, or nothing."""

    base_pace: CliSuppress[Pace] = Field(Pace(), exclude=True)
    """The time constants that are no settings, as JSON; for tests alone."""

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
    def port_range(self) -> range:
        """`local_ports` as a range."""
        low, _, high = self.local_ports.partition("-")
        return range(int(low), int(high) + 1)


_ADDRESS = "must be an address and a port of at most 65535, such as 127.0.0.1:50051"


_NAME = r"(?=[^:]{1,253}:)(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?"
_PLACE = re.compile(rf"(?:\[[0-9A-Fa-f:.]+(?:%[^\]/]+)?\]|{_NAME}):([0-9]{{1,5}})")


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


CLIENTS = frozenset({"SERVER", "TOKEN", "TLS", "CA_FILE", "NAMESPACE", "CLIENT_TOKEN_FILE"})
"""What `sandboxctl` takes from variables of the same prefix."""
_LINK = re.compile(r"SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?")
"""What follows the name of a Service in the variables that Kubernetes sets for it."""


def unknown(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables with the prefix of the settings that are none, each with the setting that its name is like, or "".

    The variables that Kubernetes sets in a pod for each Service of its namespace are no mistake.
    """
    prefix = Settings.model_config["env_prefix"]
    settings = [one.upper() for one in Settings.model_fields]
    known = {prefix + one for one in (*settings, *CLIENTS)}
    services = [one.removesuffix("SERVICE_HOST") for one in environment if one.endswith("_SERVICE_HOST")]
    found: dict[str, str] = {}
    for one in environment:
        link = any(one.startswith(name) and _LINK.fullmatch(one.removeprefix(name)) for name in services)
        if one.upper().startswith(prefix) and one.upper() not in known and not link:
            like = difflib.get_close_matches(one.upper().removeprefix(prefix), settings, 1)
            found[one] = prefix + like[0] if like else ""
    return found


def load(arguments: list[str]) -> Settings:
    """Settings from the environment and flags such as `--listen 127.0.0.1:1`. Raises pydantic's ValidationError."""
    return Settings(_cli_parse_args=arguments)

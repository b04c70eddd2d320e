"""The settings in slices. A part of the program receives the slice that it needs, and no other setting.

A setting is a field here and nowhere else: `Settings` inherits every slice. Times are in seconds.
"""

import shlex
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from pydantic_settings import NoDecode

from sandbox_server.domain import check, operator
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


class Slice(BaseModel):
    """A frozen value. A docstring of a field is its help text."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    @classmethod
    def of(cls, settings: "Slice") -> Self:
        """Returns the fields of this slice from settings that have them among others."""
        return cls(**{name: getattr(settings, name) for name in cls.model_fields})


class Serving(Slice):
    """What runs sandboxes, and how the service is reached, stores and logs. For the wiring in `app`."""

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
    """JSON file of tenants and operators with their tokens; one that is replaced counts from the next call on."""
    allow_anonymous: bool = False
    """Serve without tokens on an address that is not loopback."""
    tenant: str = Field(default="default", min_length=1)
    """The one tenant where there is no token file."""
    namespaces: str = "default"
    """Its namespaces, comma-separated; the first is its default."""
    reflection: bool = True
    """Serve the contract to tools such as grpcurl, to callers that may call."""

    access_listen: str = "auto"
    """Address and port of the page of terminals; auto: with the local engine 127.0.0.1 and the port after that of listen, or
    any other if that is taken, with Kubernetes none; empty: none."""
    access_url: str = ""
    """Where browsers reach that page, such as https://terminals.example.com; empty: at access-listen itself."""
    access_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(operator.split)] = ()
    """Other web origins whose pages may show the page of terminals or use its tickets, comma-separated."""

    metrics_listen: str = ""
    """Address and port to serve /metrics, /healthz and /readyz on, over HTTP; empty: none."""
    usage_metrics: bool = False
    """Show in /metrics how full the disk of each sandbox is, by its namespace and id; with usage-interval."""
    log_format: Literal["console", "json"] = "console"
    """How log lines are written."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least level to log."""


class Defaults(Slice):
    """What a spec gets that leaves a field empty."""

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


class Timing(Slice):
    """The times that an operator chooses, and how much is done at once. For the wiring, which hands over a `Pace`."""

    start_deadline: Seconds = Pace.start_deadline
    """How long a start may take before it is an error."""
    ready_for: float = Field(Pace.ready_for, ge=0, le=CENTURY)
    """How long a process must be ready to count after a restart, or at a first start that no probe asks."""
    resync: Seconds = Pace.resync
    """Between two looks at every sandbox."""
    workers: int = Field(16, ge=1, le=1000)
    """Sandboxes reconciled at once for the same reason: a call, a change in the cluster, or another look at every sandbox."""
    usage_interval: float = Field(Pace.usage_interval, ge=0, le=CENTURY)
    """Between two measurements of how full the disk of a running sandbox is, for the condition DISK_NEARLY_FULL, such as 300; 0:
    none are made."""
    execs_per_tenant: int = Field(512, ge=1, le=1_000_000)
    """Calls about execs of a tenant that are open at once at this replica, such as attached ones and open inputs."""
    snapshots_per_tenant: int = Field(1000, ge=0, le=1_000_000)
    """Snapshots of a tenant that are not deleted. A daily one of 100 sandboxes, kept for a week, takes 700; a program that takes one a
    minute by mistake is stopped within a day."""
    verified_at_once: int = Field(1, ge=1, le=1000)
    """Snapshots that this replica verifies at once. Each takes a disk of its size and reads all of it; others wait."""
    verify_most: Seconds = Pace.verify_most
    """How long the verification of a snapshot may take once it has begun. At 100 MB/s, half of it for the restore, four hours are
    700 GB."""
    heartbeat: Seconds = Pace.heartbeat
    """Between two signs of life on a quiet watch."""
    follow: Seconds = Pace.follow
    """Between two looks at the log for what this replica has not heard of, which it otherwise reads at once."""
    shutdown_grace: float = Field(Pace.shutdown_grace, ge=0, le=CENTURY)
    """For unary calls to finish after SIGTERM."""
    history: float = Field(7 * 86400, ge=86400, le=CENTURY)
    """How long the watch log, request ids and sandboxes that have ended are kept."""


class Kubernetes(Slice):
    """What the Kubernetes engine needs."""

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
    snapshot_class: ClassName = ""
    """VolumeSnapshotClass of new snapshots; empty: the default one of the driver of each disk."""
    verify_image: str = ""
    """Image in which the files of a restored snapshot are counted, with a shell, find, stat, sha256sum, sort and awk; empty:
    default-image."""
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


class Local(Slice):
    """What the local engine needs, beside the data directory."""

    local_command: Annotated[str, AfterValidator(_quoted)] = ""
    """What a local sandbox without a command runs; empty: serve its home."""
    local_terminal: str = "auto"
    """Terminal program with {port} in it; auto: ttyd on the PATH; empty: none."""
    local_ports: str = Field("20000-29999", pattern=r"^\d{1,5}-\d{1,5}$")
    """Loopback ports that the local engine gives out."""
    local_isolation: Literal["auto", "none"] = "auto"
    """Bubblewrap where it runs, or nothing."""

    @property
    def port_range(self) -> range:
        """`local_ports` as a range."""
        low, _, high = self.local_ports.partition("-")
        return range(int(low), int(high) + 1)

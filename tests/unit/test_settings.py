"""Settings: what is wrong is refused by name, and what is right is taken."""

import json
import os
from pathlib import Path

import pytest
from pydantic import ValidationError
from sandbox_server import settings

GOLDEN = Path(__file__).parent / "golden" / "settings.json"
"""Each setting with its default and its help text. An operator's deployment rests on the names: none is ever lost."""


def test_names_defaults_and_help_of_the_settings_are_those_of_the_golden_file() -> None:
    fields = settings.Settings.model_fields.items()
    now = {name: [one.default, one.description] for name, one in fields if not one.exclude}
    written = json.dumps(now, indent=2, default=str) + "\n"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        GOLDEN.write_text(written)
    assert written == GOLDEN.read_text()


def test_a_slice_has_the_values_of_the_settings_and_no_other_fields() -> None:
    chosen = settings.load(["--encryption-keys", "canary", "--ingress-domain", "example.com", "--resync", "7"])
    assert chosen.kubernetes == settings.Kubernetes(ingress_domain="example.com")
    assert chosen.pace.resync == 7
    for one in (chosen.kubernetes, chosen.local, chosen.defaults):
        assert type(one) is not settings.Settings
        assert not hasattr(one, "encryption_keys")
        with pytest.raises(ValidationError, match="frozen"):
            setattr(one, next(iter(type(one).model_fields)), "x")


@pytest.mark.parametrize("port", ["0", "50051", "65535"])
@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "LOCALHOST", "[::1]", "[::1%lo]"])
def test_an_address_and_a_port_are_taken(host: str, port: str) -> None:
    chosen = settings.load(["--listen", f"{host}:{port}", "--metrics-listen", f"{host}:{port}"])
    assert chosen.listen == chosen.metrics_listen == f"{host}:{port}"


def test_a_socket_in_the_file_system_is_taken_and_needs_neither_tls_nor_tokens() -> None:
    assert settings.load(["--listen", "unix:/run/sandbox.sock"]).listen == "unix:/run/sandbox.sock"


@pytest.mark.parametrize("flag", ["listen", "metrics-listen"])
@pytest.mark.parametrize("value", ["127.0.0.1:65536", "127.0.0.1:99999", "50051", ":50051", "127.0.0.1", "127.0.0.1:x"])
def test_what_is_no_address_is_refused(flag: str, value: str) -> None:
    with pytest.raises(ValidationError, match=f"{flag}: must be an address and a port of at most 65535"):
        settings.load([f"--{flag}", value])


@pytest.mark.find(42)
@pytest.mark.parametrize("flag", ["listen", "metrics-listen"])
@pytest.mark.parametrize(
    "value",
    [
        *("http://127.0.0.1:1", "127.0.0.1:1/", "::1:1", "[one]:1", "[::1:1", "a..b:1", f"{'a' * 64}.example:1"),
        *(
            " 127.0.0.1:1",
            "127.0.0.1 :1",
            "user@h:1",
            "*:1",
            "unix:",
            "unix:///",
            "unix-abstract:a",
            "dns:///h:1",
            ":1",
        ),
    ],
)
def test_what_nobody_could_reach_is_refused(flag: str, value: str) -> None:
    with pytest.raises(ValidationError, match=f"{flag}: must be an address and a port of at most 65535"):
        settings.load([f"--{flag}={value}", "--allow-plaintext", "--allow-anonymous"])


@pytest.mark.parametrize("value", ["../../victim", "fine,A", "a b", "a" * 64, "-a", "a.b"])
def test_a_namespace_is_a_dns_label(value: str) -> None:
    with pytest.raises(ValidationError, match=r"namespaces: .* must be a DNS label of at most 63 characters"):
        settings.load([f"--namespaces={value}"])


def test_namespaces_are_taken_in_their_order() -> None:
    assert settings.load(["--namespaces", "b, a,1"]).namespace_names == ("b", "a", "1")


def test_metrics_have_an_address_and_a_port() -> None:
    with pytest.raises(ValidationError, match="metrics-listen: must be an address and a port of at most 65535"):
        settings.load(["--metrics-listen", "unix:/run/metrics.sock"])


def test_metrics_of_disks_need_measurements() -> None:
    with pytest.raises(
        ValidationError, match="usage-metrics: nothing is measured without usage-interval: give seconds"
    ):
        settings.load(["--usage-metrics"])
    assert settings.load(["--usage-metrics", "--usage-interval", "300"]).pace.usage_interval == 300


@pytest.mark.fault(49)
@pytest.mark.parametrize("flag", ["listen", "metrics-listen"])
@pytest.mark.parametrize("host", ["127.0.0.1.example.com", "127.example", "localhost.example", "0.0.0.0", "[::]"])
def test_what_is_not_loopback_is_not_served_in_plaintext(flag: str, host: str) -> None:
    with pytest.raises(
        ValidationError, match=f"{flag}: .* on an address that is not loopback: or give allow-plaintext"
    ):
        settings.load([f"--{flag}", f"{host}:50051"])


@pytest.mark.parametrize("name", ["tls-cert", "tls-key", "token-file", "encryption-key-file", "kubeconfig"])
def test_a_file_that_is_given_as_empty_is_none(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDBOX_" + name.upper().replace("-", "_"), "")
    assert getattr(settings.load([]), name.replace("-", "_")) is None


@pytest.mark.parametrize("value", ["inf", "nan", "1e12", "-1"])
@pytest.mark.parametrize("name", ["start-deadline", "resync", "heartbeat", "shutdown-grace", "history"])
def test_a_time_that_no_clock_could_reach_is_refused(name: str, value: str) -> None:
    with pytest.raises(ValidationError, match=r"Input should be (greater|less) than"):
        settings.load([f"--{name}={value}"])


@pytest.mark.find(42)
@pytest.mark.parametrize(
    ("names", "unknown"),
    [
        (("SANDBOX_LISTEN", "sandbox_data_dir", "SANDBOX_TLS_CERT", "PATH", "IS_SANDBOX"), {}),
        (
            tuple(f"SANDBOX_{one}" for one in ("SERVER", "TOKEN", "TLS", "CA_FILE", "NAMESPACE", "CLIENT_TOKEN_FILE")),
            {},
        ),
        (("SANDBOX_LISTN",), {"SANDBOX_LISTN": "SANDBOX_LISTEN"}),
        (("SANDBOX_ENCRYPTION_KEYFILE",), {"SANDBOX_ENCRYPTION_KEYFILE": "SANDBOX_ENCRYPTION_KEY_FILE"}),
        (("Sandbox_Zzz", "SANDBOX_"), {"Sandbox_Zzz": "", "SANDBOX_": ""}),
        (("SANDBOX_LISTEN_PORT",), {"SANDBOX_LISTEN_PORT": "SANDBOX_LISTEN"}),
    ],
)
def test_a_variable_with_the_prefix_that_is_no_setting_is_found(
    names: tuple[str, ...], unknown: dict[str, str]
) -> None:
    assert settings.unknown(dict.fromkeys(names, "canary")) == unknown


@pytest.mark.find(42)
@pytest.mark.parametrize("service", ["SANDBOX", "SANDBOX_A1_SERVICE", "SANDBOX_LISTEN"])
def test_the_variables_of_a_kubernetes_service_are_no_mistake(service: str) -> None:
    ends = ["SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_APP_1", "PORT", "PORT_3000_TCP"]
    ends += [f"PORT_3000_TCP_{one}" for one in ("PROTO", "PORT", "ADDR")]
    links = {f"{service}_{end}": "canary" for end in ends}
    assert settings.unknown(links) == {}
    assert settings.unknown({**links, "SANDBOX_OTHER_PORT": "1", f"{service}_PORTS": "1"}).keys() == {
        "SANDBOX_OTHER_PORT",
        f"{service}_PORTS",
    }

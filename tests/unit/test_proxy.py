"""Which proxy leads to the API server: the rules of kubectl, which are those of Go's httpproxy."""

import pytest
from sandbox_server.engines.kubernetes import proxy

pytestmark = pytest.mark.find(27)
P = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("server", "environment", "found"),
    [
        ("https://k.example", {"HTTPS_PROXY": P}, P),
        ("https://k.example", {"https_proxy": P}, P),
        ("https://k.example", {"HTTPS_PROXY": "", "https_proxy": P}, P),
        ("https://k.example", {"HTTPS_PROXY": P, "https_proxy": "http://other:1"}, P),
        ("https://k.example", {"HTTPS_PROXY": "proxy.example:3128"}, P),
        ("https://k.example", {"HTTP_PROXY": P, "ALL_PROXY": P}, None),
        ("http://k.example", {"HTTP_PROXY": P}, P),
        ("http://k.example", {"HTTPS_PROXY": P}, None),
        ("https://k.example", {}, None),
        ("https://localhost:6443", {"HTTPS_PROXY": P}, None),
        ("https://127.1.2.3:6443", {"HTTPS_PROXY": P}, None),
        ("https://[::1]:6443", {"HTTPS_PROXY": P}, None),
        ("https://10.0.0.1:6443", {"HTTPS_PROXY": P}, P),
    ],
)
def test_the_proxy_of_the_environment_is_found(server: str, environment: dict[str, str], found: str | None) -> None:
    assert proxy.find(server, "", environment) == found


@pytest.mark.parametrize(
    ("server", "exceptions", "direct"),
    [
        ("https://k.example", "*", True),
        ("https://k.example", "k.example", True),
        ("https://k.example", " other , K.Example ", True),
        ("https://a.k.example", "k.example", True),
        ("https://ak.example", "k.example", False),
        ("https://k.example", ".k.example", False),
        ("https://a.k.example", ".k.example", True),
        ("https://a.k.example", "*.k.example", True),
        ("https://k.example", "*.k.example", False),
        ("https://k.example", "example.", False),
        ("https://k.example", "", False),
        ("https://k.example", ",", False),
        ("https://k.example", ":443", False),
        ("https://k.example", "k.example:443", True),
        ("https://k.example:6443", "k.example:6443", True),
        ("https://k.example:6443", "k.example:443", False),
        ("http://k.example", "k.example:80", True),
        ("https://10.1.2.3", "10.1.2.3", True),
        ("https://10.1.2.3", "10.1.2.4", False),
        ("https://10.1.2.3:6443", "10.1.2.3:6443", True),
        ("https://10.1.2.3", "10.0.0.0/8", True),
        ("https://10.1.2.3", "10.1.2.3/8", True),
        ("https://11.1.2.3", "10.0.0.0/8", False),
        ("https://k.example", "10.0.0.0/8", False),
        ("https://10.1.2.3", "10.0.0.0/99", False),
        ("https://10.1.2.3", "2.3", True),
        ("https://[fd00::1]", "fd00::1", True),
        ("https://[fd00::1]", "fd00::/8", True),
        ("https://[fd00::1]", "[fd00::1]", True),
        ("https://[fd00::1]:6443", "[fd00::1]:6443", True),
        ("https://[fd00::1]:6443", "[fd00::1]:443", False),
        ("https://[fd00::1]", "fd00::2", False),
    ],
)
def test_no_proxy_is_read_as_go_reads_it(server: str, exceptions: str, direct: bool) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        environment = {"HTTPS_PROXY": P, "HTTP_PROXY": P, name: exceptions}
        assert (proxy.find(server, "", environment) is None) == direct


def test_the_proxy_of_the_kubeconfig_comes_first_and_has_no_exceptions() -> None:
    environment = {"HTTPS_PROXY": "http://other:1", "NO_PROXY": "*"}
    assert proxy.find("https://127.0.0.1", P, environment) == P


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("socks5://u:canary@proxy.example:1080", "SOCKS"),
        ("socks5h://proxy.example:1080", "SOCKS"),
        ("ftp://proxy.example", "must be a URL"),
        ("http://", "must be a URL"),
        ("http:///canary", "must be a URL"),
        ("http://proxy.example:canary", "must be a URL"),
        ("http://proxy.example:99999", "must be a URL"),
        ("http://proxy.example:0", "must be a URL"),
        ("http://[::1", "must be a URL"),
        ("http://u:canary\n@proxy.example", "must be a URL"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_refused_without_showing_it(bad: str, said: str) -> None:
    for name, given, environment in (("proxy-url", bad, {}), ("HTTPS_PROXY", "", {"HTTPS_PROXY": bad})):
        with pytest.raises(ValueError, match=f"^{name}: .*{said}") as refused:
            proxy.find("https://k.example", given, environment)
        assert "canary" not in str(refused.value)
        assert "proxy.example" not in str(refused.value).replace("http://proxy.example:3128", "")


def test_a_proxy_without_a_scheme_is_no_url_of_a_kubeconfig() -> None:
    with pytest.raises(ValueError, match="proxy-url"):
        proxy.find("https://k.example", "proxy.example:3128", {})

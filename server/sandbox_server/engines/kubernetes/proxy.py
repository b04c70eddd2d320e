"""The HTTP proxy on the way to the API server: the kubeconfig's, else the environment's, by the rules of kubectl.

These are the rules of Go (golang.org/x/net/http/httpproxy). They differ from Python's: loopback is never proxied, a name in
NO_PROXY covers the names below it, and NO_PROXY may have networks and ports.
"""

import contextlib
import ipaddress
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

PORTS = {"http": 80, "https": 443}


def find(server: str, given: str, environment: Mapping[str, str]) -> str | None:
    """Returns the proxy for the URL `server`, None for a direct way. `given` is the `proxy-url` of the kubeconfig.

    Raises ValueError for a proxy that cannot be used, without showing it: it may hold a password.
    """
    if given:
        return _usable("proxy-url", given)
    to = urlsplit(server)
    name = f"{to.scheme}_proxy"
    found = environment.get(name.upper()) or environment.get(name) or ""
    if not found or _direct(to, environment.get("NO_PROXY") or environment.get("no_proxy") or ""):
        return None
    return _usable(name.upper(), found if "://" in found else f"http://{found}")


def _usable(name: str, proxy: str) -> str:
    if proxy.startswith("socks"):
        raise ValueError(f"{name}: SOCKS proxies are not supported: give one that speaks HTTP")
    with contextlib.suppress(ValueError):
        parts = urlsplit(proxy)
        # Reading the port raises ValueError for a bad one.
        if parts.scheme in PORTS and parts.hostname and (parts.port is None or parts.port > 0) and proxy.isprintable():
            return proxy
    raise ValueError(f"{name}: must be a URL such as http://proxy.example:3128")


def _direct(to: SplitResult, exceptions: str) -> bool:
    """Whether the server is reached without a proxy: it is in NO_PROXY, or on loopback."""
    host, port = (to.hostname or "").rstrip("."), to.port or PORTS.get(to.scheme, 0)
    address = _address(host)
    if host == "localhost" or (address and address.is_loopback):
        return True
    words = [one.strip().lower() for one in exceptions.split(",")]
    return any(_matches(one, host, address, port) for one in words if one)


def _matches(word: str, host: str, address: "_Address | None", port: int) -> bool:
    """Whether one entry of NO_PROXY covers the server."""
    if word == "*":
        return True
    if "/" in word:
        try:
            return address is not None and address in ipaddress.ip_network(word, strict=False)
        except ValueError:
            return False
    named, its_port = word, ""
    if word.startswith("[") or word.count(":") == 1:
        named, _, its_port = word.rpartition(":") if not word.endswith("]") else (word, "", "")
    if its_port and its_port != str(port):
        return False
    if (fixed := _address(named.strip("[]"))) is not None:
        return fixed == address
    name = named.removeprefix("*")
    return bool(name) and (host.endswith("." + name.removeprefix(".")) or host == name)


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _address(host: str) -> _Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None

"""Reads a kubeconfig as kubectl does. What the `kubernetes` package silently ignores is supported here, or refused."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from kubernetes.aio.config import ConfigException, kube_config

EARLY = timedelta(minutes=5)
"""How long before its expiry a plugin's credential is replaced; the package does the same for other kinds."""
VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
PROVIDERS = ("", "gcp", "oidc")
"""The auth-providers that the package supports. For any other it would send no credentials."""
HEADER_SAFE = "!#$&'*+-.^_`|~"
"""The characters that the name of an HTTP header may have besides letters and digits; client-go escapes all others."""


_untyped: Any = kube_config


class Loader(kube_config.KubeConfigLoader):
    """Reads the current context of a kubeconfig. Its methods raise ConfigException."""

    _user: Any
    _current_context: Any

    def __init__(self, path: Path, plugin_within: float) -> None:
        """`plugin_within`: seconds that an exec plugin may take."""
        if not path.is_file():
            raise ConfigException(f"{path} is not a file")
        super().__init__(config_dict=_untyped.KubeConfigMerger(str(path)).config)  # type: ignore[no-untyped-call]
        self._folder = path.absolute().parent
        self._plugin_within = plugin_within
        self._until: datetime | None = None
        name = self._current_context["context"].safe_get("user")
        if not name:
            raise ConfigException("the current context names no user")
        if self._user is None:
            raise ConfigException(f"there is no user {name!r}, which the current context names")
        if (self.provider or "") not in PROVIDERS:
            raise ConfigException(f"the auth-provider {self.provider!r} is not supported: use an exec plugin")

    def impersonation(self) -> list[tuple[str, str]]:
        """Returns the headers that say for whom the user acts."""
        user = self._user.value
        groups, extra = user.get("as-groups") or [], user.get("as-user-extra") or {}
        headers = [("Impersonate-User", user.get("as") or ""), ("Impersonate-Uid", user.get("as-uid") or "")]
        headers += [("Impersonate-Group", one) for one in groups]
        headers += [
            (f"Impersonate-Extra-{quote(key, HEADER_SAFE)}", one) for key, several in extra.items() for one in several
        ]
        headers = [(name, value) for name, value in headers if value]
        if headers and not user.get("as"):
            raise ConfigException("as-groups, as-uid and as-user-extra need an `as`")
        if not all(isinstance(value, str) and value.isprintable() for _, value in headers):
            raise ConfigException("as, as-uid, as-groups and as-user-extra must be printable text")
        return headers

    async def load_from_exec_plugin(self) -> bool:
        """Takes the token or the certificate of the plugin, unless it still has one that is valid."""
        if self._until is not None and datetime.now(UTC) < self._until - EARLY:
            return True
        status = await _run(self._user["exec"].value, self._folder, self._plugin_within)
        token, chain, key = (status.get(one) for one in ("token", "clientCertificateData", "clientKeyData"))
        if not token and not (chain and key):
            raise ConfigException("exec: the plugin gave neither a token nor a certificate with its key")
        if token:
            self.token = f"Bearer {token}"
        if chain and key:
            self.cert_file, self.key_file = (_file(one) for one in (chain, key))
        if status.get("expirationTimestamp"):
            self._until = _untyped.parse_rfc3339(status["expirationTimestamp"])
        return True


def _file(content: str) -> str:
    return str(_untyped.FileOrData({"data": content}, None, "data", base64_file_content=False).as_file())


async def _run(plugin: Mapping[str, Any], folder: Path, within: float) -> Mapping[str, Any]:
    """Runs a plugin without a terminal and returns the status that it prints."""
    command, version = str(plugin.get("command") or ""), plugin.get("apiVersion")
    if not command or version not in VERSIONS:
        raise ConfigException(f"exec: it needs a command, and an apiVersion that is one of {', '.join(VERSIONS)}")
    if plugin.get("interactiveMode") == "Always":
        raise ConfigException(f"exec: {command} needs somebody at a terminal (interactiveMode: Always)")
    given = {"apiVersion": version, "kind": "ExecCredential", "spec": {"interactive": False}}
    env = {one["name"]: one["value"] for one in plugin.get("env") or []}
    # As in kubectl, a relative path is relative to the kubeconfig.
    program = str(folder / command) if "/" in command else command
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            *(plugin.get("args") or []),
            env={**os.environ, **env, "KUBERNETES_EXEC_INFO": json.dumps(given)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        hint = " ".join(str(plugin.get("installHint") or "").split())
        raise ConfigException(f"exec: {command}: {error.strerror}{hint and '. '}{hint}") from None
    try:
        async with asyncio.timeout(within):
            printed, complaints = await process.communicate()
    except (TimeoutError, asyncio.CancelledError) as error:
        # With its child processes, which would keep the pipes open.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        if isinstance(error, asyncio.CancelledError):
            raise
        raise ConfigException(f"exec: {command} did not end within {within:.0f} s") from None
    if process.returncode:
        words = " ".join(complaints.decode(errors="replace").split())[:500]
        raise ConfigException(f"exec: {command} ended with {process.returncode}: {words or 'it says nothing'}")
    try:
        answer = json.loads(printed)
        status = answer["status"]
        if answer["apiVersion"] == version and answer["kind"] == "ExecCredential" and isinstance(status, dict):
            return status
    except (ValueError, TypeError, KeyError):
        pass
    # The message must not quote the output, which may hold a credential.
    raise ConfigException(f"exec: what {command} printed is no ExecCredential of {version} with a status")

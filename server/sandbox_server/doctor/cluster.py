"""Checks the cluster: that it answers, its clock, and in each namespace that it exists and what the service may do."""

from collections.abc import Sequence
from contextlib import AsyncExitStack

from sandbox_server import engines
from sandbox_server.doctor import admission, classes, clock
from sandbox_server.doctor.examination import Check, Examination, Failed
from sandbox_server.doctor.report import Result
from sandbox_server.domain.phase import Reason
from sandbox_server.engines.kubernetes import inspection, preflight, rights
from sandbox_server.engines.kubernetes.namespace import Namespace
from sandbox_server.engines.kubernetes.resources import Kind, Reference
from sandbox_server.settings import Settings


async def examine(examination: Examination, settings: Settings, namespaces: Sequence[str]) -> None:
    """Checks the cluster of the settings. `namespaces` is empty if the token file cannot be used."""
    async with AsyncExitStack() as opened:
        cluster = _Cluster(settings, opened)
        await examination.check("pod-patch", "", cluster.pod_patch)
        answers = await examination.check("cluster", "", cluster.answers)
        away = "" if answers else "the cluster does not answer"
        await examination.check("clock", "cluster", cluster.clock, needs=away)
        for name in dict.fromkeys((settings.storage_class or classes.DEFAULT, *settings.allowed_storage_classes)):
            await examination.check("storage class", name, cluster.storage_class, needs=away)
        name = settings.ingress_class or classes.DEFAULT
        await examination.check("ingress class", name, cluster.ingress_class, needs=away)
        needs = away or ("" if namespaces else "the token file cannot be used")
        for name in namespaces or ("",):
            exists = await examination.check("namespace", name, cluster.namespace, needs=needs)
            in_it = needs or ("" if exists else "the namespace is missing or is being removed")
            await examination.check("rights", name, cluster.rights, needs=in_it)
            await examination.check("access", name, cluster.access, needs=in_it)
            await examination.check("verification", name, cluster.verification, needs=in_it)
            await examination.check("secrets", name, cluster.secrets, needs=in_it)
            await examination.check("pod security", name, cluster.pod_security, needs=in_it)
            await examination.check("pod", name, cluster.pod, needs=in_it)


class _Cluster:
    """The checks after `answers` need it. The subject of a check of a namespace is its name."""

    def __init__(self, settings: Settings, opened: AsyncExitStack) -> None:
        """`opened` closes the connections."""
        self._settings = settings
        self._opened = opened

    async def pod_patch(self, check: Check) -> list[Result]:
        preflight.check(self._settings.kubernetes)
        return [check.ok("applies to every sandbox" if self._settings.pod_patch else "not used")]

    async def answers(self, check: Check) -> list[Result]:
        connected = inspection.connected(self._settings.kubernetes, self._settings.pace)
        try:
            self._api = await self._opened.enter_async_context(connected)
        except ValueError as error:
            raise Failed(str(error), "outside a cluster, give a kubeconfig that kubectl accepts") from None
        try:
            self._server = await inspection.server(self._api)
        except engines.Unreachable as error:
            raise Failed(str(error), "see whether `kubectl version` answers on this machine") from None
        except engines.Refused as error:
            message = f"the API server refuses the credentials: {error}"
            raise Failed(
                message, "give a kubeconfig with valid credentials; `kubectl auth whoami` tries them"
            ) from None
        user = f"; the service is {self._server.user}" if self._server.user else ""
        return [check.ok(f"Kubernetes {self._server.version} answers{user}")]

    async def clock(self, check: Check) -> list[Result]:
        return [clock.judge(check, self._server.ahead)]

    async def storage_class(self, check: Check) -> list[Result]:
        return await classes.storage(check, self._api)

    async def ingress_class(self, check: Check) -> list[Result]:
        return await classes.ingress(check, self._api)

    async def namespace(self, check: Check) -> list[Result]:
        name = check.subject
        try:
            ends = await Namespace(self._api, name).look()
        except engines.Refused:
            why = "the service may not get it (an optional right: deploy/namespaces.yaml)"
            return [check.not_checked(why, f"see `kubectl get namespace {name}`")]
        if ends is None:
            return [check.ok("exists")]
        if ends.reason is Reason.NAMESPACE_MISSING:
            raise Failed("does not exist", f"run `kubectl create namespace {name}`, then {_grant(name)}")
        raise Failed(ends.message, "wait until it is gone, or give the tenant another namespace")

    async def rights(self, check: Check) -> list[Result]:
        """Checks each verb of the Role. Where none is allowed, the Role is not bound."""
        name = check.subject
        number = sum(map(len, rights.ROLE.values()))
        missing = await inspection.missing_rights(self._api, name)
        if not missing:
            return [check.ok(f"all {number} rights of the Role are granted")]
        if len(missing) == number:
            bind = f"kubectl create rolebinding -n {name} sandbox-service --role=sandbox-service"
            remedy = f"{_grant(name)}, then `{bind} {_subject(self._server.user)}`"
            raise Failed("no right of the Role is granted", remedy)
        remedy = _grant(name)
        return [
            check.failure(f"the service may not {verb} {kind.plural}{kind.group and f'.{kind.group}'}", remedy)
            for kind, verb in missing
        ]

    async def access(self, check: Check) -> list[Result]:
        """Checks the rights to work in pods. An operator may leave out all of them."""
        number = sum(map(len, rights.ACCESS.values()))
        missing = await inspection.missing_access(self._api, check.subject)
        if not missing:
            return [check.ok(f"all {number} rights to work in sandboxes are granted")]
        if len(missing) == number:
            return [check.ok("access not granted: SandboxAccess answers ACCESS_NOT_GRANTED (deploy/access.yaml)")]
        what = f"access not granted: the service may not {', '.join(missing)}, and SandboxAccess answers ACCESS_NOT_GRANTED"
        remedy = f"set access in the chart, or run `kubectl apply -n {check.subject} -f deploy/access.yaml`"
        return [check.warning(what, remedy)]

    async def verification(self, check: Check) -> list[Result]:
        """Checks the rights to verify snapshots. An operator may leave them out, and without access has none of them."""
        missing = await inspection.missing_verification(self._api, check.subject)
        if not missing:
            return [check.ok("all rights to verify snapshots are granted")]
        if "create pods" in missing:
            return [check.ok("not granted: VerifySnapshot fails with FORBIDDEN (deploy/verification.yaml)")]
        remedy = f"set verification in the chart, or run `kubectl apply -n {check.subject} -f deploy/verification.yaml`"
        return [check.warning(f"the service may not {', '.join(missing)}: a verification never ends", remedy)]

    async def secrets(self, check: Check) -> list[Result]:
        """Checks that the Secrets of the settings, which the service does not make, are in the namespace."""
        settings, namespace = self._settings.kubernetes, check.subject
        names = [one for one in (settings.tls_secret, *settings.pull_secrets) if one]
        if not names:
            return [check.ok("tls-secret and pull-secrets name none")]
        try:
            found = [await self._api.find(Reference(Kind.SECRET, namespace, one)) for one in names]
        except engines.Refused:
            return [check.not_checked("the service may not get Secrets", f"see `kubectl get secrets -n {namespace}`")]
        remedy = f"copy it into the namespace, or correct tls-secret and pull-secrets; see `kubectl get secrets -n {namespace}`"
        missing = [name for name, secret in zip(names, found, strict=True) if secret is None]
        failures = [check.failure(f"there is no Secret {one}", remedy) for one in missing]
        return failures or [check.ok(f"{', '.join(names)}: there")]

    async def pod_security(self, check: Check) -> list[Result]:
        return await admission.pod_security(check, self._api)

    async def pod(self, check: Check) -> list[Result]:
        return await admission.pod(check, self._api, self._settings)


def _grant(namespace: str) -> str:
    """Returns how to grant the Role: both ways to install the service."""
    return f"upgrade the chart with {namespace} in tenantNamespaces, or run `kubectl apply -n {namespace} -f deploy/role.yaml`"


def _subject(user: str) -> str:
    """Returns the user as `kubectl create rolebinding` takes it."""
    account = user.removeprefix("system:serviceaccount:")
    return f"--serviceaccount={account}" if account != user else f"--user={user or 'USER'}"

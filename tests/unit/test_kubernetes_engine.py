"""What the engine leaves alone, and what it forgets."""

from typing import Any

import pytest
from sandbox_server.domain.observed import Fault
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import DesiredState, Reason
from sandbox_server.engines.kubernetes import resources
from sandbox_server.engines.kubernetes.engine import KubernetesEngine
from sandbox_server.engines.kubernetes.view import View
from sandbox_server.settings import Settings

from tests.support import samples
from tests.support.objects import Api, made

SANDBOX = samples.sandbox(desired=DesiredState.DELETED)
NAMES = resources.names(SANDBOX)
ENDS = Fault(Reason.NAMESPACE_TERMINATING, "it is being removed")


@pytest.fixture
def api() -> Api:
    return Api(made(SANDBOX, SANDBOX.id), made(SANDBOX, NAMES.secret.name))


@pytest.fixture
def view(api: Api) -> View:
    """The view of the sandbox's namespace, which has been listed."""
    calls: Any = api
    view = View(calls, SANDBOX.namespace, lambda _: None, Pace())
    for informer in view.informers:
        informer.contact.listed = True
    view.stateful_sets.shown(api.objects[SANDBOX.id])
    return view


@pytest.fixture
def engine(api: Api, view: View) -> KubernetesEngine:
    engine = KubernetesEngine(Settings().kubernetes, Pace(), "image")
    calls: Any = api
    engine._api = calls
    engine._held = lambda _namespace: 1
    engine._views[SANDBOX.namespace] = view
    return engine


async def test_deleted_sandbox_is_forgotten_once_its_objects_are_asked_to_go(
    engine: KubernetesEngine, view: View, api: Api
) -> None:
    view.secrets.answered(api.objects[NAMES.secret.name], 0)
    view.supplied(SANDBOX)
    await engine.delete(SANDBOX)
    assert ("delete", NAMES.secret.name) in api.calls
    assert (view.secrets.get(NAMES.secret.name), view._supplied) == (None, {})


@pytest.mark.fault(58)
async def test_nothing_is_asked_to_go_in_a_namespace_that_is_being_removed(
    engine: KubernetesEngine, view: View, api: Api
) -> None:
    view.namespace.ends = ENDS
    await engine.delete(SANDBOX)
    await engine.remove_workload(SANDBOX)
    assert api.calls == []
    view.namespace.ends = None
    await engine.remove_workload(SANDBOX)
    assert api.calls == [("delete", SANDBOX.id)]

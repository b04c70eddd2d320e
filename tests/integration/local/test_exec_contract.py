"""The contract of execs on the local engine, with and without bubblewrap, and who may use them."""

import json
from pathlib import Path

import grpc
import pytest
from sandbox.v1 import access_pb2 as pb
from sandbox_server.domain.phase import Phase
from sandbox_server.domain.spec import SandboxSpec

from tests.contract.execs import *  # noqa: F403 - the tests themselves
from tests.contract.execs import A, working
from tests.support.local import LocalRig
from tests.support.working import Worker, refusal


@pytest.fixture
def idle(rig: LocalRig) -> SandboxSpec:
    return rig.ground.script("exec sleep MARK")


@pytest.mark.parametrize("isolation", ["isolated"])
@pytest.mark.slow
async def test_other_tenants_and_operators_that_only_read_have_no_access(
    worker: Worker, rig: LocalRig, tmp_path: Path
) -> None:
    started = await worker.shell("true", exec_id="own")
    tokens = {name: f"token-of-the-{name}-1" for name in ("default", "other", "operator")}
    content = {
        "tenants": [
            {"name": "default", "namespaces": ["default"], "tokens": [tokens["default"]]},
            {"name": "other", "namespaces": ["other"], "tokens": [tokens["other"]]},
        ],
        "operators": [{"name": "operator", "tokens": [tokens["operator"]]}],
    }
    (tmp_path / "tokens").write_text(json.dumps(content))
    rig.settings["token_file"] = tmp_path / "tokens"
    await rig.restart()
    await rig.settled(A, Phase.RUNNING)
    outcomes = {}
    async with working(rig) as later:
        later.names = {"sandbox_id": A, "namespace": "default"}
        request = {**later.names, "exec_id": "own"}
        calls = {
            "StartExec": pb.StartExecRequest(**request, command=["true"]),
            "AttachExec": pb.AttachExecRequest(**request),
            "SignalExec": pb.SignalExecRequest(**request, signal="TERM"),
            "ResizeExec": pb.ResizeExecRequest(**request, terminal=pb.Terminal(rows=1, cols=1)),
            "GetExec": pb.GetExecRequest(**request),
            "ListExecs": pb.ListExecsRequest(**later.names),
            "WaitExec": pb.WaitExecRequest(**request),
        }
        for name, token in tokens.items():
            for method, message in calls.items():
                call = getattr(later.stub, method)(
                    message, timeout=20, metadata=(("authorization", f"Bearer {token}"),)
                )
                try:
                    found = [one async for one in call] if method == "AttachExec" else [await call]
                    outcomes[name, method] = str(len(found) > 0)
                except grpc.RpcError as error:
                    outcomes[name, method] = refusal(error)[1]
    assert {outcomes["other", method] for method in calls} == {"SANDBOX_NOT_FOUND"}
    assert {outcomes["operator", method] for method in calls} == {"OPERATOR_READS_ONLY"}
    reused = outcomes.pop(("default", "StartExec"))
    assert reused == "REQUEST_ID_REUSED"
    assert outcomes.pop(("default", "ResizeExec")) == "NO_TERMINAL"
    assert {outcome for (name, _), outcome in outcomes.items() if name == "default"} == {"True"}
    assert started.exec_id == "own"

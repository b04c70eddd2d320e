"""A token file that is replaced while the service runs."""

import json
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import Client, errors, watch

from tests.support.service import Service
from tests.support.waiting import PATIENCE

A, B = "token-of-the-tenant-a", "token-of-the-tenant-b"
SLEEP = pb.SandboxSpec(command=["/bin/sleep", "1000"])


def put(path: Path, **tokens: list[str]) -> None:
    """Tenants by their names, each with a namespace, as a rename puts them in place."""
    listed = [{"name": name, "namespaces": [f"{name}-ns"], "tokens": several} for name, several in tokens.items()]
    path.with_suffix(".new").write_text(json.dumps({"tenants": listed}))
    path.with_suffix(".new").rename(path)


def accepted(service: Service, token: str) -> bool:
    with service.client(token=token) as client:
        try:
            client.page()
        except errors.Unauthenticated:
            return False
    return True


@pytest.mark.slow
@pytest.mark.find(41)
def test_replaced_token_file_counts_from_the_next_call_on(make_service: Callable[..., Service], tmp_path: Path) -> None:
    path = tmp_path / "tenants.json"
    put(path, a=[A])
    service = make_service("--token-file", str(path), "--log-format", "json").start(wait=False)
    with Client(service.address, token=A, timeout=20 * PATIENCE, contact_timeout=20 * PATIENCE) as client:
        client.page()
    assert not accepted(service, B)

    put(path, a=[A], b=[B])
    assert accepted(service, A)
    assert accepted(service, B)
    # The new tenant's namespace is there at once.
    with service.client(token=B) as client:
        made = client.create("demo", spec=SLEEP)
        assert made.namespace == "b-ns"
        client.wait_until(made.sandbox_id, "RUNNING", timeout=20 * PATIENCE, fail_on_error=True)

    # The file is half written: the former tokens stay valid.
    path.write_text(path.read_text()[:-20])
    assert accepted(service, A)
    assert accepted(service, B)
    path.unlink()
    assert accepted(service, A)
    put(path, a=["sha256:" + "0" * 64], b=[B])
    assert not accepted(service, A)
    assert accepted(service, B)

    said = service.log.read_text()
    events = [json.loads(one) for one in said.splitlines()]
    reloads = [(one["event"], one["files"]) for one in events if one["event"].startswith("files_")]
    assert reloads == [
        (event, [str(path)]) for event in ("files_reloaded", *["files_not_reloaded"] * 2, "files_reloaded")
    ]
    assert A not in said
    assert B not in said


@pytest.mark.find(41)
@pytest.mark.slow
def test_open_watch_goes_on_when_its_token_is_removed(make_service: Callable[..., Service], tmp_path: Path) -> None:
    path = tmp_path / "tenants.json"
    put(path, a=[A, B])
    service = make_service("--token-file", str(path)).start(wait=False)
    with (
        Client(service.address, token=A, timeout=20 * PATIENCE, contact_timeout=20 * PATIENCE) as client,
        service.client(token=B) as other,
    ):
        client.page()
        events = client.watch()
        assert next(events).kind is watch.Kind.SYNCED
        put(path, a=[B])
        made = other.create("demo", spec=SLEEP)
        assert next(one.status.sandbox_id for one in events if one.status) == made.sandbox_id
        events.close()
        with pytest.raises(errors.Unauthenticated) as refused:
            client.page()
        assert refused.value.code is grpc.StatusCode.UNAUTHENTICATED

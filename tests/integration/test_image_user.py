"""The image's command, user and health check with the files that a Secret volume has, as the README configures them."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts import image_check, image_run
from tests.conftest import free_port
from tests.integration.test_security import certificate

STEPS = image_check.read((image_run.ROOT / "Dockerfile").read_text())
USER = next(one.rest for one in STEPS if one.word == "USER")
ENTRYPOINT = next(one for one in STEPS if one.word == "ENTRYPOINT").arguments()
HEALTH = json.loads(next(one for one in STEPS if one.word == "HEALTHCHECK").rest.partition("CMD ")[2])
BIN = Path(sys.executable).parent


@pytest.fixture
def ground() -> Iterator[Path]:
    """Outside pytest's own folder, which another user cannot enter."""
    folder = Path(tempfile.mkdtemp(prefix="image-user"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def environment(ground: Path, mode: int) -> dict[str, str]:
    chain, key = certificate(ground / "made", "served")
    tenants = {"tenants": [{"name": "a", "namespaces": ["a-ns"], "tokens": [f"sha256:{'0' * 64}"]}]}
    content = {
        "env.keys": base64.b64encode(b"k" * 32),
        "tenants.json": json.dumps(tenants).encode(),
        "tls.crt": chain.read_bytes(),
        "tls.key": key.read_bytes(),
    }
    volume = image_run.secret_volume(ground / "secret", content, mode, USER)
    data = ground / "data"
    data.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(data, *map(int, USER.split(":")))
    return {
        **os.environ,
        "HOME": str(data),
        "SANDBOX_DATA_DIR": str(data),
        "SANDBOX_LISTEN": f"0.0.0.0:{free_port()}",
        "SANDBOX_ENCRYPTION_KEY_FILE": str(volume / "env.keys"),
        "SANDBOX_TOKEN_FILE": str(volume / "tenants.json"),
        "SANDBOX_TLS_CERT": str(volume / "tls.crt"),
        "SANDBOX_TLS_KEY": str(volume / "tls.key"),
    }


@pytest.mark.find(24)
@pytest.mark.find(46)
@pytest.mark.parametrize("mode", image_run.MODES, ids=oct)
def test_the_image_serves_with_the_files_of_a_secret_volume_and_its_probe_says_so(ground: Path, mode: int) -> None:
    env, begin = environment(ground, mode), image_run.command(USER)
    serve, probe = ([*begin, str(BIN / words[0]), *words[1:]] for words in (ENTRYPOINT, HEALTH))
    with subprocess.Popen(serve, cwd=ground, env=env, stderr=subprocess.PIPE, text=True) as service:
        try:
            end = time.monotonic() + 30
            while subprocess.run(probe, env=env, cwd=ground, capture_output=True).returncode != 0:
                assert service.poll() is None, service.stderr and service.stderr.read()
                assert time.monotonic() < end
                time.sleep(0.1)
        finally:
            service.terminate()
            service.wait(30)
    assert subprocess.run(probe, env=env, cwd=ground, capture_output=True).returncode == 1


@pytest.mark.find(24)
@pytest.mark.parametrize("name", ["env.keys", "tenants.json", "tls.crt", "tls.key"])
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file that another user may not read")
def test_a_file_that_the_service_may_not_read_is_named_with_what_to_do(ground: Path, name: str) -> None:
    env = environment(ground, 0o444)
    (ground / "secret" / name).chmod(0o400)
    command = [*image_run.command(USER), str(BIN / "sandbox-server")]
    done = subprocess.run(command, env=env, cwd=ground, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    (said,) = done.stderr.splitlines()
    assert re.search(rf"{name}: Permission denied: the service runs as user 1001, group 1001; .*mode 0400", said)
    assert "fsGroup" in said

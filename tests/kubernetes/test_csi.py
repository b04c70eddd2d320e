"""CSI as these tests have it: the double is a driver."""

import subprocess
from pathlib import Path

from tests.kubernetes.csi.built import build
from tests.kubernetes.csi.driver import Driver

IMPLEMENTED = 58
"""Checks of csi-sanity that the double does not leave out."""


def test_the_double_passes_csi_sanity(tmp_path: Path) -> None:
    with Driver(tmp_path) as driver:
        places = [f"--csi.{one}dir={tmp_path / one}" for one in ("mount", "staging")]
        words = [build() / "csi-sanity", f"--csi.endpoint=unix://{driver.socket}", *places, "--ginkgo.no-color"]
        said = subprocess.run(words, capture_output=True, text=True)
    assert said.returncode == 0, said.stdout[-4000:]
    assert f"SUCCESS! -- {IMPLEMENTED} Passed | 0 Failed" in said.stdout, said.stdout[-500:]
    assert (driver.disks.volumes, driver.disks.snapshots) == ({}, {})

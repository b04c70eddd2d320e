"""What a scripted cluster does with a pod that counts what was restored: it runs the command of the pod in a real shell."""

import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Verifier:
    """`disk`: the folder that every claim gets which is made from a snapshot; None while the storage makes none.

    `shell`: the program that takes the place of /bin/sh. `ran` are the pods that have run.
    """

    disk: Path | None = None
    shell: tuple[str, ...] = ("/bin/sh",)
    ran: list[dict[str, Any]] = field(default_factory=list)

    def ended(self, pod: dict[str, Any], claim: dict[str, Any]) -> dict[str, Any] | None:
        """The status of a pod that has run to its end; None if it cannot run yet.

        The paths in its command are those of its mounts, and lead to folders of this machine.
        """
        if self.disk is None or claim["spec"]["dataSource"]["kind"] != "VolumeSnapshot":
            return None
        self.ran.append(pod)
        (container,) = pod["spec"]["containers"]
        assert pod["spec"]["volumes"][0]["persistentVolumeClaim"] == {"claimName": claim["metadata"]["name"]}
        disk, work = (one["mountPath"] for one in container["volumeMounts"])
        with tempfile.TemporaryDirectory() as folder:
            said = Path(folder) / "said"
            said.touch()
            (Path(folder) / "work").mkdir()
            places = {disk: str(self.disk), work: f"{folder}/work", container["terminationMessagePath"]: str(said)}
            words = [_placed(one.replace("$$", "$"), places) for one in container["command"]]
            assert words[0] == "/bin/sh"
            done = subprocess.run([*self.shell, *words[1:]], env={"PATH": "/usr/bin:/bin"}, check=False)
            message = said.read_text(errors="replace")
        end = {"exitCode": done.returncode, "reason": "Completed" if done.returncode == 0 else "Error"}
        state = {"terminated": end | {"message": message}}
        phase = "Succeeded" if done.returncode == 0 else "Failed"
        return {"phase": phase, "containerStatuses": [{"name": container["name"], "state": state}]}


def _placed(word: str, places: dict[str, str]) -> str:
    """A word of a command, with another path where it begins with that of a mount."""
    for path, place in places.items():
        if word == path or word.startswith(f"{path}/"):
            return place + word.removeprefix(path)
    return word

"""What a cluster does with a pod that counts what was restored: it runs the command of the pod to its end, in a real shell."""

import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PLAIN = ("/bin/sh",)


def ended(pod: dict[str, Any], disk: Path, shell: tuple[str, ...] = PLAIN) -> dict[str, Any]:
    """The end of the container of a pod whose first mount is `disk`: its exit code, and its last words.

    The paths in its command are those of its mounts, and lead to folders of this machine. `shell` takes the place of /bin/sh.
    """
    (container,) = pod["spec"]["containers"]
    mounts = [one["mountPath"] for one in container["volumeMounts"]]
    with tempfile.TemporaryDirectory() as folder:
        work, said = Path(folder) / "work", Path(folder) / "said"
        work.mkdir()
        said.touch()
        places = dict(zip(mounts, (disk, work), strict=True)) | {container["terminationMessagePath"]: said}
        words = [_placed(one.replace("$$", "$"), places) for one in container["command"]]
        assert words[0] == "/bin/sh"
        done = subprocess.run([*shell, *words[1:]], env={"PATH": "/usr/bin:/bin"}, check=False)
        message = said.read_text(errors="replace")
    reason = "Completed" if done.returncode == 0 else "Error"
    return {"exitCode": done.returncode, "reason": reason, "message": message}


def phase(end: dict[str, Any]) -> str:
    """The phase of a pod whose only container has ended so, and is not started again."""
    return "Failed" if end["exitCode"] else "Succeeded"


@dataclass
class Verifier:
    """Runs such pods in a scripted cluster.

    `disk`: the folder that every claim gets which is made from a snapshot; None while the storage makes none.
    `ran` are the pods that have run.
    """

    disk: Path | None = None
    shell: tuple[str, ...] = PLAIN
    ran: list[dict[str, Any]] = field(default_factory=list)

    def ended(self, pod: dict[str, Any], claim: dict[str, Any]) -> dict[str, Any] | None:
        """The status of a pod that has run to its end; None if it cannot run yet."""
        if self.disk is None or claim["spec"]["dataSource"]["kind"] != "VolumeSnapshot":
            return None
        assert pod["spec"]["volumes"][0]["persistentVolumeClaim"] == {"claimName": claim["metadata"]["name"]}
        self.ran.append(pod)
        end = ended(pod, self.disk, self.shell)
        (container,) = pod["spec"]["containers"]
        return {"phase": phase(end), "containerStatuses": [{"name": container["name"], "state": {"terminated": end}}]}


def _placed(word: str, places: dict[str, Path]) -> str:
    """A word of a command, with another path where it begins with that of a mount."""
    for path, place in places.items():
        if word == path or word.startswith(f"{path}/"):
            return f"{place}{word.removeprefix(path)}"
    return word

"""Runs a sandbox on a local engine as the user nobody. The argument is a folder that belongs to that user."""

import asyncio
import os
import sys
from pathlib import Path

# A path that the user nobody can read: the interpreter's own may be in root's home.
sys.base_prefix = "/usr"

from sandbox_server.domain.phase import Phase  # noqa: E402 - after what it is to see
from sandbox_server.engines.local import forks  # noqa: E402

from tests.support.local import LocalGround, LocalRig  # noqa: E402

forks._SCRIPT = ("/usr/bin/python3", *forks._SCRIPT[1:])

NOBODY = 65534
SCRIPT = "mkdir -p shut/in; chmod 0 shut; (sleep MARK & sleep MARK &); echo >up; exec sleep MARK"


async def story(folder: Path, isolate: bool) -> None:
    folder.mkdir()
    ground = LocalGround(folder, isolate)
    rig = LocalRig(ground, folder)
    await rig.start()
    await rig.create("a", spec=ground.script(SCRIPT))
    await rig.there(lambda: len(ground.marked()) == 3)
    before = ground.leader("a")
    await rig.restart()
    await rig.settled("a", Phase.RUNNING)
    assert (ground.leader("a"), len(ground.marked())) == (before, 3)
    sandbox = await rig.get("a")
    incarnation = await rig.engine.incarnation(sandbox)
    words = ("/bin/sh", "-c", "read -r line; echo $line; id -u; pwd; grep -c 'Cap.*:.0*$' /proc/self/status")
    async with rig.engine.enter(sandbox, incarnation, words) as entered:
        await entered.write(b"said\n")
        said = b""
        while read := await entered.read(100):
            said += read
    assert said.split()[:3] == [b"said", b"%d" % os.geteuid(), (b"/home/agent" if isolate else bytes(ground.home("a")))]
    assert said.split()[3] == b"5" or not isolate
    await rig.begin("a", Phase.STOPPED)
    await rig.settled("a", Phase.STOPPED)
    assert ground.marked() == []
    assert (ground.home("a") / "up").exists()
    await rig.delete("a")
    await rig.settled("a", Phase.TERMINATED)
    assert not ground.folder("a").exists()
    await rig.stop()


if __name__ == "__main__":
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    asyncio.run(story(Path(sys.argv[1]) / "isolated", True))
    asyncio.run(story(Path(sys.argv[1]) / "plain", False))

"""The next release replaces this one, replica by replica under load, and this one replaces it again."""

from pathlib import Path

import pytest
from sandbox_server.store import documents

from tests.upgrade import releases, rolling
from tests.upgrade.load import Load
from tests.upgrade.replicas import Replicas


@pytest.fixture
def following(tmp_path: Path) -> releases.Release:
    return releases.following(tmp_path / "next")


async def notes(replicas: Replicas) -> set[object]:
    """What the next release has stored with each sandbox that changes, in its document and in that of its spec."""
    found = [*(await replicas.documents()).items(), *(await replicas.specs()).items()]
    return {one.get("note") for name, one in found if not name.startswith("quiet")}


@pytest.mark.fault(77)
async def test_next_release_and_this_one_run_on_one_database_and_replace_one_another(
    replicas: Replicas, following: releases.Release
) -> None:
    async def beside(load: Load) -> None:
        """This release serves what the next one has recorded: by its number what it does not know."""
        older, newer = replicas.places[2], replicas.places[0]
        await rolling.until(lambda: releases.REASON in load.reasons[older.address] & load.reasons[newer.address])

    async def replaced(load: Load) -> None:
        async def noted() -> bool:
            return await notes(replicas) == {releases.NOTE}

        await rolling.until_async(noted)

    await rolling.roll(replicas, releases.present(), following, beside=beside, replaced=replaced)
    # What the next release has stored is there after this one has written each sandbox and each spec anew.
    assert await notes(replicas) == {releases.NOTE}
    versions = [one["version"] for name, one in (await replicas.documents()).items() if name.startswith("busy")]
    assert set(versions) == {documents.VERSION + 1}

"""Checks the database: that it answers, its schema, what its user may do, its keys, its schedules, its clock and its leases."""

import functools
from datetime import UTC, datetime

from sandbox_server import app, store
from sandbox_server.doctor import clock, files, leases, schedules
from sandbox_server.doctor.examination import Check, Examination, Failed, in_thread
from sandbox_server.doctor.report import Result
from sandbox_server.settings import Settings


async def examine(examination: Examination, settings: Settings, *, keys_usable: bool) -> None:
    """Checks the database of the settings."""
    database = _Database(settings)
    answers = await examination.check("database", "", database.answers)
    needs = "" if answers else "the database does not answer"
    usable = await examination.check("schema", "", database.schema, needs=needs)
    permitted = await examination.check("permissions", "database", database.permissions, needs=needs)
    if not (usable and permitted):
        needs = "the schema or the permissions are not as the service needs them"
    keys_failed = "" if keys_usable else "the keys cannot be used"
    await examination.check("stored keys", "", database.keys, needs=needs or keys_failed)
    await examination.check("schedules", "", database.schedules, needs=needs)
    if files.sqlite_file(settings) is None:
        await examination.check("clock", "database", database.clock, needs="" if answers else needs)
        await examination.check("leases", "", database.leases, needs=needs)


class _Database:
    """The other checks need `answers`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def answers(self, check: Check) -> list[Result]:
        try:
            self._found = await in_thread(functools.partial(store.inspect, self._settings.database))
        except (ValueError, OSError) as error:
            raise Failed(str(error), "check database-url, and that this machine reaches the database") from None
        return [check.ok(f"{self._found.product} answers")]

    async def schema(self, check: Check) -> list[Result]:
        schema = self._found.schema
        if schema is store.Schema.CURRENT:
            return [check.ok("this release can use it")]
        if schema is store.Schema.EMPTY:
            return [check.ok(schema.value)]
        message, _, remedy = schema.value.partition(": ")
        raise Failed(message, remedy)

    async def permissions(self, check: Check) -> list[Result]:
        remedy = "grant it to the user of database-url, or make that user the owner of the database"
        failures = [check.failure(f"the user may not {one}", remedy) for one in self._found.missing_rights]
        return failures or [check.ok("the user may do all that the service does")]

    async def keys(self, check: Check) -> list[Result]:
        """Checks that each stored environment can be decrypted."""
        stored = self._found.key_ids
        if not stored:
            return [check.ok("no environment is stored")]
        cipher = app.cipher(self._settings) if app.has_keys(self._settings) else None
        unknown = sorted(one.hex() for one in stored if cipher is None or not cipher.knows(one))
        if cipher is None or unknown:
            message = f"environments are encrypted with a key that is not given: {', '.join(unknown)}"
            raise Failed(message, "add that key to encryption-key-file, after the first")
        if not all(map(cipher.is_current, stored)):
            message = "environments are encrypted with a key that is not the first"
            return [check.warning(message, "run `sandbox-server rotate-keys`")]
        return [check.ok("each stored environment has its key")]

    async def schedules(self, check: Check) -> list[Result]:
        return schedules.judge(check, self._found.schedules, datetime.now(UTC))

    async def clock(self, check: Check) -> list[Result]:
        return [clock.judge(check, self._found.ahead)]

    async def leases(self, check: Check) -> list[Result]:
        engine, namespaces = self._settings.engine, files.namespaces(self._settings)
        return leases.judge(check, self._found.replicas, self._found.leases, engine, namespaces)

"""A sandbox as a backend of LangChain's Deep Agents. It needs the extra `langchain`: nothing else imports this module."""

from deepagents.backends.protocol import ExecuteResponse, FileDownloadResponse, FileUploadResponse
from deepagents.backends.sandbox import BaseSandbox

from sandbox_client import calls, errors, output
from sandbox_client.sync import Client

_WORDS_MOST = 32 * 1024
"""Bytes of a command that are an argument. A longer one is passed as input: the contract limits arguments."""
_MERGED = 'exec 2>&1; eval "$1"'
_MERGED_LONG = 'exec 2>&1; eval "$(cat)"'
_FAILURES = {
    "FILE_NOT_FOUND": "file_not_found",
    "NOT_A_FILE": "is_directory",
    "NOT_A_DIRECTORY": "invalid_path",
    "INVALID_FIELDS": "invalid_path",
    "PERMISSION_DENIED_IN_SANDBOX": "permission_denied",
}
"""What the protocol says for the reasons of the contract."""


class SandboxBackend(BaseSandbox):  # type: ignore[misc]
    """Runs the commands of an agent in a sandbox, and keeps its files there.

    The sandbox must run, and its image have a POSIX shell, grep and Python. A command has `time_limit` seconds unless the agent
    gives it another time; 0 is no limit. Of its output the last `most` bytes are kept.
    """

    def __init__(
        self,
        client: Client,
        sandbox: calls.Named,
        *,
        namespace: str = "",
        time_limit: int = 1800,
        most: int = 1024 * 1024,
    ) -> None:
        self._client = client
        self._sandbox_id, self._namespace = calls.target(sandbox, namespace)
        self._time_limit = time_limit
        self._most = most

    @property
    def id(self) -> str:
        """The id of the sandbox."""
        return self._sandbox_id

    def execute(self, command: str, *, timeout: int | None = None) -> ExecuteResponse:
        """Runs a command of the shell. Its output and its errors are one."""
        data = command.encode()
        time_limit = self._time_limit if timeout is None else timeout
        if len(data) <= _WORDS_MOST:
            done = self._run(_MERGED, command, time_limit=time_limit)
        else:
            done = self._run(_MERGED_LONG, data=data, time_limit=time_limit)
        text = done.stdout.decode(errors="replace")
        if done.reason != "EXIT":
            text += f"\n[the command was ended: {done.reason}]"
        return ExecuteResponse(output=text, exit_code=done.exit_code, truncated=done.truncated)

    def upload_files(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        """Writes files, and the directories that they need. Each has a result of its own."""
        return [FileUploadResponse(path=path, error=self._uploaded(path, data)) for path, data in files]

    def download_files(self, paths: list[str]) -> list[FileDownloadResponse]:
        """Reads files. Each has a result of its own."""
        return [self._downloaded(path) for path in paths]

    def _uploaded(self, path: str, data: bytes) -> str | None:
        if not path.startswith("/"):
            return "invalid_path"
        try:
            self._client.files.write(self._sandbox_id, path, data, parents=True, namespace=self._namespace)
        except errors.ServiceError as error:
            return _failure(error)
        return None

    def _downloaded(self, path: str) -> FileDownloadResponse:
        if not path.startswith("/"):
            return FileDownloadResponse(path=path, error="invalid_path")
        try:
            content = self._client.files.read(self._sandbox_id, path, namespace=self._namespace)
        except errors.ServiceError as error:
            return FileDownloadResponse(path=path, error=_failure(error))
        return FileDownloadResponse(path=path, content=content)

    def _run(self, script: str, *words: str, data: bytes | None = None, time_limit: int) -> output.Completed:
        return self._client.run(
            self._sandbox_id,
            ["/bin/sh", "-c", script, "sh", *words],
            input=data,
            time_limit=time_limit,
            most=self._most,
            namespace=self._namespace,
        )


def _failure(error: errors.ServiceError) -> str:
    """Returns why a file could not be read or written. Raises `error` if that is not the file's matter."""
    if error.reason not in _FAILURES:
        raise error
    return _FAILURES[error.reason]

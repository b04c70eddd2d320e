"""Encryption of environments at rest (AES-256-GCM, bound to the sandbox's uid, rotating keys), and keyed fingerprints."""

import base64
import hashlib
import hmac
import os
import secrets
import stat
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sandbox_server import files

KEY_BYTES = 32
_ID_BYTES = 4
_NONCE_BYTES = 12


class Cipher:
    """Encrypts with the first key and decrypts with every key.

    Encrypted data begins with the id of its key: 4 bytes of the hash of the key.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        """Raises ValueError if there is no key, or a key is not 32 bytes."""
        if not keys or any(len(key) != KEY_BYTES for key in keys):
            raise ValueError("encryption keys: at least one is needed, each 32 bytes in base64")
        self._keys = {hashlib.sha256(key).digest()[:_ID_BYTES]: key for key in keys}
        self._first = next(iter(self._keys))
        self._ciphers = {key_id: AESGCM(key) for key_id, key in self._keys.items()}

    @classmethod
    def from_text(cls, text: str) -> "Cipher":
        """Reads keys in base64, one a line or separated by commas. Raises ValueError, which does not show them."""
        try:
            keys = [base64.b64decode(word, validate=True) for word in text.replace(",", " ").split()]
        except ValueError:
            keys = []
        return cls(keys)

    @classmethod
    def from_file(cls, path: Path, create: bool = False) -> "Cipher":
        """Reads the keys from a file of the operator, or with `create` from the service's own file.

        The service makes its own file, with mode 0600, where there is none, and refuses it if others can read it. Raises
        ValueError.
        """
        if create:
            _make(path)
        keys = files.read("encryption-key-file", path)
        if create and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ValueError(f"key file {path} can be read by others: chmod 600 it, or name it in encryption-key-file")
        return cls.from_text(keys.decode(errors="replace"))

    def encrypt(self, env: Mapping[str, str], uid: str) -> bytes:
        """Returns the environment of the sandbox `uid` as the column has it."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._ciphers[self._first].encrypt(nonce, msgspec.json.encode(env), uid.encode())
        return self._first + nonce + sealed

    def decrypt(self, column: bytes, uid: str) -> dict[str, str]:
        """Returns the environment. Raises ValueError if its key is not given or the column was changed."""
        key_id, nonce = column[:_ID_BYTES], column[_ID_BYTES : _ID_BYTES + _NONCE_BYTES]
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise ValueError(f"the environment of {uid} was encrypted with key {key_id.hex()}, which is not given")
        try:
            plain = cipher.decrypt(nonce, column[_ID_BYTES + _NONCE_BYTES :], uid.encode())
        except InvalidTag:
            raise ValueError(f"the environment of {uid} does not decrypt: its column was changed") from None
        return msgspec.json.decode(plain, type=dict[str, str])

    def knows(self, column: bytes) -> bool:
        """Returns whether one of the keys encrypted the column."""
        return column[:_ID_BYTES] in self._keys

    def is_current(self, column: bytes) -> bool:
        """Returns whether the first key encrypted the column."""
        return column[:_ID_BYTES] == self._first

    def fingerprint(self, payload: bytes) -> str:
        """Returns a keyed hash of a request: without the key, no value in the request can be guessed."""
        return self._fingerprint(self._first, payload)

    def same(self, fingerprint: str, payload: bytes) -> bool:
        """Returns whether `fingerprint` is that of `payload`, under the key that made it."""
        key_id = bytes.fromhex(fingerprint.partition(":")[0])
        return key_id in self._keys and hmac.compare_digest(self._fingerprint(key_id, payload), fingerprint)

    def _fingerprint(self, key_id: bytes, payload: bytes) -> str:
        # Keyed BLAKE2 is a message authentication code by design, and 40 times as fast as HMAC through OpenSSL.
        made = hashlib.blake2b(payload, key=self._keys[key_id], digest_size=32, person=b"request")
        return f"{key_id.hex()}:{made.hexdigest()}"


def _make(path: Path) -> None:
    """Makes a file with a new key where there is none."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # The file appears with its key or not at all. An empty file, left by a full disk, would have to be removed by hand.
    with tempfile.NamedTemporaryFile(dir=path.parent) as file:
        file.write(base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n")
        file.flush()
        os.fsync(file.fileno())
        os.link(file.name, path)

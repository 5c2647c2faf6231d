"""A token issuer on a socket: it signs, publishes its public keys, and can be away."""

from __future__ import annotations

import json
import time
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

PRIVATE: dict[str, Any] = {
    "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
_TO_JWK: dict[str, Any] = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}


def public_jwk(algorithm: str, key_id: str, private: Any = None) -> dict[str, Any]:
    """A public key as it is published."""
    public = (private or PRIVATE[algorithm]).public_key()
    return {**json.loads(_TO_JWK[algorithm].to_jwk(public)), "kid": key_id, "use": "sig", "alg": algorithm}


def signed(algorithm: str, key_id: str | None, private: Any = None, **claims: Any) -> str:
    """A token of the issuer's."""
    body = {"sub": "user-1", "exp": int(time.time()) + 3600, **claims}
    headers = {} if key_id is None else {"kid": key_id}
    return jwt.encode(body, private or PRIVATE[algorithm], algorithm=algorithm, headers=headers)


class Issuer:
    """`GET /keys`."""

    def __init__(self) -> None:
        self.keys = [public_jwk(algorithm, f"key-{algorithm}") for algorithm in PRIVATE]
        self.status = 200
        self.asked = 0

    def app(self) -> web.Application:
        """The application."""
        application = web.Application()
        application.router.add_get("/keys", self._keys)
        return application

    async def _keys(self, request: web.Request) -> web.Response:
        self.asked += 1
        return web.json_response({"keys": self.keys}, status=self.status)

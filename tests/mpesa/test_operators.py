"""Commands for clients and packages, what is shown of the settings, and what `serve` refuses."""

from __future__ import annotations

import asyncio
import json
import subprocess

import pytest

from simulators.daraja import MERCHANT
from tests.mpesa.world import CLIENT, PACKAGE, SECRET, UUID, Mpesa

pytestmark = pytest.mark.asyncio(loop_scope="package")

NEW = "770e8400-e29b-41d4-a716-446655440001"


async def _run(mpesa: Mpesa, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(lambda: mpesa.command(*arguments, **environment))


async def test_a_client_and_its_package_are_added_used_disabled_and_enabled(mpesa: Mpesa) -> None:
    added = await _run(mpesa, "mpesa", "client", "add", "--name", "A school", "--id", NEW.upper())
    assert (added.returncode, json.loads(added.stdout)) == (0, {"client": NEW})
    made = await _run(mpesa, "mpesa", "package", "add", "--client", NEW, "--name", "A term", "--price", "250")
    package = json.loads(made.stdout)["package"]
    assert UUID.fullmatch(package)
    listed = [json.loads(line) for line in (await _run(mpesa, "mpesa", "list")).stdout.splitlines()]
    assert {"client": NEW, "name": "A school", "active": True} in listed
    assert any(line.get("package") == package and line["price"] == 250 for line in listed), listed

    phone = mpesa.phone("7002")
    checkout = (await mpesa.initiated(phone, client_id=NEW, package_id=package))["checkout_id"]
    assert [push["amount_minor"] for push in await mpesa.pushes(phone)] == [25_000]
    off = await _run(mpesa, "mpesa", "client", "disable", NEW)
    assert json.loads(off.stdout) == {"client": NEW, "active": False}
    mpesa.refused(await mpesa.initiate(phone, client_id=NEW, package_id=package), 403)
    mpesa.refused(await mpesa.status(checkout, NEW), 403)
    assert json.loads((await _run(mpesa, "mpesa", "client", "enable", NEW)).stdout)["active"]
    assert (await mpesa.status(checkout, NEW)).json["status"] == "pending"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("client", "add", "--name", "x", "--id", CLIENT), f"there is a client {CLIENT} already"),
        (("client", "add", "--name", "x", "--id", "1"), "--id must be a UUID"),
        (("package", "add", "--client", NEW[:-1] + "f", "--name", "x", "--price", "1"), "there is no client"),
        (("package", "add", "--client", CLIENT, "--name", "x", "--price", "0"), "price must be 1 to 1000000"),
        (("package", "add", "--client", CLIENT, "--name", "x", "--price", "9", "--id", PACKAGE), "there is a package"),
        (("client", "disable", CLIENT), "a configured one is changed in the configuration"),
        (("client", "enable", NEW[:-1] + "e"), "no client"),
    ],
)
async def test_what_cannot_be_is_refused_in_words(mpesa: Mpesa, arguments: tuple[str, ...], says: str) -> None:
    ran = await _run(mpesa, "mpesa", *arguments)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert says in ran.stderr and "Traceback" not in ran.stderr


async def test_check_config_shows_no_secret(mpesa: Mpesa) -> None:
    ran = await _run(mpesa, "check-config")
    assert ran.returncode == 0, ran
    assert json.loads(ran.stdout)["mpesa"]["callback_secret"] == "set"
    for secret in (SECRET, MERCHANT.consumer_key, MERCHANT.consumer_secret, MERCHANT.passkey):
        assert secret not in ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("base_url", ""), ("base_url", "safaricom"), ("consumer_key", ""), ("consumer_secret", ""), ("passkey", ""),
        ("shortcode", ""), ("shortcode", "12"), ("callback_base_url", ""), ("callback_secret", ""),
        ("callback_secret", "too-short"), ("callback_secret", "with/slash-0123456789"),
        ("callback_sources", '["0.0.0.0/0"]'), ("callback_sources", '["nonsense"]'), ("initiate_wait_s", "-1"),
        ("clients", "x"),
    ],
)  # fmt: skip
async def test_serve_refuses_by_the_keys_name_and_quotes_no_secret(mpesa: Mpesa, key: str, value: str) -> None:
    ran = await _run(mpesa, "serve", **{f"PAYMENTS__MPESA__{key.upper()}": value})
    assert ran.returncode == 2, ran
    assert f"mpesa.{key}" in ran.stderr and "Traceback" not in ran.stderr
    for secret in (SECRET, MERCHANT.consumer_secret, MERCHANT.passkey, "with/slash"):
        assert secret not in ran.stderr

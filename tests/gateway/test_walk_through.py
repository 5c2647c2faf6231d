"""What the gateway's page says to paste does what the page says."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess

import pytest

from tests.gateway.world import Gateway
from tests.support import ROOT

pytestmark = pytest.mark.asyncio(loop_scope="package")


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
async def test_the_walk_through_of_the_gateway_works_when_pasted(gateway: Gateway) -> None:
    page = (ROOT / "docs/surfaces/gateway.md").read_text()
    match = re.search(r"```sh\n(.*?)```", page, re.DOTALL)
    assert match is not None
    script = match[1].replace("http://127.0.0.1:3000", gateway.base).replace("ada@", "readme@")

    done = await asyncio.to_thread(
        subprocess.run, ["/bin/sh", "-ec", script], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stderr
    registered, processed, status, refunded, listed = json.loads(f"[{done.stdout.replace('}{', '},{')}]")
    assert registered["email"] == "readme@example.com"
    assert processed["status"] == status["status"] == "completed"
    assert (refunded["status"], refunded["refunded_amount"]) == ("partially_refunded", 20)
    assert [payment["id"] for payment in listed["transactions"]] == [processed["id"]]

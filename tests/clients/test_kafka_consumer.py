"""The Kafka listener's own ways, without a broker: what it says of its troubles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord
from structlog.testing import capture_logs

from clients.kafka_consumer import KafkaListener
from clients.kafka_settings import KafkaSettings
from engine.messages import Message

MESSAGE, TROUBLE, NOTHING = "message", "trouble", "nothing"


class ScriptedConsumer:
    """A member of a group to which these things happen, one at each poll."""

    def __init__(self, script: list[str]) -> None:
        self._script = script

    async def getmany(self, **_: Any) -> dict[TopicPartition, list[ConsumerRecord[bytes, bytes]]]:
        match self._script.pop(0):
            case "trouble":
                raise KafkaError(f"{len(self._script)} left")
            case "nothing":
                return {}
        record = ConsumerRecord("t", 0, 0, 0, 0, None, b"{}", None, 0, 2, ())
        return {TopicPartition("t", 0): [record]}

    async def commit(self, offsets: dict[TopicPartition, int]) -> None:
        """Always well."""

    async def stop(self) -> None:
        """Always well."""


class ScriptedListener(KafkaListener):
    """A listener of that consumer. It does not wait between two memberships, and stops at the end of the script."""

    def __init__(self, script: Sequence[str]) -> None:
        super().__init__(KafkaSettings(brokers="none:1"), ["t"], self._heard, group="ours", batch_max=10)
        self._script = list(script)

    async def _open(self) -> Any:
        return ScriptedConsumer(self._script)

    async def _pause(self, seconds: float) -> None:
        self._stop_at_the_end()

    async def _heard(self, messages: Sequence[Message]) -> None:
        self._stop_at_the_end()

    def _stop_at_the_end(self) -> None:
        if not self._script:
            self.stop()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ((TROUBLE, TROUBLE, TROUBLE), 1),
        ((TROUBLE, NOTHING, TROUBLE), 1),
        ((MESSAGE, TROUBLE, TROUBLE, MESSAGE, TROUBLE, TROUBLE), 2),
    ],
)
async def test_a_trouble_that_lasts_is_told_once_and_the_next_one_again(script: Sequence[str], said: int) -> None:
    """It lasts until a batch was handled: while brokers are away, aiokafka finds nothing and says nothing, too."""
    with capture_logs() as logs:
        await ScriptedListener(script).run()
    assert [line["event"] for line in logs] == ["listener interrupted"] * said

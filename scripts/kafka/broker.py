#!/usr/bin/env python3
"""Runs one real Apache Kafka node on 127.0.0.1 from pinned Maven artefacts: no container, no installation.

    broker.py fetch                          download the jars (once; quick when they are there)
    broker.py start --dir DIR --port PORT    run in the foreground until SIGTERM or Ctrl-C

`start` prints `READY 127.0.0.1:PORT pid=N` when the broker answers; N is the Java process. The data stays in DIR,
so a later `start` with the same DIR goes on where the broker stopped or was killed.

Exit status: 0 after a stop that was asked for, 2 when this machine lacks something, else 1.
"""

from __future__ import annotations

import argparse
import base64
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import uuid
import xml.etree.ElementTree as ET
from pathlib import Path

POM = Path(__file__).with_name("pom.xml")
JAVA_MIN = 17
HOST = "127.0.0.1"
STOP_S = 15.0

LOG4J = """\
log4j.rootLogger=WARN, file
log4j.logger.kafka.server=INFO
log4j.appender.file=org.apache.log4j.FileAppender
log4j.appender.file.File={log}
log4j.appender.file.layout=org.apache.log4j.PatternLayout
log4j.appender.file.layout.ConversionPattern=[%d] %p %m (%c)%n
"""


class NotPossible(Exception):
    """Something that this machine lacks, in words that say what to do."""


class BrokerFailed(Exception):
    """The broker did not come up or went away by itself."""


def kafka_version() -> str:
    """The pinned version, from the pom."""
    found = ET.parse(POM).find(".//{*}properties/{*}kafka.version")
    if found is None or not found.text:
        raise NotPossible(f"{POM.name} does not name kafka.version")
    return found.text


def jars_dir() -> Path:
    """Where the jars are kept: outside the tree, by version."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "payment-engine" / f"kafka-{kafka_version()}"


def java() -> str:
    """The path of a Java that is new enough."""
    home = os.environ.get("JAVA_HOME")
    path = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if not path or not Path(path).exists():
        raise NotPossible(f"Kafka needs Java {JAVA_MIN} or newer: no `java` in JAVA_HOME or on the PATH")
    told = subprocess.run([path, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(\d+)', told)
    if version is None or int(version.group(1)) < JAVA_MIN:
        first = told.splitlines()[0] if told else "no answer"
        raise NotPossible(f"Kafka needs Java {JAVA_MIN} or newer; `{path} -version` says: {first}")
    return path


def fetch() -> Path:
    """Has Maven copy Kafka and what it depends on into the cache, and returns that directory."""
    target = jars_dir()
    if target.is_dir():
        return target
    maven = shutil.which("mvn")
    if maven is None:
        raise NotPossible("fetching Kafka needs Maven: no `mvn` on the PATH")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Into a directory beside, then one rename: whoever sees the target sees all of it.
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        _copy_jars(maven, partial)
        try:
            partial.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was quicker, and its copy is as good
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _copy_jars(maven: str, into: Path) -> None:
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={into}"]
    asked = [maven, "--batch-mode", "--quiet", "--strict-checksums", "--file", str(POM), *goal]
    ran = subprocess.run(asked, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if ran.returncode != 0 or not any(into.glob("kafka_*.jar")):
        raise NotPossible(f"Maven could not fetch Kafka {kafka_version()}:\n{ran.stdout.strip()[-2000:]}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _free_port_after(port: int) -> int:
    for candidate in range(port + 1, port + 200):
        if _is_free(candidate):
            return candidate
    raise BrokerFailed(f"no free port above {port} for the controller")


def _write_config(where: Path, port: int, overrides: list[str]) -> Path:
    controller = _free_port_after(port)
    lines = [
        "process.roles=broker,controller",
        "node.id=1",
        f"controller.quorum.voters=1@{HOST}:{controller}",
        f"listeners=PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller}",
        f"advertised.listeners=PLAINTEXT://{HOST}:{port}",
        "controller.listener.names=CONTROLLER",
        "inter.broker.listener.name=PLAINTEXT",
        f"log.dirs={where / 'data'}",
        "auto.create.topics.enable=true",
        "num.partitions=3",
        "default.replication.factor=1",
        "min.insync.replicas=1",
        "offsets.topic.replication.factor=1",
        "offsets.topic.num.partitions=3",
        "transaction.state.log.replication.factor=1",
        "transaction.state.log.min.isr=1",
        "transaction.state.log.num.partitions=3",
        "group.initial.rebalance.delay.ms=0",
        # After kill -9 the new broker has to wait until its own former self has timed out; the default is 9 s.
        "broker.session.timeout.ms=3000",
        "broker.heartbeat.interval.ms=500",
        "num.network.threads=2",
        "num.io.threads=2",
        "log.cleaner.dedupe.buffer.size=2097152",
        *overrides,
    ]
    (where / "log4j.properties").write_text(LOG4J.format(log=where / "kafka.log"))
    config = where / "server.properties"
    config.write_text("\n".join(lines) + "\n")
    return config


def _java_command(where: Path, heap: str) -> list[str]:
    # The small heap and the simple compiler and collector halve the start: this broker lives for minutes.
    small = [f"-Xmx{heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    logging = f"-Dlog4j.configuration=file:{where / 'log4j.properties'}"
    return [java(), *small, logging, "-cp", f"{fetch()}/*"]


def _format(command: list[str], config: Path, where: Path) -> None:
    if (where / "data" / "meta.properties").exists():
        return
    cluster = "p" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]
    asked = [*command, "kafka.tools.StorageTool", "format", "--cluster-id", cluster, "--config", str(config)]
    ran = subprocess.run(asked, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if ran.returncode != 0:
        raise BrokerFailed(f"the storage could not be formatted:\n{ran.stdout.strip()[-2000:]}")


def _answers(port: int) -> bool:
    """Asks for the API versions, because the port is open some time before the broker answers."""
    request = struct.pack(">hhih", 18, 0, 1, -1)
    try:
        with socket.create_connection((HOST, port), timeout=1.0) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            return len(connection.recv(4)) == 4
    except OSError:
        return False


def _stop(broker: subprocess.Popen[bytes]) -> None:
    if broker.poll() is not None:
        return
    broker.terminate()
    try:
        broker.wait(STOP_S)
    except subprocess.TimeoutExpired:
        broker.kill()
        broker.wait()


class StopAsked:
    """Becomes true with SIGTERM, SIGINT or, if wanted, when the process that started this one is gone."""

    def __init__(self, *, with_parent: bool) -> None:
        self._signalled = False
        self._parent = os.getppid() if with_parent else None
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, self._signal)

    def _signal(self, _signum: int, _frame: object) -> None:
        self._signalled = True

    def __bool__(self) -> bool:
        return self._signalled or self._parent not in {None, os.getppid()}


def start(asked: argparse.Namespace) -> None:
    """Formats if needed and runs the broker in the foreground until it is asked to stop."""
    stop_asked = StopAsked(with_parent=asked.with_parent)
    if not _is_free(asked.port):  # else whoever listens there would pass for the broker
        raise BrokerFailed(f"port {asked.port} is in use")
    asked.dir.mkdir(parents=True, exist_ok=True)
    where = asked.dir.resolve()
    command = _java_command(where, asked.heap)
    config = _write_config(where, asked.port, asked.set)
    _format(command, config, where)
    with (where / "kafka.out").open("ab") as out:
        broker = subprocess.Popen([*command, "kafka.Kafka", str(config)], stdout=out, stderr=out)
    try:
        _wait_until_ready(broker, asked.port, asked.start_timeout, stop_asked)
        while broker.poll() is None and not stop_asked:
            time.sleep(0.1)
    finally:
        _stop(broker)
    if not stop_asked:
        raise BrokerFailed(f"the broker ended with status {broker.returncode}; see kafka.log and kafka.out in {where}")


def _wait_until_ready(broker: subprocess.Popen[bytes], port: int, timeout_s: float, stop_asked: StopAsked) -> None:
    give_up_at = time.monotonic() + timeout_s
    while broker.poll() is None and not stop_asked:
        if _answers(port):
            print(f"READY {HOST}:{port} pid={broker.pid}", flush=True)
            return
        if time.monotonic() > give_up_at:
            raise BrokerFailed(f"the broker did not answer within {timeout_s:.0f} s")
        time.sleep(0.1)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="One real Kafka node on 127.0.0.1.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("fetch", help="download the pinned jars and print where they are")
    run = commands.add_parser("start", help="run in the foreground; prints READY")
    run.add_argument("--dir", type=Path, required=True, help="data, configuration and log")
    run.add_argument("--port", type=int, required=True)
    run.add_argument("--heap", default="512m", help="Java heap (default 512m)")
    run.add_argument("--start-timeout", type=float, default=90.0, metavar="SECONDS")
    run.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a broker setting; may repeat")
    run.add_argument("--with-parent", action="store_true", help="stop when the process that started this is gone")
    asked = parser.parse_args()
    try:
        if asked.command == "fetch":
            print(fetch())
        else:
            start(asked)
    except (NotPossible, BrokerFailed) as reason:
        print(f"broker.py: {reason}", file=sys.stderr)
        return 2 if isinstance(reason, NotPossible) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The files that operate the engine: image, compose, balancer, alerts and dashboards agree with the code they run."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from app.settings import ROLES, Settings, load, missing
from engine.store.check import RedisCheck
from engine.store.connect import RedisSettings, connect
from metrics.instruments import Instruments
from tests.support import CARD_KEYS, FINGERPRINT_SECRET, ROOT, SECRET, RedisServer, free_port

COMPOSE = (ROOT / "compose.yaml").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
# What somebody would have written into .env.
ENVIRONMENT = {
    "JWT_SEC": SECRET,
    "PAYMENTS__CARDS__KEYS": CARD_KEYS,
    "PAYMENTS__CARDS__FINGERPRINT_SECRET": FINGERPRINT_SECRET,
    "GRAFANA_ADMIN_PASSWORD": "some-password",
}
REQUIRED = re.compile(r"\$\{(\w+):\?[^}\n]+\}")
SIMULATORS = ("acquirer", "gateway")


# compose.yaml


class StrictLoader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML in which a key that is there twice is an error, as it is for Docker, and not the last one's win."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        """Refuse repeated keys; `<<` may bring a key that is written here as well."""
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        if len(keys) != len(set(keys)):
            raise yaml.YAMLError(f"a key is there twice: {sorted(keys)}")
        self.flatten_mapping(node)
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return mapping


def compose(text: str = COMPOSE) -> dict[str, Any]:
    """The file as Docker sees it: variables put in, merges made, extensions gone."""
    filled = REQUIRED.sub(lambda match: ENVIRONMENT[match.group(1)], text)
    tree = yaml.load(filled, StrictLoader)
    return {name: value for name, value in tree.items() if not name.startswith("x-")}


def service_problems(name: str, service: dict[str, Any], services: dict[str, Any]) -> Iterator[str]:
    """What the specification allows and what does not work, or not safely."""
    image, _, tag = service.get("image", "").partition(":")
    if not image or not tag or tag == "latest":
        yield f"{name}: the image has no version"
    for port in service.get("ports", ()):
        if not str(port).startswith("127.0.0.1:"):
            yield f"{name}: {port} is open to the network"
    for other, how in service.get("depends_on", {}).items():
        if other not in services:
            yield f"{name}: depends on {other}, which is not there"
        elif how["condition"] == "service_healthy" and not (
            "healthcheck" in services[other] or "build" in services[other]
        ):
            yield f"{name}: waits for the health of {other}, which has no check"
    if "build" not in service and "healthcheck" not in service:
        yield f"{name}: no health check"


def compose_problems(text: str) -> list[str]:
    """What hangs together wrongly in a compose file; whether it is one at all is for the specification."""
    try:
        tree = compose(text)
    except yaml.YAMLError as error:
        return [str(error)]
    services = tree["services"]
    found = [problem for name, service in services.items() for problem in service_problems(name, service, services)]
    mounts = [mount.split(":")[0] for service in services.values() for mount in service.get("volumes", ())]
    named = {source for source in mounts if not source.startswith(".")}
    found += [f"volume {name}: declared or used, not both" for name in named ^ tree["volumes"].keys()]
    found += [f"{source} is not there" for source in mounts if source.startswith(".") and not (ROOT / source).exists()]
    ports = [port for service in services.values() for port in service.get("ports", ())]
    found += [f"{port} is published twice" for port in {port for port in ports if ports.count(port) > 1}]
    if "$" in json.dumps(tree):
        found.append("a variable is used without `:?`, or not closed")
    return found


def test_compose_hangs_together() -> None:
    """Every service, volume, file and variable that is named is there."""
    assert compose_problems(COMPOSE) == []


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("redis: {condition", "reddis: {condition"),
        ("\n  grafana:\n    image", "\n  kafka:\n    image"),
        ("\n  kafka:\n  simulators:", "\n  simulators:"),
        ("    image: redis:7.4.2-alpine\n", ""),
        ("redis:7.4.2-alpine", "redis"),
        ("redis:7.4.2-alpine", "redis:latest"),
        ("./compose/haproxy.cfg:", "./compose/haproxy.conf:"),
        ('"127.0.0.1:9090:9090"', '"9090:9090"'),
        ('"127.0.0.1:9090:9090"', '"0.0.0.0:9090:9090"'),
        ('"127.0.0.1:3030:3000"', '"127.0.0.1:9090:9090"'),
        ("${JWT_SEC:?not set, see .env.example}", "${JWT_SEC:?not set"),
        ("${JWT_SEC:?not set, see .env.example}", "${JWT_SEC}"),
        (
            "    healthcheck:\n      test: [CMD, redis-cli, -e, ping]",
            "    x-healthcheck:\n      test: [CMD, redis-cli, -e, ping]",
        ),
    ],
)
def test_a_compose_file_that_does_not_hang_together_is_found(good: str, bad: str) -> None:
    """The check above can fail."""
    assert good in COMPOSE
    assert compose_problems(COMPOSE.replace(good, bad, 1))


def specification() -> Callable[[str], object]:
    """Reads JSON as the compose specification says, or raises `ValueError`."""
    library = pytest.importorskip("compose_spec", reason="the PyPI package compose-spec is not installed")
    read: Callable[[str], object] = library.PyCompose.from_json
    return read


def test_compose_is_what_the_specification_says() -> None:
    """Names, types, durations, ports and image names."""
    specification()(json.dumps(compose()))


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("stop_grace_period", "stop_graceperiod"),
        ("\nvolumes:\n  redis:", "\nvolume:\n  redis:"),
        ("service_completed_successfully", "service_completed"),
        ("replicas: 2", "replicas: two"),
        ("interval: 15s", "interval: 15 parsecs"),
        ("restart: unless-stopped", "restart: sometimes"),
        ("test: [CMD, redis-cli, -e, ping]", "test: [redis-cli, -e, ping]"),
        ("cap_drop: [ALL]", "cap_drop: ALL"),
        ("127.0.0.1:3003:3003", "127.0.0.1:3003:70000"),
    ],
)
def test_a_compose_file_that_breaks_the_specification_is_found(good: str, bad: str) -> None:
    """The check above can fail."""
    assert good in COMPOSE
    read = specification()
    with pytest.raises(ValueError, match=r"line \d+ column \d+"):
        read(json.dumps(compose(COMPOSE.replace(good, bad, 1))))


def test_the_secrets_come_from_dot_env_and_the_example_names_them_all() -> None:
    """No secret has a default, and none is written down."""
    example = dict(
        line.split("=", 1) for line in (ROOT / ".env.example").read_text().splitlines() if line[:1] not in "#"
    )
    assert example == dict.fromkeys(REQUIRED.findall(COMPOSE), "")
    assert example.keys() == ENVIRONMENT.keys()


def test_the_engine_of_compose_could_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its environment is a complete configuration, and it is given more time to stop than it takes."""
    monkeypatch.chdir(tmp_path)
    engine = compose()["services"]["engine"]
    settings = load(None, engine["environment"])
    assert missing(settings, ROLES) == []
    assert int(engine["stop_grace_period"].removesuffix("s")) > settings.server.stop_s + 5
    assert settings.server.unready_s < settings.server.stop_s / 2


async def test_the_redis_of_compose_is_fit_to_hold_money(tmp_path: Path) -> None:
    """A real server with the same options passes the engine's own check."""
    command = compose()["services"]["redis"]["command"]
    options = {name.removeprefix("--"): value for name, value in zip(command[1::2], command[2::2], strict=True)}
    assert options["appendfsync"] == "everysec"
    server = RedisServer(tmp_path, options)
    server.start()
    settings = RedisSettings(url=server.url, timeout_s=60)
    client = connect(settings)
    try:
        check = RedisCheck(client, settings)
        await check.create_dataset()
        assert (await check.report()).problems == ()
    finally:
        await client.aclose()
        server.stop()


@pytest.mark.parametrize("name", SIMULATORS)
def test_the_simulators_of_compose_start_answer_and_stop(name: str, tmp_path: Path) -> None:
    """Their commands are run as they stand, on a free port and another folder."""
    service = compose()["services"][name]
    command = [part.replace("/var/lib/payments", str(tmp_path)) for part in service["entrypoint"] + service["command"]]
    assert command[command.index("--port") + 1] == service["environment"]["PAYMENTS__OPS__PORT"]
    command[command.index("--host") + 1] = "127.0.0.1"
    command[command.index("--port") + 1] = "0"
    with subprocess.Popen([sys.executable, *command[1:]], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said.startswith(f"{name} simulator at http://127.0.0.1:")
        with urllib.request.urlopen(said.split()[-1] + "/health", timeout=5) as answer:
            assert answer.status == 200
        again = subprocess.run([sys.executable, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert (tmp_path / f"{name}.jsonl").exists()
    assert (again.returncode, "in use by another process" in again.stderr) == (2, True)


@pytest.mark.parametrize("name", ["users", "orders"])
def test_the_companions_of_compose_start_on_redis_without_waiting_for_kafka(
    name: str, redis_server: RedisServer
) -> None:
    """Their commands as they stand, on a free port and with another Redis; the broker may come later."""
    service = compose()["services"][name]
    elsewhere = {"redis://redis:6379/1": redis_server.url.replace("/0", "/1"), "kafka:9092": "127.0.0.1:1"}
    command = [elsewhere.get(part, part) for part in service["entrypoint"] + service["command"]]
    assert command[command.index("--port") + 1] == service["environment"]["PAYMENTS__OPS__PORT"]
    command[command.index("--host") + 1] = "127.0.0.1"
    command[command.index("--port") + 1] = "0"
    environment = {**os.environ, **service["environment"]}
    with subprocess.Popen(
        [sys.executable, *command[1:]], cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said.startswith(f"{name} simulator at http://127.0.0.1:")
        with urllib.request.urlopen(said.split()[-1] + "/ready", timeout=30) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_everybody_means_the_same_ports_and_versions() -> None:
    """The balancer, Prometheus and the image say where the engine listens; the broker is the one of the tests."""
    port = str(Settings().core.port)
    ports = [port, str(Settings().orders_api.port), str(Settings().vault.port)]
    balancer = (ROOT / "compose/haproxy.cfg").read_text()
    assert re.findall(r"server-template engine- \d+ engine:(\d+)", balancer) == ports
    assert re.findall(r"bind :(\d+)", balancer) == ports
    assert compose()["services"]["balancer"]["ports"] == [f"127.0.0.1:{each}:{each}" for each in ports]
    jobs = yaml.safe_load((ROOT / "compose/prometheus.yml").read_text())["scrape_configs"]
    scraped = [(*found["names"], found["port"]) for job in jobs for found in job["dns_sd_configs"]]
    assert scraped == [("engine", Settings().core.port), ("notify", Settings().notify.port)]
    assert re.findall(r"^EXPOSE (.*)$", DOCKERFILE, re.MULTILINE) == [" ".join(ports)]
    kafka = re.search(r"<kafka.version>(.*)</kafka.version>", (ROOT / "scripts/kafka/pom.xml").read_text())
    assert kafka is not None
    assert compose()["services"]["kafka"]["image"] == f"apache/kafka:{kafka.group(1)}"


def test_the_balancer_waits_longer_than_the_engine_may_take() -> None:
    """Otherwise it would answer 504 for payments that are well under way."""
    waits = re.search(r"timeout server (\d+)s", (ROOT / "compose/haproxy.cfg").read_text())
    assert waits is not None
    settings = Settings()
    assert int(waits.group(1)) > settings.core.wait_max_s + settings.users.guard.deadline_s + settings.redis.timeout_s


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="no haproxy on this machine")
def test_haproxy_takes_its_configuration() -> None:
    """Its own judgement, warnings too."""
    ran = subprocess.run(
        ["haproxy", "-c", "-dW", "-f", str(ROOT / "compose/haproxy.cfg")], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


# Dockerfile


def hadolint(text: str) -> subprocess.CompletedProcess[str]:
    """What hadolint says about a Dockerfile."""
    executable = Path(sys.executable).parent / "hadolint"
    return subprocess.run([executable, "--no-color", "-"], input=text, capture_output=True, text=True, check=False)


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    """No rule is switched off."""
    ran = hadolint(DOCKERFILE)
    assert (ran.returncode, ran.stdout) == (0, "")
    assert "hadolint ignore" not in DOCKERFILE


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("python:3.11-slim-bookworm", "python"),
        ("WORKDIR /srv", "WORKDIR srv"),
        ("USER 10001:10001", "USER root"),
        ("COPY --from=build", "COPY --from=biuld"),
        ('ENTRYPOINT ["python", "-m", "app"]', "ENTRYPOINT python -m app"),
    ],
)
def test_hadolint_finds_a_broken_dockerfile(good: str, bad: str) -> None:
    """The check above can fail."""
    assert good in DOCKERFILE
    assert hadolint(DOCKERFILE.replace(good, bad)).returncode != 0


def test_the_image_holds_every_package_and_runs_as_nobody_special() -> None:
    """A new top-level package must not be forgotten; the last stage never goes back to root."""
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["root_packages"]
    assert re.findall(r"^COPY (\w+)/ \1/$", DOCKERFILE, re.MULTILINE) == packages
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert {f"!{package}/" for package in packages} <= set(ignored)
    assert re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE) == ["10001:10001"]


@pytest.mark.parametrize("variable", ["PAYMENTS__CORE__PORT", "PAYMENTS__OPS__PORT", "PAYMENT_SERVICE_PORT"])
def test_the_health_check_of_the_image_tells_the_living_from_the_dead(variable: str, tmp_path: Path) -> None:
    """Its command is run as it stands, against a simulator (which answers /health as the engine does) and nobody."""
    found = re.search(r"^HEALTHCHECK .*\\\n +CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert found is not None
    command = [sys.executable, *json.loads(found.group(1))[1:]]
    port = free_port()
    environment = {**os.environ, variable: str(port), "http_proxy": "http://127.0.0.1:1"}
    assert subprocess.run(command, env=environment, stderr=subprocess.DEVNULL, check=False).returncode == 1
    with simulator(port):
        assert subprocess.run(command, env=environment, check=False).returncode == 0


@contextlib.contextmanager
def simulator(port: int) -> Iterator[None]:
    """Somebody who answers `GET /health`."""
    asked = [sys.executable, "-m", "app", "simulate", "users", "--port", str(port)]
    with subprocess.Popen(asked, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield
        process.terminate()


# Alerts and dashboards


@pytest.fixture
def promtool() -> Callable[..., None]:
    """Runs promtool, which must succeed."""
    executable = shutil.which("promtool")
    if executable is None:
        reason = "no promtool on this machine (Debian package prometheus)"
        if os.environ.get("REQUIRE_PROMTOOL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)

    def run(*arguments: str | Path) -> None:
        ran = subprocess.run([executable, *arguments], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr

    return run


def alert_rules() -> list[dict[str, Any]]:
    """Every alert rule."""
    groups = yaml.load((ROOT / "metrics/alerts.yml").read_text(), StrictLoader)["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboards() -> dict[str, dict[str, Any]]:
    """Every dashboard, by the name of its file."""
    return {path.name: json.loads(path.read_text()) for path in sorted((ROOT / "metrics/grafana").glob("*.json"))}


def panel_queries() -> list[tuple[str, str, str]]:
    """Where it is, the expression, the legend: of every query of every panel."""
    return [
        (f"{name}: {panel['title']}", target["expr"], target["legendFormat"])
        for name, dashboard in dashboards().items()
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    ]


def test_the_alert_rules_and_their_tests_pass(promtool: Callable[..., None]) -> None:
    """Prometheus' own judgement."""
    promtool("check", "rules", "--lint-fatal", ROOT / "metrics/alerts.yml")
    promtool("test", "rules", ROOT / "metrics/alerts_test.yml")


def test_prometheus_takes_its_configuration(promtool: Callable[..., None], tmp_path: Path) -> None:
    """With the rules beside it, as compose mounts them."""
    shutil.copy(ROOT / "compose/prometheus.yml", tmp_path)
    shutil.copy(ROOT / "metrics/alerts.yml", tmp_path)
    promtool("check", "config", tmp_path / "prometheus.yml")


def test_grafana_finds_the_dashboards_and_prometheus_the_rules() -> None:
    """What is mounted where, and what the provisioning files say, are the same places."""
    services = compose()["services"]
    mounted = {
        name: dict(volume.split(":")[:2] for volume in services[name]["volumes"]) for name in ("prometheus", "grafana")
    }
    [provider] = yaml.safe_load((ROOT / "compose/grafana/dashboards.yml").read_text())["providers"]
    assert mounted["grafana"]["./metrics/grafana"] == provider["options"]["path"]
    assert mounted["grafana"]["./compose/grafana/dashboards.yml"].startswith("/etc/grafana/provisioning/dashboards/")
    assert mounted["grafana"]["./compose/grafana/datasources.yml"].startswith("/etc/grafana/provisioning/datasources/")
    [source] = yaml.safe_load((ROOT / "compose/grafana/datasources.yml").read_text())["datasources"]
    configured = yaml.safe_load((ROOT / "compose/prometheus.yml").read_text())
    assert (source["type"], source["isDefault"], source["url"]) == ("prometheus", True, "http://prometheus:9090")
    assert source["jsonData"]["timeInterval"] == configured["global"]["scrape_interval"]
    beside = Path(mounted["prometheus"]["./compose/prometheus.yml"]).parent
    assert [str(beside / name) for name in configured["rule_files"]] == [mounted["prometheus"]["./metrics/alerts.yml"]]
    # Alerts and some panels ask for the job by its name.
    assert [job["job_name"] for job in configured["scrape_configs"]] == ["payments", "notify"]


def test_every_panel_asks_something_that_prometheus_understands(promtool: Callable[..., None], tmp_path: Path) -> None:
    """Grafana's own variables replaced, each expression is a rule that can be loaded."""
    rules = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "1m")}
        for number, (_, expression, _) in enumerate(panel_queries())
    ]
    path = tmp_path / "panels.yml"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", path)


def test_every_alert_says_how_bad_it_is_and_is_tested_both_ways() -> None:
    """A rule that never fires and one that always does look the same until the night it matters."""
    rules = alert_rules()
    assert {rule["labels"]["severity"] for rule in rules} <= {"page", "ticket"}
    assert all(rule["annotations"].keys() == {"summary", "description", "runbook"} for rule in rules)
    cases = [
        case
        for test in yaml.safe_load((ROOT / "metrics/alerts_test.yml").read_text())["tests"]
        for case in test["alert_rule_test"]
    ]
    names = {rule["alert"] for rule in rules}
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == names
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == names


def exported() -> dict[str, set[str]]:
    """What Prometheus can know: the name of every series, with its labels."""
    registry = CollectorRegistry()
    Instruments(registry)
    known: dict[str, set[str]] = {name: set() for name in OF_PROMETHEUS}
    for instrument in registry._collector_to_names:
        assert isinstance(instrument, Counter | Gauge | Histogram), instrument
        name = next(iter(instrument.describe())).name
        labels = set(instrument._labelnames)
        match instrument:
            case Counter():
                known[f"{name}_total"] = labels
            case Gauge():
                known[name] = labels
            case Histogram():
                known |= {f"{name}_bucket": labels | {"le"}, f"{name}_sum": labels, f"{name}_count": labels}
    return {name: labels | {"instance", "job"} for name, labels in known.items()}


# What it writes itself about each scrape.
OF_PROMETHEUS = ("up", "scrape_duration_seconds", "scrape_samples_scraped")
GROUPING = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
WORDS = {"and", "or", "unless", "offset", "bool"}


def query_problems(expression: str, legend: str = "") -> list[str]:
    """Series that nobody exports and labels that they do not have."""
    known = exported()
    bare = re.sub(r"\[[^\]]*\]", "", re.sub(r'"[^"]*"', '""', expression))
    grouping = {label.strip() for _, labels in GROUPING.findall(bare) for label in labels.split(",") if label.strip()}
    found, seen = [], set[str]()
    for name, selector in re.findall(
        r"(?<![\w:])([a-zA-Z_:][\w:]*)(?![\w:]|\s*\()\s*(\{[^}]*\})?", GROUPING.sub("", bare)
    ):
        if name in WORDS or re.fullmatch(r"\d+[smhd]", name):
            continue
        labels = known.get(name)
        if labels is None:
            found.append(f"{name} is not exported")
            continue
        seen |= labels
        asked = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))
        found += [f"{name} has no label {label}" for label in asked - labels]
    shown = set(re.findall(r"\{\{\s*(\w+)\s*\}\}", legend))
    found += [f"there is no label {label}" for label in (grouping | shown) - seen]
    return found + [
        f"the legend shows {label}, which is aggregated away" for label in shown if grouping and label not in grouping
    ]


def test_alerts_and_dashboards_only_use_what_the_engine_exports() -> None:
    """A renamed metric must not leave an alert that can never fire."""
    found = {rule["alert"]: query_problems(rule["expr"]) for rule in alert_rules()}
    found |= {where: query_problems(expression, legend) for where, expression, legend in panel_queries()}
    assert {where: problems for where, problems in found.items() if problems} == {}


@pytest.mark.parametrize(
    ("expression", "legend"),
    [
        ("rate(http_request_total[5m])", ""),
        ('rate(http_requests_total{code="500"}[5m])', ""),
        ("sum by (code) (http_requests_total)", ""),
        ("sum by (status) (http_requests_total)", "{{route}}"),
        ("max(unknown_attempts) > max(unknown_attempt offset 10m)", ""),
        ("histogram_quantile(0.9, http_request_duration_seconds)", ""),
    ],
)
def test_a_query_for_something_that_is_not_exported_is_found(expression: str, legend: str) -> None:
    """The check above can fail."""
    assert query_problems(expression, legend)


# The repository


def test_the_hooks_are_local_and_valid() -> None:
    """`git commit` never fetches code from elsewhere."""
    path = ROOT / ".pre-commit-config.yaml"
    subprocess.run([sys.executable, "-m", "pre_commit", "validate-config", path], check=True)
    assert {repository["repo"] for repository in yaml.safe_load(path.read_text())["repos"]} == {"local"}

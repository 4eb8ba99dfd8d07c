"""What `deploy/` ships for containers, systemd and Kubernetes, held to the tools that read it and to the code."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from deploy.prometheus import generate

from conftest import missing
from servers import warm
from servers.process import UnavailableError
from servers.prometheus import program
from servers.tools import found, ran
from test_dashboards import PROMETHEUS
from test_docs import ROOT
from whatsms_events.config.load import load
from whatsms_events.config.settings import Settings
from whatsms_events.service.roles import ROLES
from whatsms_events.web.sockets import BACKLOG

DEPLOY: Final = ROOT / "deploy"
BIN: Final = Path(sys.executable).parent
DRAIN_S: Final = Settings().receiver.drain_s
HOME: Final = "/opt/whatsms-events"
"""Where image and units have the program."""


def seconds(text: str) -> float:
    """Return a duration such as 2m or 45s in seconds."""
    number, unit = re.fullmatch(r"(\d+)(s|m)?", text).groups()  # type: ignore[union-attr]
    return float(number) * (60 if unit == "m" else 1)


# The configurations.

CONFIGS: Final = sorted(path.relative_to(DEPLOY).as_posix() for path in DEPLOY.rglob("whatsms.toml"))


def given(name: str) -> dict[str, Any]:
    """Return what a configuration sets."""
    return tomllib.loads((DEPLOY / name).read_text(encoding="utf-8"))


def secrets_of_compose() -> list[str]:
    """Return the names of the secret files that a role is given in compose."""
    return list(compose_file()["x-service"]["secrets"])


def compose_file() -> dict[str, Any]:
    """Return the compose file as it stands."""
    read: dict[str, Any] = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text(encoding="utf-8"))
    return read


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """Give a folder with the secret files that compose names."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    for name in secrets_of_compose():
        (folder / name).write_text("a-secret-of-some-length\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.process
def test_each_configuration_can_be_used(name: str, secrets: Path, tmp_path: Path) -> None:
    """`config check` takes each configuration that is shipped, with the secret files that its page names."""
    if "database" not in given(name):
        (secrets / "database__password").unlink()
    words = ["config", "check", "--config", str(DEPLOY / name), "--secrets-dir", str(secrets)]
    done = warm.run(words, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_configuration_for_each_way_to_run() -> None:
    """There is one for compose, one for Kubernetes and one for systemd."""
    assert CONFIGS == ["compose/whatsms.toml", "kubernetes/base/whatsms.toml", "systemd/whatsms.toml"]


# The image.

DOCKERFILE: Final = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_hadolint_takes_the_image() -> None:
    """Hadolint has nothing to say about the Dockerfile."""
    assert ran(str(BIN / "hadolint"), "Dockerfile") == ""


def test_the_builder_gets_what_it_copies_and_nothing_else() -> None:
    """`.dockerignore` lets through exactly what the Dockerfile copies, so no log and no secret is sent to a builder."""
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"]
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    assert sorted(name for line in copied for name in line.split()) == sorted(kept)
    assert all((ROOT / name).exists() for name in kept)
    assert (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()[1] == "*"


def test_the_image_runs_as_a_number_and_not_as_root() -> None:
    """The last stage has a numeric user, who owns the folder of the log; the command gets signals itself."""
    last = DOCKERFILE.split("\nFROM ")[-1]
    (user,) = re.findall(r"^USER (\d+):\d+$", last, re.MULTILINE)
    assert int(user) > 0
    assert f"--owner={user}" in last
    assert 'ENTRYPOINT ["whatsms-events"]' in last
    assert "RUN pip" not in last


def test_the_health_check_asks_the_private_listener() -> None:
    """The health check is Python that compiles, and asks /livez at the default port."""
    (words,) = re.findall(r"^    CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    first, option, code = json.loads(words)
    assert (first, option) == ("python", "-c")
    compile(code, "Dockerfile", "exec")
    assert f"'127.0.0.1', {Settings().private.port}," in code
    assert "'/livez'" in code


# Compose.


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """Give what Docker Compose makes of the file."""
    words = ("--file", "deploy/compose/compose.yaml", "config", "--format", "json")
    read: dict[str, Any] = json.loads(
        ran(str(BIN / "docker-compose"), *words, environ={"WHATSMS_SITE": "hooks.example.com"})
    )
    return read


def of_ours(compose: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """List the services that run our image."""
    for name, service in compose["services"].items():
        if service.get("image", "").startswith("whatsms-events"):
            yield name, service


def test_compose_runs_each_role_apart(compose: dict[str, Any]) -> None:
    """Each role has a service of its own, which begins when tables and topics are made."""
    commands = {name: service["command"] for name, service in of_ours(compose)}
    assert commands.pop("migrate") == ["db", "upgrade"]
    assert commands.pop("topics") == ["topics", "create"]
    assert commands == {role: ["serve", "--roles", role] for role in ROLES}
    for role in ROLES:
        needs = compose["services"][role]["depends_on"]
        assert {name: one["condition"] for name, one in needs.items()} == {
            "migrate": "service_completed_successfully",
            "topics": "service_completed_successfully",
        }


def test_compose_gives_our_containers_nothing_that_they_do_not_need(compose: dict[str, Any]) -> None:
    """No capability, a read-only root, no new privileges, secrets as files, and time to stop."""
    for _name, service in of_ours(compose):
        assert Path(service["build"]["context"]) == ROOT
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert seconds(service["stop_grace_period"]) > DRAIN_S + 20
        assert not any(re.search("SECRET$|KEY|TOKEN|PASSWORD", name) for name in service["environment"])
        assert [one["source"] for one in service["secrets"]] == secrets_of_compose()


def test_only_the_proxy_is_reachable_from_elsewhere(compose: dict[str, Any]) -> None:
    """Whatever else publishes a port does so on this machine alone, and the database has no network but its own."""
    published = {
        (name, port["published"], port.get("host_ip"))
        for name, service in compose["services"].items()
        for port in service.get("ports", ())
    }
    assert {(name, port) for name, port, host in published if host != "127.0.0.1"} == {
        ("caddy", "80"),
        ("caddy", "443"),
    }
    assert list(compose["services"]["postgres"]["networks"]) == ["storage"]
    assert compose["networks"]["storage"]["internal"] is True


def test_what_compose_mounts_is_there(compose: dict[str, Any]) -> None:
    """Each file and folder that a container gets from the repository exists, and is given read-only."""
    services = compose["services"].values()
    mounts = [one for service in services for one in service.get("volumes", ()) if one["type"] == "bind"]
    assert len({one["source"] for one in mounts}) >= 6
    for one in mounts:
        assert Path(one["source"]).exists(), one
        assert one["read_only"] is True, one


def test_the_broker_is_the_one_of_the_tests(compose: dict[str, Any]) -> None:
    """Compose runs the Apache Kafka that the suite runs."""
    (version,) = re.findall(r'^VERSION: Final = "([\d.]+)"', (DEPLOY / "kafka" / "kafka.py").read_text(), re.MULTILINE)
    assert compose["services"]["kafka"]["image"] == f"apache/kafka:{version}"


def test_prometheus_in_compose_differs_by_its_targets_alone(tmp_path: Path) -> None:
    """It is the Prometheus of deploy/prometheus, which scrapes each role by its name, and promtool takes it."""
    text = (DEPLOY / "compose" / "prometheus.yml").read_text(encoding="utf-8")
    scraping = yaml.safe_load(text)
    port = Settings().private.port
    (static,) = scraping["scrape_configs"][0]["static_configs"]
    assert static["targets"] == [f"{role}:{port}" for role in ROLES]
    static["targets"] = PROMETHEUS["scrape_configs"][0]["static_configs"][0]["targets"]
    assert scraping == PROMETHEUS
    for name, content in (("prometheus.yml", text), ("rules.yml", (DEPLOY / "prometheus" / "rules.yml").read_text())):
        (tmp_path / name).write_text(content, encoding="utf-8")
    try:
        ran(program("promtool"), "check", "config", "prometheus.yml", cwd=tmp_path)
    except UnavailableError as exc:
        missing(str(exc))


# systemd.

UNITS: Final = DEPLOY / "systemd"
SERVICES: Final = ("whatsms-events.service", "whatsms-events@.service")
SOCKETS: Final = {"public": "whatsms-events-public.socket", "private": "whatsms-events-private.socket"}
EXPOSURE: Final = 1.2
"""What `systemd-analyze security` says; docs/deploy.md names it. A server on the network cannot be 0."""


def unit(name: str) -> dict[str, list[str]]:
    """Return the settings of a unit, with all values of each."""
    settings: dict[str, list[str]] = {}
    for line in (UNITS / name).read_text(encoding="utf-8").splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            settings.setdefault(key, []).append(value)
    return settings


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Give a copy of the units whose program exists on this machine."""
    there = tmp_path / "units"
    there.mkdir()
    for path in UNITS.glob("whatsms-events*"):
        (there / path.name).write_text(
            path.read_text(encoding="utf-8").replace(f"{HOME}/bin", str(BIN)), encoding="utf-8"
        )
    return there


def test_systemd_takes_the_units(installed: Path) -> None:
    """`systemd-analyze verify` has nothing to say about services and sockets, for an instance of each role too."""
    for role in ROLES:
        shutil.copy(installed / "whatsms-events@.service", installed / f"whatsms-events@{role}.service")
    files = [str(path) for path in sorted(installed.iterdir())]
    assert ran(found("systemd-analyze"), "verify", "--man=no", *files) == ""


@pytest.mark.parametrize("name", SERVICES)
def test_the_units_leave_little_open(name: str, installed: Path) -> None:
    """`systemd-analyze security` gives the exposure that the page names."""
    said = ran(found("systemd-analyze"), "security", "--offline=true", "--no-pager", str(installed / name))
    (exposure,) = re.findall(r"Overall exposure level .*: ([\d.]+)", said)
    assert float(exposure) <= EXPOSURE
    assert f"**{EXPOSURE}**" in (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")


def test_the_two_services_differ_by_their_roles_alone() -> None:
    """One process with every role and one for each role have the same limits, and time to stop."""
    whole, apart = (unit(name) for name in SERVICES)
    assert whole.pop("ExecStart") == [f"{HOME}/bin/whatsms-events serve"]
    assert apart.pop("ExecStart") == [f"{HOME}/bin/whatsms-events serve --roles %i"]
    assert apart.pop("EnvironmentFile") == ["/etc/whatsms-events/roles/%i.env"]
    del whole["Description"], apart["Description"]
    assert whole == apart
    assert seconds(whole["TimeoutStopSec"][0]) > DRAIN_S + 20
    assert whole["RestartPreventExitStatus"] == ["2"]


def test_each_role_has_a_private_port_of_its_own() -> None:
    """The environment of each role names a private port, of which no two are the same."""
    files = {path.stem: path.read_text(encoding="utf-8").splitlines() for path in (UNITS / "roles").iterdir()}
    assert set(files) == set(ROLES)
    ports = set()
    for lines in files.values():
        environ = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
        ports.add(load(environ=environ).private.port)
    assert len(ports) == len(ROLES)


def test_the_variables_of_the_units_are_ours() -> None:
    """What the units set is known to the configuration, and names folders that the units make or the page does."""
    environ = dict(one.split("=", 1) for one in unit(SERVICES[0])["Environment"])
    folders = {name: environ.pop(f"WHATSMS_EVENTS_{name}") for name in ("CONFIG", "SECRETS_DIR")}
    assert all(path.startswith("/etc/whatsms-events/") for path in folders.values())
    load(environ=environ)
    assert given("systemd/whatsms.toml")["data_dir"] == f"/var/lib/{unit(SERVICES[0])['StateDirectory'][0]}"


def test_the_sockets_are_those_of_the_listeners() -> None:
    """Each socket has the name by which the service knows it, at the address that it would have without sockets."""
    configured = given("systemd/whatsms.toml")
    for name, file in SOCKETS.items():
        settings = unit(file)
        listener = getattr(Settings(), name)
        host = configured.get(name, {}).get("host", listener.host)
        assert settings["FileDescriptorName"] == [name]
        assert settings["ListenStream"] == [f"{host}:{listener.port}"]
        assert settings["Service"] == [SERVICES[0]]
        assert settings["Backlog"] == [str(BACKLOG)]
        assert not {"PartOf", "BindsTo", "Requires"} & settings.keys()  # it must outlive the service


# Kubernetes.

KUBERNETES: Final = DEPLOY / "kubernetes"


def rendered(folder: Path) -> list[dict[str, Any]]:
    """Return every object that kustomize makes of a folder."""
    return list(yaml.safe_load_all(ran(found("kubectl"), "kustomize", str(folder))))


@pytest.fixture(scope="module")
def objects() -> list[dict[str, Any]]:
    """Give every object of the base."""
    return rendered(KUBERNETES / "base")


def pods(objects: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """List the pods of Deployments and Jobs."""
    for one in objects:
        if one["kind"] in ("Deployment", "Job"):
            yield one["metadata"]["labels"]["app.kubernetes.io/component"], one["spec"]["template"]["spec"]


def test_kubernetes_takes_every_object(objects: list[dict[str, Any]], tmp_path: Path) -> None:
    """Each object has just the fields that the schemas of Kubernetes know."""
    file = tmp_path / "all.yaml"
    file.write_text(yaml.safe_dump_all(objects), encoding="utf-8")
    ran(str(BIN / "kubernetes-validate"), "--strict", "--quiet", str(file))
    assert len(objects) >= 13


def test_a_misspelt_field_would_be_found(tmp_path: Path) -> None:
    """The test above tests something."""
    file = tmp_path / "wrong.yaml"
    file.write_text("apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {port: []}\n", encoding="utf-8")
    words = [str(BIN / "kubernetes-validate"), "--strict", "--quiet", str(file)]
    assert subprocess.run(words, capture_output=True, check=False, timeout=120).returncode != 0


def test_kubernetes_runs_each_role_apart(objects: list[dict[str, Any]]) -> None:
    """A Deployment for each role, its probes at the private listener, and a Job for tables and topics."""
    found = dict(pods(objects))
    job = found.pop("migrate")
    made = [one["args"] for one in (*job["initContainers"], *job["containers"])]
    assert made == [["db", "upgrade"], ["topics", "create"]]
    assert set(found) == set(ROLES)
    for role, pod in found.items():
        (container,) = pod["containers"]
        assert container["args"] == ["serve", "--roles", role]
        assert container["readinessProbe"]["httpGet"] == {"path": f"/readyz/{role}", "port": "private"}
        assert container["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "private"}
        assert container["startupProbe"]["httpGet"] == {"path": "/livez", "port": "private"}
        ports = {one["name"]: one["containerPort"] for one in container["ports"]}
        assert ports.pop("private") == Settings().private.port
        assert ports == ({"public": Settings().public.port} if role == "receiver" else {})


def test_kubernetes_gives_our_pods_nothing_that_they_do_not_need(objects: list[dict[str, Any]]) -> None:
    """No root, no capability, a read-only root, no account of the cluster; the user is the image's."""
    (user,) = re.findall(r"^USER (\d+):", DOCKERFILE, re.MULTILINE)
    for _name, pod in pods(objects):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == int(user)
        for container in (*pod.get("initContainers", ()), *pod["containers"]):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert not any(re.search("SECRET$|KEY|TOKEN|PASSWORD", one["name"]) for one in container["env"])


def test_a_roll_out_refuses_no_webhook(objects: list[dict[str, Any]]) -> None:
    """A new receiver is ready before an old one goes, which waits for the load balancer and then for its deliveries."""
    deployments = {one["metadata"]["name"]: one for one in objects if one["kind"] == "Deployment"}
    receiver = deployments["whatsms-events-receiver"]
    assert receiver["spec"]["replicas"] >= 2
    assert receiver["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    pod = receiver["spec"]["template"]["spec"]
    leave_s = given("kubernetes/base/whatsms.toml")["receiver"]["leave_s"]
    probe = pod["containers"][0]["readinessProbe"]
    assert (
        leave_s >= probe["periodSeconds"] + 5
    )  # it notices by itself too, but for the cluster's own way to the balancer
    assert pod["terminationGracePeriodSeconds"] > leave_s + DRAIN_S + 20
    budgets = {one["metadata"]["name"] for one in objects if one["kind"] == "PodDisruptionBudget"}
    assert budgets == {name for name, one in deployments.items() if one["spec"]["replicas"] > 1}


def test_selectors_find_their_pods(objects: list[dict[str, Any]]) -> None:
    """Service, budgets and policies select labels that pods have."""
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in objects if one["kind"] in ("Deployment", "Job")]
    for one in objects:
        spec = one.get("spec", {})
        wanted = spec.get("selector") if one["kind"] == "Service" else None
        if one["kind"] in ("PodDisruptionBudget", "NetworkPolicy"):
            wanted = (spec.get("selector") or spec.get("podSelector")).get("matchLabels")
        if wanted:
            assert any(wanted.items() <= label.items() for label in labels), one["metadata"]["name"]


def test_only_the_proxy_reaches_the_public_port(objects: list[dict[str, Any]]) -> None:
    """The policies name the two ports of ours, the database's and Kafka's, and no other way in."""
    policies = {one["metadata"]["name"]: one["spec"] for one in objects if one["kind"] == "NetworkPolicy"}
    inward = {
        name: {port["port"] for rule in spec.get("ingress", ()) for port in rule["ports"]}
        for name, spec in policies.items()
    }
    assert inward == {"whatsms-events": {8081}, "whatsms-events-receiver": {8080}, "whatsms-events-vendor": set()}
    assert set(policies["whatsms-events"]["policyTypes"]) == {"Ingress", "Egress"}


def test_an_overlay_with_the_monitor_renders(tmp_path: Path) -> None:
    """An overlay like that of the page has its own image, a monitor whose job the rules ask for, and these rules."""
    base, monitoring = (os.path.relpath(KUBERNETES / name, tmp_path) for name in ("base", "monitoring"))
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "namespace": "hooks",
        "resources": [base], "components": [monitoring],
        "images": [{"name": "registry.example/whatsms-events", "newTag": "9.9.9"}],
    }  # fmt: skip
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay), encoding="utf-8")
    objects = rendered(tmp_path)
    assert all(one["metadata"]["namespace"] == "hooks" for one in objects)
    images = {container["image"] for _name, pod in pods(objects) for container in pod["containers"]}
    assert images == {"registry.example/whatsms-events:9.9.9"}
    (monitor,) = [one for one in objects if one["kind"] == "PodMonitor"]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["path"]) == ("private", "/metrics")
    jobs = [one["replacement"] for one in endpoint["relabelings"] if one["targetLabel"] == "job"]
    assert jobs == [PROMETHEUS["scrape_configs"][0]["job_name"]]
    (which,) = monitor["spec"]["selector"]["matchExpressions"]
    assert which["values"] == list(ROLES)
    (rules,) = [one for one in objects if one["kind"] == "PrometheusRule"]
    assert rules["spec"] == yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text(encoding="utf-8"))


def test_the_rules_of_the_operator_are_those_of_prometheus() -> None:
    """The PrometheusRule is what `make docs` makes of `rules.yml`, comments and all."""
    assert generate.OBJECT.read_text(encoding="utf-8") == generate.rule_object()


# What all of them share.


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("*.y*ml")), ids=lambda path: path.relative_to(DEPLOY).as_posix())
def test_each_yaml_file_is_yaml_without_repeated_keys(path: Path) -> None:
    """A key that stands twice would hide the first one."""

    class Strict(yaml.SafeLoader):
        """Refuses a mapping with a key twice."""

    def mapping(loader: Strict, node: yaml.MappingNode) -> dict[Any, Any]:
        keys = [loader.construct_object(key) for key, _value in node.value if key.tag != "tag:yaml.org,2002:merge"]
        assert len(keys) == len(set(keys)), f"{path}:{node.start_mark.line}: {keys}"
        loader.flatten_mapping(node)
        return {loader.construct_object(key): loader.construct_object(value, deep=True) for key, value in node.value}

    Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    assert list(yaml.load_all(path.read_text(encoding="utf-8"), Strict))


def test_no_secret_is_shipped() -> None:
    """The folder of compose's secrets has nothing but what keeps secrets out of commits."""
    lines = (DEPLOY / "compose" / "secrets" / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert lines[1:] == ["*", "!.gitignore"]
    assert ".env" in (DEPLOY / "compose" / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_the_secrets_of_compose_can_be_made(tmp_path: Path) -> None:
    """The script writes each secret that compose wants, for its owner alone, and makes up none anew when run again."""
    script, folder = tmp_path / "make-secrets.sh", tmp_path / "secrets"
    shutil.copy(DEPLOY / "compose" / script.name, script)
    folder.mkdir()
    ran("sh", str(script), "whsec-first", "sk-key")
    first = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    assert set(first) == set(compose_file()["secrets"])
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    ran("sh", str(script), "whsec-second", "sk-key")
    second = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    assert [name for name in first if first[name] != second[name]] == ["tenants__acme__webhook_secrets__current"]
    assert subprocess.run(["sh", str(script)], capture_output=True, check=False, timeout=60).returncode == 2

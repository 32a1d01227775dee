"""What `deploy/` holds is valid by the tools of its formats, and agrees with the code and with itself."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from rest_bridge.envoy import EnvoyOptions
from server.catalogue import load_catalog
from server.preflight import envoy_binary
from server.secret_files import SECRETS_DIR
from server.settings import Settings, known_variables
from server.supervisor import Limits
from server.up import END_S
from tests.fakes.routes import rest_routes

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"
MANIFESTS: Final = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
CONTAINERFILE: Final = DEPLOY / "Containerfile"
PROGRAMS: Final = Path(sys.executable).parent


def checked(program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a tool that came with the locks; it must find nothing."""
    done = subprocess.run([PROGRAMS / program, *arguments], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def manifest(kind: str) -> Any:
    [found] = [read for path in MANIFESTS if (read := yaml.safe_load(path.read_text()))["kind"] == kind]
    return found


def defaults() -> Settings:
    return Settings.model_validate({})


def compose() -> Any:
    return read(DEPLOY / "compose.yaml")


def gateways() -> dict[str, Any]:
    return {name: service for name, service in compose()["services"].items() if name.startswith("gateway-")}


def container() -> Any:
    [found] = manifest("Deployment")["spec"]["template"]["spec"]["containers"]
    return found


def env_of_pod() -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container()["env"]}


def image_env() -> dict[str, str]:
    return dict(re.findall(r"(AISTATS_\w+)=(\S+)", CONTAINERFILE.read_text()))


def test_the_containerfile_is_linted() -> None:
    checked("hadolint", "--failure-threshold", "info", CONTAINERFILE)


def test_the_compose_file_is_one() -> None:
    checked("check-jsonschema", "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml")


def test_the_manifests_are_what_kubernetes_takes() -> None:
    assert len(MANIFESTS) == 6
    checked("kubernetes-validate", "--strict", *MANIFESTS)


def test_envoy_takes_the_balancers_configuration() -> None:
    command = [envoy_binary(), "--mode", "validate", "-c", DEPLOY / "balancer.yaml", "--log-level", "warning"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_every_variable_that_is_named_exists() -> None:
    known = {*known_variables(), SECRETS_DIR}
    for path in [*DEPLOY.rglob("*"), ROOT / "docs" / "deployment.md"]:
        if path.is_file():
            named = {name.upper() for name in re.findall(r"AISTATS_[A-Z_]+|aistats_[a-z]+_url", path.read_text())}
            assert named <= known, path


def test_what_the_variables_are_set_to_is_accepted() -> None:
    for given in (
        *(service["environment"] for service in gateways().values()),
        env_of_pod(),
    ):
        values = {**image_env(), **given}
        settings = Settings.model_validate(
            {name.removeprefix("AISTATS_").lower(): value for name, value in values.items()}
        )
        assert settings.valkey is not None
        assert settings.workers == 2
        assert not settings.local_model
        assert settings.log_format == "json"
        assert settings.trusted_proxies == 1
        assert (settings.http_host, settings.grpc_host) == ("0.0.0.0", "0.0.0.0")


def test_ports_and_paths_are_those_of_the_code() -> None:
    http, grpc = defaults().http_port, defaults().grpc_port
    assert f"EXPOSE {http} {grpc}\n" in CONTAINERFILE.read_text()
    assert f"http://127.0.0.1:{http}/healthz" in CONTAINERFILE.read_text()
    assert {port["name"]: port["containerPort"] for port in container()["ports"]} == {"http": http, "grpc": grpc}
    assert {port["port"]: port["targetPort"] for port in manifest("Service")["spec"]["ports"]} == {
        http: "http",
        grpc: "grpc",
    }
    assert [rule["ports"] for rule in manifest("NetworkPolicy")["spec"]["ingress"]] == [
        [{"port": "http"}, {"port": "grpc"}]
    ]
    assert any((route.method, route.path) == ("GET", "/healthz") for route in rest_routes())
    for probe in ("startupProbe", "livenessProbe"):
        assert container()[probe]["httpGet"] == {"path": "/healthz", "port": "http"}
    assert container()["readinessProbe"]["grpc"] == {"port": http}, "of the worker as a whole"
    assert EnvoyOptions("").http_port == http


def longest_end_s(drain_s: float) -> float:
    """From SIGTERM on: the drain, then Envoy, the workers and what is left, each told once before it is killed."""
    return drain_s + Limits().announce_s + 3 * END_S + Limits().cut_s


def test_nobody_is_killed_who_may_still_end() -> None:
    pod = manifest("Deployment")["spec"]["template"]["spec"]
    sleep_s = container()["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain_s = float(env_of_pod()["AISTATS_DRAIN_TIMEOUT_S"])
    assert pod["terminationGracePeriodSeconds"] >= sleep_s + longest_end_s(drain_s)
    for service in gateways().values():
        drain_s = float(service["environment"]["AISTATS_DRAIN_TIMEOUT_S"])
        assert float(service["stop_grace_period"].removesuffix("s")) >= longest_end_s(drain_s)
    probe = container()["readinessProbe"]
    assert sleep_s >= probe["periodSeconds"], "it is out of the way before it stops"


def test_the_image_is_made_from_the_locks_and_runs_as_nobody() -> None:
    text = CONTAINERFILE.read_text().replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    bases = [rest.split()[0] for word, rest in lines if word == "FROM"]
    assert set(bases) == {"python:3.11-slim"}
    installs = re.findall(r"(?:pip install|uv pip install) [^&]*", text)
    assert len(installs) == 3
    assert all("--no-deps" in install for install in installs)
    assert [install for install in installs if "--require-hashes" not in install] == [installs[-1]], "our own wheel"
    assert "dist/*.whl" in installs[-1]
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    for word, rest in lines:
        if word == "COPY" and not rest.startswith("--from="):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists()
                assert f"!{Path(source).parts[0]}" in ignored, source
    assert [rest for word, rest in lines if word == "USER"] == ["10001:10001"]
    assert not re.search(r"\b(curl|wget|http://(?!127)|https://)", text)


def test_the_balancer_knows_the_gateways_that_compose_starts() -> None:
    [cluster] = read(DEPLOY / "balancer.yaml")["static_resources"]["clusters"]
    [locality] = cluster["load_assignment"]["endpoints"]
    addresses = [entry["endpoint"]["address"]["socket_address"] for entry in locality["lb_endpoints"]]
    assert {one["address"] for one in addresses} == gateways().keys()
    assert {one["port_value"] for one in addresses} == {defaults().http_port}
    [listener] = read(DEPLOY / "balancer.yaml")["static_resources"]["listeners"]
    port = listener["address"]["socket_address"]["port_value"]
    assert compose()["services"]["balancer"]["ports"] == [f"8080:{port}"]


def test_what_compose_mounts_is_there_or_told_of() -> None:
    told = (ROOT / "docs" / "deployment.md").read_text()
    for service in compose()["services"].values():
        for volume in service.get("volumes", ()):
            source, _, target = volume.partition(":")
            assert source in compose()["volumes"] or (DEPLOY / source).is_file()
            if source == "./gateway.yaml":
                assert service["environment"]["AISTATS_CONFIG"] == target.removesuffix(":ro")
    catalog = load_catalog(DEPLOY / "gateway.yaml", {})
    named = {provider.missing_key_env for provider in catalog.providers.values()} | set(known_variables())
    for name, secret in compose()["secrets"].items():
        assert secret["file"] in told
        assert name == "postgres_password" or name.upper() in named


def test_the_catalogue_of_the_config_map_can_be_loaded(tmp_path: Path) -> None:
    [(name, text)] = manifest("ConfigMap")["data"].items()
    (tmp_path / name).write_text(text)
    assert load_catalog(tmp_path / name, {}).models
    mounts = {mount["name"]: mount["mountPath"] for mount in container()["volumeMounts"]}
    assert env_of_pod()["AISTATS_CONFIG"] == f"{mounts['config']}/{name}"
    assert env_of_pod()[SECRETS_DIR] == mounts["secrets"]
    assert image_env()["AISTATS_DATA_DIR"].startswith(mounts["data"] + "/")
    assert {"data", "tmp"} <= mounts.keys(), "nothing else can be written to"


def test_the_pods_are_as_restricted_as_can_be() -> None:
    pod = manifest("Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    for service in gateways().values():
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])


def test_the_manifests_speak_of_the_same_pods() -> None:
    deployment = manifest("Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels == manifest("Service")["spec"]["selector"]
    assert manifest("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert manifest("NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels
    scaler = manifest("HorizontalPodAutoscaler")["spec"]
    assert scaler["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert scaler["minReplicas"] >= 2
    assert "replicas" not in deployment["spec"], "each roll-out would undo what the autoscaler has done"
    cores = float(container()["resources"]["requests"]["cpu"])
    assert cores == int(env_of_pod()["AISTATS_WORKERS"])
    [claim] = [volume for volume in deployment["spec"]["template"]["spec"]["volumes"] if "secret" in volume]
    assert claim["secret"]["secretName"] in (ROOT / "docs" / "deployment.md").read_text()


@pytest.mark.parametrize("path", [*MANIFESTS, DEPLOY / "compose.yaml", DEPLOY / "balancer.yaml"], ids=lambda p: p.name)
def test_no_file_holds_a_secret(path: Path) -> None:
    assert not re.search(r"sk-|_sk_|://[^/\s]+:[^/\s]+@", path.read_text())

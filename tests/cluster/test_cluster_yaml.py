"""cluster.yaml without a cloud: Ray's own checks and scheduler, and its commands run by bash.

Only what would touch the machine (`sudo`, `mountpoint`, `uv`, `ray`) is replaced, by scripts that
note how they were called; everything else in the commands runs for real, in an empty home.
"""

import copy
import json
import os
import re
import stat
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.schema import AutoscalerInstance
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import NodeState, NodeStatus  # type: ignore[attr-defined]
from ray.core.generated.instance_manager_pb2 import Instance, NodeKind  # type: ignore[attr-defined]
from ray.serve._private import constants as serve_constants

from serve.ingress import SETTINGS

pytestmark = pytest.mark.fast

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "cluster.yaml"
START_COMMANDS = ("head_start_ray_commands", "worker_start_ray_commands")

Config = dict[str, Any]
Bundle = dict[str, float]


@pytest.fixture
def config() -> Config:
    """cluster.yaml as `ray up` reads it, before Ray's defaults."""
    return yaml.safe_load(FILE.read_text())


@pytest.fixture
def prepared(config: Config) -> Config:
    """cluster.yaml with Ray's AWS defaults filled in."""
    return prepare_config(config)


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """The [project] table of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


class Machine:
    """An empty home in which a node's commands run; `calls` holds what reached a replaced program.

    A call is its words (program first), and `environment` is what the last call was given.
    """

    # Exit status of each; mountpoint's 1 says that nothing is mounted yet.
    REPLACED = MappingProxyType(
        {"bin/sudo": 0, "bin/mountpoint": 1, ".local/bin/uv": 0, "ctray-venv/bin/ray": 0}
    )

    def __init__(self, home: Path) -> None:
        self.home = home
        self.log = home / "calls"
        for name, status in self.REPLACED.items():
            script = home / name
            script.parent.mkdir(parents=True, exist_ok=True)
            script.write_text(
                '#!/bin/bash\n{ printf "%s\\t" "${0##*/}" "$@"; echo; } >> ~/calls\n'
                f"env > ~/env\nexit {status}\n"
            )
            script.chmod(0o755)
        token = home / ".ray" / "auth_token"
        token.parent.mkdir()
        token.write_text("t" * 64)
        token.chmod(0o644)  # how `ray get-auth-token --generate` leaves it

    def run(self, *commands: str) -> None:
        """Run commands as `ray up` does, one shell each; a failing one fails the test."""
        environment = {
            "HOME": str(self.home),
            "PATH": f"{self.home / 'bin'}:{os.environ['PATH']}",
            "RAY_HEAD_IP": "10.9.8.7",
        }
        for command in commands:
            done = subprocess.run(
                ["bash", "-c", command], env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"

    @property
    def calls(self) -> list[list[str]]:
        """The words of every call so far, in order."""
        return [line.rstrip("\t").split("\t") for line in self.log.read_text().splitlines()]

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the last call."""
        lines = (self.home / "env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A node before its set-up."""
    return Machine(tmp_path)


def only(calls: list[list[str]], *start: str) -> list[str]:
    """The one call that starts with these words."""
    found = [call for call in calls if tuple(call[: len(start)]) == start]
    assert len(found) == 1, calls
    return found[0]


def launches(config: Config, *bundles: Bundle) -> dict[str, int]:
    """Machines that Ray's autoscaler starts for these waiting bundles when only the head is up."""
    autoscaling = AutoscalingConfig(config, skip_content_hash=True)
    head_type = autoscaling.get_head_node_type()
    resources = autoscaling.get_node_resources(head_type)
    head = AutoscalerInstance(
        cloud_instance_id="head",
        ray_node=NodeState(
            node_id=b"head",
            instance_id="head",
            ray_node_type_name=head_type,
            status=NodeStatus.RUNNING,
            total_resources=resources,
            available_resources=resources,
        ),
        im_instance=Instance(
            instance_id="head",
            cloud_instance_id="head",
            instance_type=head_type,
            status=Instance.RAY_RUNNING,
            node_kind=NodeKind.HEAD,
        ),
    )
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=autoscaling.get_node_type_configs(),
        max_num_nodes=autoscaling.get_max_num_nodes(),
        resource_requests=ResourceRequestUtil.group_by_count(
            [ResourceRequestUtil.make(bundle) for bundle in bundles]
        ),
        current_instances=[head],
    )
    reply = ResourceDemandScheduler(None).schedule(request)
    return {launch.instance_type: launch.count for launch in reply.to_launch}


def test_ray_accepts_the_file(prepared: Config) -> None:
    validate_config(prepared)


@pytest.mark.parametrize(
    ("place", "typo"),
    [
        ((), "idle_timeout_minute"),
        ((), "head_start_ray_command"),
        (("available_node_types", "gpu_worker"), "max_worker"),
        (("provider", "security_group"), "GroupNames"),
    ],
)
def test_ray_refuses_a_misspelt_key(config: Config, place: tuple[str, ...], typo: str) -> None:
    broken = copy.deepcopy(config)
    target = broken
    for key in place:
        target = target[key]
    target[typo] = 1
    with pytest.raises(jsonschema.ValidationError, match=typo):
        validate_config(prepare_config(broken))


def test_none_of_the_dangerous_defaults_is_left(config: Config, prepared: Config) -> None:
    """prepare_config fills gaps from AWS's defaults: a nightly Ray, an open dashboard."""
    assert prepared["head_setup_commands"] == config["setup_commands"]
    assert prepared["worker_setup_commands"] == config["setup_commands"]
    for name in START_COMMANDS:
        assert prepared[name] == config[name]
    for text in (FILE.read_text(), json.dumps(prepared)):
        assert "0.0.0.0" not in text
        assert "ray-wheels" not in text
    assert "IpPermissions" not in prepared["provider"]["security_group"]


@pytest.mark.parametrize(
    ("bundles", "expected"),
    [
        ([], {}),
        ([{"CPU": 1}], {"data_worker": 1}),
        ([{"CPU": 1}] * 20, {"data_worker": 3}),
        ([{"GPU": 1}], {"gpu_worker": 1}),
        ([{"CPU": 3, "GPU": 1}] * 3, {"gpu_worker": 3}),
        ([{"GPU": 1}] * 6, {"gpu_worker": 4}),
        ([{"GPU": 2}], {}),
    ],
)
def test_autoscaler_grows_the_right_pool_from_zero(
    config: Config, bundles: list[Bundle], expected: dict[str, int]
) -> None:
    assert launches(config, *bundles) == expected


def test_a_head_with_cpus_would_take_work(config: Config) -> None:
    """Control for the test above: what keeps work off the head is its `CPU: 0`."""
    config["available_node_types"]["head"]["resources"]["CPU"] = 4
    assert launches(config, {"CPU": 1}) == {}


def test_pools_start_empty_and_fill_the_cluster(prepared: Config) -> None:
    types = prepared["available_node_types"]
    head = types.pop(prepared["head_node_type"])
    assert (head["min_workers"], head["max_workers"], head["resources"]) == (0, 0, {"CPU": 0})
    assert "InstanceMarketOptions" not in head["node_config"]
    assert {name: pool["min_workers"] for name, pool in types.items()} == {
        "gpu_worker": 0,
        "data_worker": 0,
    }
    assert prepared["max_workers"] == sum(pool["max_workers"] for pool in types.values())
    assert prepared["idle_timeout_minutes"] > 0


def test_every_node_runs_the_tested_ray_and_python(
    config: Config, machine: Machine, project: dict[str, Any]
) -> None:
    machine.run(*config["setup_commands"])
    install = only(machine.calls, "uv", "pip", "install")
    (pin,) = [Requirement(word) for word in install if word.startswith("ray[")]
    version = metadata.version("ray")
    assert str(pin.specifier) == f"=={version}"
    (wanted,) = [r for r in map(Requirement, project["dependencies"]) if r.name == "ray"]
    assert wanted.specifier.contains(version)

    venv = only(machine.calls, "uv", "venv")
    python = venv[venv.index("--python") + 1]
    assert SpecifierSet(project["requires-python"]).contains(python)
    assert install[install.index("--python") + 1] == f"{venv[-1]}/bin/python"


def test_set_up_installs_the_mounted_checkout_with_a_known_extra(
    config: Config, machine: Machine, project: dict[str, Any]
) -> None:
    machine.run(*config["setup_commands"])
    target = only(machine.calls, "uv", "pip", "install")[-1]
    match = re.fullmatch(r"(?P<path>/.+)\[(?P<extra>.+)\]", target)
    assert match is not None, target
    assert match["extra"] in project["optional-dependencies"]
    mounted = match["path"].replace(str(machine.home), "~")
    assert config["file_mounts"][mounted] == "."
    assert {".git", ".venv"} <= set(config["rsync_exclude"])


def test_set_up_can_run_twice(config: Config, machine: Machine) -> None:
    machine.run(*config["setup_commands"], *config["setup_commands"])
    assert (machine.home / ".bashrc").read_text().splitlines() == [". ~/ctray.env"]


def test_token_reaches_every_node_and_only_its_owner_reads_it(
    config: Config, machine: Machine
) -> None:
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    machine.run(*config["setup_commands"])
    token = machine.home / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700


def test_shared_folder_is_mounted_from_the_region_of_the_cluster(
    config: Config, machine: Machine
) -> None:
    machine.run(*config["setup_commands"])
    *_, source, target = only(machine.calls, "sudo", "mount")
    assert target == "/shared"
    assert f".{config['provider']['region']}.amazonaws.com:" in source


@pytest.mark.parametrize("name", START_COMMANDS)
def test_start_commands_turn_token_authentication_on(config: Config, name: str) -> None:
    assert config[name]
    for command in config[name]:
        assert "RAY_AUTH_MODE=token ray " in command


def test_head_keeps_its_dashboard_on_loopback_and_runs_the_autoscaler(
    config: Config, machine: Machine
) -> None:
    machine.run(*config["setup_commands"], *config["head_start_ray_commands"])
    start = only(machine.calls, "ray", "start")
    assert {"--head", "--port=6379", "--dashboard-host=127.0.0.1"} <= set(start)
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in start


def test_worker_joins_the_head(config: Config, machine: Machine) -> None:
    machine.run(*config["setup_commands"], *config["worker_start_ray_commands"])
    assert "--address=10.9.8.7:6379" in only(machine.calls, "ray", "start")


@pytest.mark.parametrize("name", START_COMMANDS)
def test_ray_starts_with_the_settings_of_serve(config: Config, machine: Machine, name: str) -> None:
    machine.run(*config["setup_commands"], *config[name])
    assert machine.calls[-1][:2] == ["ray", "start"]
    environment = machine.environment
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["CTRAY_REGISTRY"] == "/shared/registry"
    serve = {key: value for key, value in environment.items() if key.startswith("RAY_SERVE_")}
    assert serve == {one.variable: one.value for one in SETTINGS if one.on_clusters}
    assert serve["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    assert serve["RAY_SERVE_HAPROXY_RETRY_ON"] == "conn-failure empty-response"
    assert serve["RAY_SERVE_HAPROXY_RETRIES"] == "3"
    buffer = int(serve["RAY_SERVE_HAPROXY_TUNE_BUFSIZE"])
    connections = int(serve["RAY_SERVE_HAPROXY_MAXCONN"])
    assert 2 * buffer * connections <= 4 * 2**30


def test_ray_serve_reads_each_setting(config: Config) -> None:
    """Ray ignores an unknown variable, so a misspelt one would do nothing."""
    names = set(re.findall(r"RAY_SERVE_\w+", json.dumps(config["setup_commands"])))
    assert names == {one.variable for one in SETTINGS if one.on_clusters}
    assert [name for name in names if not hasattr(serve_constants, name)] == []


def test_the_file_names_all_that_must_be_edited() -> None:
    marked = [line for line in FILE.read_text().splitlines() if re.search(r"# EDIT \d$", line)]
    assert len(marked) == 3
    for number, word in enumerate(("region:", "ImageId:", ".efs."), start=1):
        assert word in marked[number - 1]
        assert marked[number - 1].endswith(f"# EDIT {number}")
    unmarked = set(FILE.read_text().splitlines()) - set(marked)
    assert [line for line in unmarked if "EDIT-ME" in line] == []

"""The settings of the HAProxy ingress: one table that Ray, cluster.yaml and the docs agree with."""

import os
import re
from pathlib import Path

import pytest
from ray.serve._private import constants as serve_constants

from serve import ingress
from serve.ingress import SETTINGS

pytestmark = pytest.mark.fast

PAGE = Path(__file__).resolve().parents[2] / "docs" / "serving.md"
ON_CLUSTERS = {one.variable: one for one in SETTINGS if one.on_clusters}


def test_ray_serve_reads_each_variable() -> None:
    """Ray ignores an unknown variable, so a misspelt one would do nothing."""
    assert [one.variable for one in SETTINGS if not hasattr(serve_constants, one.variable)] == []
    assert len({one.variable for one in SETTINGS}) == len(SETTINGS)


def test_what_a_cluster_needs_has_a_fixed_value() -> None:
    assert all(isinstance(one.value, str) for one in ON_CLUSTERS.values())


def test_the_page_lists_what_a_cluster_needs_with_the_reason() -> None:
    [block] = re.findall(r"```sh\n(# .*?RAY_SERVE_.*?)```", PAGE.read_text(), flags=re.DOTALL)
    shown = re.findall(r"((?:# .*\n)+)export (\w+)=(.*)\n", block)
    assert [
        (name, value.strip('"'), " ".join(line.removeprefix("# ") for line in why.splitlines()))
        for why, name, value in shown
    ] == [(one.variable, one.value, one.why) for one in ON_CLUSTERS.values()]
    assert len(re.findall("RAY_SERVE_", block)) == len(shown)


def test_the_environment_is_set_for_a_block_and_gone_with_its_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for one in SETTINGS:
        monkeypatch.delenv(one.variable, raising=False)
    monkeypatch.setenv("RAY_SERVE_HAPROXY_MAXCONN", "7")
    with ingress.environment():
        values = {one.variable: os.environ[one.variable] for one in SETTINGS}
        folder = Path(values["RAY_SERVE_HAPROXY_SERVER_STATE_BASE"])
        assert folder.stat().st_mode & 0o777 == 0o700
    assert values.pop("RAY_SERVE_HAPROXY_MAXCONN") == "7"
    for name, one in ON_CLUSTERS.items():
        assert values.get(name, one.value) == one.value
    paths = [value for value in values.values() if value.startswith(str(folder))]
    assert len(paths) == 5
    # Serve adds 56 characters to the path of a socket, which may have 97.
    assert all(len(path) <= 40 for path in paths)
    assert not folder.exists()
    assert not {one.variable for one in SETTINGS} & set(os.environ) - {"RAY_SERVE_HAPROXY_MAXCONN"}

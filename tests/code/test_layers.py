"""Every module has its place among the layers that `make lint` holds."""

import re
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.fast

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("ctray", "tuning", "serve")


def places() -> dict[str, list[str]]:
    """Of each package with an exhaustive contract: the modules that its layers name."""
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]
    found: dict[str, list[str]] = {}
    for contract in settings["contracts"]:
        if contract["type"] == "layers" and contract.get("exhaustive"):
            for package in contract["containers"]:
                found[package] = re.findall(r"\w+", " ".join(contract["layers"]))
    return found


def modules() -> list[str]:
    """All modules below the three packages, by their dotted names."""
    found = []
    for package in PACKAGES:
        for file in sorted((REPOSITORY / package).rglob("*.py")):
            parts = file.relative_to(REPOSITORY).with_suffix("").parts
            found.append(".".join(parts).removesuffix(".__init__"))
    return [name for name in found if name not in PACKAGES]


def test_every_module_has_a_place_among_the_layers() -> None:
    named = places()
    for module in modules():
        package, _, name = module.rpartition(".")
        assert package in named, (
            f"the package {package} has no exhaustive contract in pyproject.toml: {module} has no "
            "place"
        )
        assert name in named[package], (
            f"{module} has no place: put it into a layer of {package} in pyproject.toml"
        )


def test_no_module_has_two_places_in_its_package() -> None:
    for package, names in places().items():
        assert len(set(names)) == len(names), package

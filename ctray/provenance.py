"""When and with what something was made."""

import importlib.metadata
import platform
from datetime import UTC, datetime


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a result."""
    packages = ("ctray", "ray", "torch", "torchvision", "timm", "albumentations", "openvino")
    found = {name: importlib.metadata.version(name) for name in packages}
    return {"python": platform.python_version(), **found}


def now() -> str:
    """The time in UTC, ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")

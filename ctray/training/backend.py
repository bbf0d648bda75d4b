"""Ray Train's torch backend, without torch in the processes that only direct.

Ray's own configuration imports torch where it is unpickled: in the driver and in the controller,
one after the other, before the workers' processes exist. This one hands on to Ray's backend when
the workers are there, and lets them import the model's libraries meanwhile.
"""

import threading
from typing import Any

from ray.train.backend import Backend, BackendConfig


class LazyTorchBackend(Backend):
    """Ray's torch backend, imported when it is first used."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Set the process group up while the workers import."""
        worker_group.execute_async(_import_meanwhile)
        self._theirs().on_start(worker_group, self._config())

    def on_training_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Hand on."""
        self._theirs().on_training_start(worker_group, self._config())

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Hand on."""
        self._theirs().on_shutdown(worker_group, self._config())

    def _theirs(self) -> Any:
        from ray.train.torch.config import _TorchBackend

        return _TorchBackend()

    def _config(self) -> Any:
        from ray.train.torch import TorchConfig

        return TorchConfig()


class LazyTorchConfig(BackendConfig):
    """Selects it: nccl on GPUs, gloo on CPUs."""

    @property
    def backend_cls(self) -> type[Backend]:
        """The backend."""
        return LazyTorchBackend


def _import_meanwhile() -> None:
    threading.Thread(target=_import, name="imports", daemon=True).start()


def _import() -> None:
    import timm  # noqa: F401

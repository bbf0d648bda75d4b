"""Ray Train's torch backend, without torch in the processes that only direct.

Ray's own imports torch where its configuration is unpickled and where the process group is set up
from: in the driver and in the controller, which takes each of them seconds. This one does what it
does from within the workers, who need torch anyway, and lets them import it while they start.
"""

import contextlib
import os
import threading
from typing import Any

import ray
from ray.exceptions import GetTimeoutError
from ray.train._internal.utils import get_address_and_port
from ray.train.backend import Backend, BackendConfig

# As long as Ray's own waits for the process group to end.
_SHUTDOWN_S = 30.0


class LazyTorchBackend(Backend):
    """Sets up and ends torch's process group: nccl where workers have GPUs, otherwise gloo."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Set it up while the workers import."""
        worker_group.execute_async(_import_meanwhile)
        place = worker_group.execute_single(0, get_address_and_port)
        backend = "nccl" if worker_group.get_resources_per_worker().get("GPU", 0) else "gloo"
        world = len(worker_group)
        ray.get(
            [
                worker_group.execute_single_async(rank, _join, backend, rank, world, *place)
                for rank in range(world)
            ]
        )

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """End it, and free what GPUs hold."""
        leaving = worker_group.execute_async(_leave, len(worker_group) > 1)
        with contextlib.suppress(GetTimeoutError):
            ray.get(leaving, timeout=_SHUTDOWN_S)


class LazyTorchConfig(BackendConfig):
    """Selects it."""

    @property
    def backend_cls(self) -> type[Backend]:
        """The backend."""
        return LazyTorchBackend


def _import_meanwhile() -> None:
    # It has this process's environment; the first data task finds it at work or idle.
    ray.remote(num_cpus=0)(_import_stream).remote()
    threading.Thread(target=_import, name="imports", daemon=True).start()


def _import() -> None:
    import timm  # noqa: F401


def _import_stream() -> None:
    import ctray.data.stream  # noqa: F401


def _join(backend: str, rank: int, world: int, address: str, port: int) -> None:
    from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group

    os.environ |= {"MASTER_ADDR": address, "MASTER_PORT": str(port)}
    _set_torch_distributed_env_vars()
    _setup_torch_process_group(backend, rank, world, "env://")


def _leave(is_shared: bool) -> None:
    from ray.train.torch.config import _shutdown_torch

    _shutdown_torch(destroy_process_group=is_shared)

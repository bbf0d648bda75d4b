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
from ray.train.backend import Backend, BackendConfig

from ctray import ray_internals
from ctray.ray_internals import get_address_and_port

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
        leave = ray_internals.leave_process_group
        leaving = worker_group.execute_async(leave, len(worker_group) > 1)
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
    os.environ |= {"MASTER_ADDR": address, "MASTER_PORT": str(port)}
    ray_internals.join_process_group(backend, rank, world)

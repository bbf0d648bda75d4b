"""A Ray cluster with the service's ingress settings, in a process of its own, until stdin closes.

Ray Serve reads its settings when it is imported, so they cannot be given to a process that has
already imported it. Prints the addresses of the dashboard and of
the cluster as JSON.
"""

import json
import sys

from serve.__main__ import _ingress_environment

if __name__ == "__main__":
    with _ingress_environment():
        import ray
        from ray import serve as ray_serve

        from ctray.process import free_port

        ray.init("local", include_dashboard=True, dashboard_port=free_port(), log_to_driver=False)
        node = ray._private.worker._global_node
        assert node is not None
        addresses = {"dashboard": f"http://{node.webui_url}", "cluster": node.gcs_address}
        print(json.dumps(addresses), flush=True)
        try:
            sys.stdin.read()
        finally:
            ray_serve.shutdown()
            ray.shutdown()

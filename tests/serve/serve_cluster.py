"""A Ray cluster with the service's ingress settings, in a process of its own, until stdin closes.

Ray Serve reads its settings when it is imported, so they cannot be given to a process that has
already imported it. Prints the addresses of the dashboard and of the cluster as JSON.
"""

import json
import sys

from serve import ingress

if __name__ == "__main__":
    with ingress.environment():
        import ray
        from ray import serve as ray_serve

        from ctray.session import free_port

        context = ray.init(
            "local", include_dashboard=True, dashboard_port=free_port(), log_to_driver=False
        )
        addresses = {
            "dashboard": f"http://{context.dashboard_url}",
            "cluster": context.address_info["gcs_address"],
        }
        print(json.dumps(addresses), flush=True)
        try:
            sys.stdin.read()
        finally:
            ray_serve.shutdown()
            ray.shutdown()

"""A Ray cluster with the service's ingress settings, in a process of its own, until stdin closes.

Ray Serve reads its settings when it is imported, so they cannot be given to a process that has
already imported it. Prints the addresses of the dashboard and of the cluster as JSON. Then each
line of stdin is the path of a file for `serve deploy`, answered by a line that says DEPLOYED: the
command itself would take seconds to import Ray every time.
"""

import contextlib
import json
import sys

from serve import ingress

DEPLOYED = "deployed"

if __name__ == "__main__":
    with ingress.environment():
        import ray
        from ray import serve as ray_serve
        from ray.serve.scripts import deploy

        from ctray.process import free_port

        context = ray.init(
            "local", include_dashboard=True, dashboard_port=free_port(), log_to_driver=False
        )
        addresses = {
            "dashboard": f"http://{context.dashboard_url}",
            "cluster": context.address_info["gcs_address"],
        }
        print(json.dumps(addresses), flush=True)
        try:
            for line in sys.stdin:
                with contextlib.redirect_stdout(sys.stderr):
                    arguments = [line.strip(), "--address", addresses["dashboard"]]
                    deploy.main(arguments, standalone_mode=False)
                print(DEPLOYED, flush=True)
        finally:
            ray_serve.shutdown()
            ray.shutdown()

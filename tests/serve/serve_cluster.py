"""A Ray cluster with the service's ingress settings, in a process of its own, until stdin closes.

Ray Serve reads its settings when it is imported, so they cannot be given to a process that has
already imported it. Prints the dashboard's address.
"""

import sys

from serve.__main__ import _ingress_environment

if __name__ == "__main__":
    with _ingress_environment():
        import ray

        from ctray.session import ray_session
        from serve import app

        with ray_session():
            node = ray._private.worker._global_node
            assert node is not None
            print(f"http://{node.webui_url}", flush=True)
            try:
                sys.stdin.read()
            finally:
                app.stop()

"""The service: a bundle behind `POST /v1/predict`, as one Ray Serve application.

`python -m serve` starts it (`__main__.py` parses, `running.py` runs). `serve.app:app` and
serve.yaml are for Ray's own `serve run` and `serve deploy`.

- `settings.py`: every setting.  `ingress.py`: those of HAProxy, which stands before the replicas.
- `app.py`: the replicas; the only file that meets `ray.serve`.
- `api.py`: the HTTP application of a replica, put together from
  `routes/` (one file a protocol), `guards/` (what a request must pass before its route: limits, and
  the place for keys), `plain_requests.py` (HEAD, slashes), `request_ids.py` and `problems.py` (how
  it refuses). `schema.py` types the replies; `host.py` is what routes need from the replica.
"""

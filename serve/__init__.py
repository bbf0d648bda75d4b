"""The service: a bundle behind `POST /v1/predict`, as one Ray Serve application.

`python -m serve` starts it; `serve.app:app` and serve.yaml are for Ray's own `serve run` and
`serve deploy`. Routes are in api.py, request bodies in body.py, types in schema.py.
"""

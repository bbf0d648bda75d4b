"""From logits to an answer: one module a part, and `decide`, which puts them together.

Every part has the same two functions and a strict pydantic model of what it fitted, so that its
parameters can be kept in a bundle:

    fit(logits, labels, groups) -> Params
    apply(params, logits, features) -> what the next part takes

`logits` is float32 (N, classes), `labels` int64 (N,), `groups` (N,) with equal values for records
of one group, `features` float32 (N, D) or None where the engine gives none. A part is fitted on the
validation split only, as the bundle keeps it (`ctray.artefact.parts.Validation`).

A new part is
- a module here, with its place in the layers of pyproject.toml;
- in `decide`: a field of `DecisionParams`, a line in `fit` and a line in `decide`;
- with the first part that fits something: `build_bundle` in `ctray.artefact.build` passes what
  `decide.fit` returns as `Contents.decision`, and `SCHEMA` in `ctray.artefact.parts` goes up by
  one, since an earlier ctray knows no `decision.json`.

Nothing here imports torch.
"""

"""Run a bundle fast: one interface, a torch engine and an OpenVINO engine."""

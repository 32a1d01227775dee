"""Figures for the operator: counted in each worker, gathered by the supervisor, read by Prometheus."""

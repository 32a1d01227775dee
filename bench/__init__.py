"""Speed and memory of the gateway, measured on the machine at hand. `make bench` runs it; see docs/benchmarks.md."""

"""Adapters: one per dialect that upstreams speak. They see nothing of ours but the domain."""

"""Videos under `kill -9`: two whole gateways on one PostgreSQL, and at the end everybody's account of every job."""

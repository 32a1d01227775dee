"""A run of kills, cuts and departures through a real gateway, and an independent reckoning of its books afterwards."""

"""Requests made of the description, sent to a whole gateway, and its replies held to the description."""

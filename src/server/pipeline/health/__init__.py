"""How offers are doing: figures, breakers, ranking, and what is shared of them. Clock and randomness are given."""

"""`replay`: the log once more, with today's code, into new tables or into topics of its own."""

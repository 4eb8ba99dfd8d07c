"""All SQL. Each module holds one table's verbs; `database` opens, checks and migrates."""

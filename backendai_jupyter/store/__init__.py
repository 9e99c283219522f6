"""All SQL: what must survive every process, in SQLite or PostgreSQL."""

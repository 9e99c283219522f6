"""Tests of the SQL room, each on its own SQLite file."""

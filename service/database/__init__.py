"""Rows: the engine, the tables, the migrations that make them."""

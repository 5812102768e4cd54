"""Compiled arithmetic on plain arrays; modules here are imported where they are used."""

"""Readers of untrusted files: tables, arrays, pictures, texts, LEAF's JSON."""

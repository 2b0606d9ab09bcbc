"""The record, shown: one report in, one format out."""

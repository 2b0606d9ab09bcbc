"""Declared cases: files of prompts that are known before their tests run."""

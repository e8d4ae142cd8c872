"""Recipes and runs."""

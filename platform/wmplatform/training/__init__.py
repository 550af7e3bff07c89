"""Learner and loops."""

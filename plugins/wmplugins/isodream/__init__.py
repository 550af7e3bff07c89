"""Iso-Dream (Pan et al. 2022): a world model that keeps apart what an agent controls."""

"""Leaderboard files: what stands in them, the same for people, and where every number came from."""

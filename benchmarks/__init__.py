"""Measurements of mmpu against TRL and a careful plain loop; see README.md beside this file.

Run from the repository's root, one command each: `python -m benchmarks.b0_gate`, `… .b1_counted`, `… .b2_update`,
`… .b3_end_to_end`.
"""

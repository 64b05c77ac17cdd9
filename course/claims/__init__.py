"""The claims of the literature: their records, the rule of the verdicts, tables and picture, runs with other seeds."""

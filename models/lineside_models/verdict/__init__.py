"""From candidates to a verdict: rules, regions, and classes of good parts."""

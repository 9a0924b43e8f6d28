"""Statistics of the results of a hub.

| file | what |
| --- | --- |
| `counts` | counts by verdict, time and defect type from the tables of hours, which triggers keep |
| `reviews` | false rejects and escapes, from what people decided |
| `control_chart` | p-chart with limits and run rules (pure) |
| `comparison` | two rates and their difference, with intervals |

All functions take the runner of statements of `lineside_hub.results.sql`, so that one connection serves a whole page.
"""

__all__ = ["comparison", "control_chart", "counts", "reviews"]

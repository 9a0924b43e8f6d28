"""The relabel loop: people correct frames from the line, and the next training uses them.

| file | what |
| --- | --- |
| `reviews` | the table ``reviews``: corrections and marks of people, operators' marks included |
| `selection` | which results people should look at: unsure, bad, marked as wrong |
| `coco` | the file that annotation tools read and write |
| `catalogue` | images as they were exported: size, result, the model's boxes; types of the bundles |
| `export` | frames and the model's boxes, into a folder for an annotation tool |
| `validation` | checks a corrected file against its images and types |
| `box_changes` | the model's boxes compared with a person's: kept, moved, another type, added, deleted |
| `folds` | the fold of each frame |
| `collection` | the dataset of corrected frames, with its history and folds |
| `importer` | a corrected file into the dataset and into ``reviews`` |
| `new_frames` | corrected frames that one bundle has judged |
| `report` | where model and people disagree, over the whole history |
"""

__all__ = ["export", "importer", "new_frames", "report", "reviews", "selection"]

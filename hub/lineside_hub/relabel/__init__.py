"""The relabel loop: frames that came from the line are corrected by people, and the next training takes them in.

| file | what |
| --- | --- |
| `reviews` | the table ``reviews``: what people said of a result |
| `operator_marks` | operators' marks, from the devices' reports |
| `selection` | which results go to people: unsure, bad, marked as wrong |
| `coco` | the file that annotation tools read and write |
| `labels` | which types the bundles know that judged |
| `export` | frames and the model's boxes, into a folder for such a tool |
| `catalogue` | what an image of a corrected file was before: its size, its result, the model's boxes |
| `validation` | a corrected file against its images and types |
| `box_changes` | the model's boxes beside a person's: kept, moved, another type, added, deleted |
| `folds` | which fold a frame goes into: its group's |
| `collection` | the data set that corrected frames become, with its history and its folds |
| `report` | where model and people disagree, over the whole history |
| `importer` | a corrected file into the data set, and into ``reviews`` |
"""

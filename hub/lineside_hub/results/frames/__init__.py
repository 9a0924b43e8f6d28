"""Frames uploaded by devices: the images behind the results.

| file | what |
| --- | --- |
| `inbox` | the thread: offers and pieces from the devices, and the answers to them |
| `parts` | images that are half here, a file a device |
| `image` | is it a PNG of the size that its record says? |
| `rows` | the table ``frames``, beside the results in either database |
| `place` | where the content lies, by its hash |
| `retention` | what goes when there is too much, or it is too old |
"""

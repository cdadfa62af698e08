"""A report for people: as `text`, or as `html`.

`story` tells events in sentences, with the provenance of each value. `markup` is the one place where text
becomes HTML, and `html_values` shows values and what differs between two.
"""

"""RGB-D data as it lies on disk, read by a description: no code for a data set.

`description`: the schema; `reading`: one from its file; `template`: names with holes; `listing`: which samples there
are; `depth_files`: depth as metres; `labels`: classes and their pixels; `sunrgbd`: the one data set whose list is a
format of its own; `source`.
"""

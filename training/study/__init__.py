"""`train study`: runs, what becomes of them, and Table 3, from one file.

`config` is the file; `plan` its units of work, checked against shards and folder; `stages` what becomes of a run;
`work` how processes share the units; `summary` what is told. `command` imports no torch.
"""

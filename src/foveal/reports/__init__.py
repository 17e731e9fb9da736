"""Reports: the tables of folders of runs, read from what training left there."""

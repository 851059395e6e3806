"""What every other room may use, and what knows nothing of models.

arguments  arguments of public functions, checked by their annotations
errors     the one exception that means: the input is at fault
files      files that appear whole or not at all, and what a disk refuses
images     images from files
parquet    tables of any writer as plain ones
paths      the layout of the data folder
progress   progress bars
schema     the table contract
stats      intervals, tests and areas, for many columns at once
types      types that several rooms share
unreadable files that cannot be read: what the system refuses, or what is in them
"""

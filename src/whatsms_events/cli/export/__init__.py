"""`export`: all that is held of one person, as a folder to hand out."""

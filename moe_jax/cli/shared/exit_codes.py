"""What `moe-jax` returns to the shell. `--help` prints this table."""

OK = 0
FAILED = 1
USER_ERROR = 2
DIVERGED = 3
NOT_HIDDEN = 4
PREEMPTED = 75
INTERRUPTED = 130

TABLE = """\
exit codes:
  0    done
  1    an unexpected failure (a bug, or a machine in trouble): the traceback says where
  2    a mistake in the command, the configuration, the data or a checkpoint: the message says what
  3    training stopped because its loss was no longer finite
  4    plan --require-hidden: less communication hides behind compute than was asked for
  75   the scheduler asked the job to end; it saved and can be resumed with the same command
  130  interrupted from the keyboard"""

"""What `moe-jax` returns to the shell. `--help` prints this table."""

OK = 0
FAILED = 1
USER_ERROR = 2
DIVERGED = 3
NOT_HIDDEN = 4
#: sysexits.h: EX_SOFTWARE.
DEFECT = 70
#: sysexits.h: EX_TEMPFAIL.
PREEMPTED = 75
INTERRUPTED = 130
#: What a shell reports of a program that SIGPIPE has ended.
READER_GONE = 141

TABLE = """\
exit codes:
  0    done
  1    the machine or a library failed (memory, network, driver): the traceback says where
  2    a mistake in the command, the configuration, the data or a checkpoint: the message says what
  3    training stopped because its loss was no longer finite
  4    plan --require-hidden: less communication hides behind compute than was asked for
  70   a defect of moe-jax: the traceback says where, the last line what to report
  75   the scheduler asked the job to end; it saved and can be resumed with the same command
  130  interrupted from the keyboard
  141  who read the output has stopped reading"""

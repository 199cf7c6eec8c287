"""Names of the mesh axes, outer to inner. Every mesh has all of them; an unused one has size 1."""

PIPE = "pipe"
DATA = "data"
FSDP = "fsdp"
EXPERT = "expert"
TENSOR = "tensor"

AXES = (PIPE, DATA, FSDP, EXPERT, TENSOR)

#: Axes that split the batch. Dense layers use the expert axis as data parallelism; what runs
#: outside the pipeline (embedding, loss) does so with the pipe axis too.
BATCH_AXES = (PIPE, DATA, FSDP, EXPERT)

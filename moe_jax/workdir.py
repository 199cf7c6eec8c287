"""The names of what lies in a working directory.

A run, a conversion and an upcycled model leave the same kind of directory behind:

    config.toml       the resolved config
    checkpoints/      see `moe_jax.checkpoint`
    set-aside/        checkpoints that a run left behind when it went back to an earlier one
    tokenizer/        files of an imported model's tokenizer, if it has one
    metrics.jsonl     one record a step, of a run
    tensorboard/      the same for TensorBoard, if `metrics.writers` asks for it
    wandb_id.txt      which run of Weights & Biases it is, likewise
    profile/          traces of `train.profile_steps`

What the files hold is the business of those who write them.
"""

CONFIG = "config.toml"
CHECKPOINTS = "checkpoints"
SET_ASIDE = "set-aside"
TOKENIZER = "tokenizer"
METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
WANDB_ID = "wandb_id.txt"
PROFILE = "profile"

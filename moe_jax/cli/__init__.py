from moe_jax.cli.shared.quiet import import_jax

# Before any verb's modules import it.
import_jax()
